"""Stages of a recipe: training, search on dev, inference, report and status."""
