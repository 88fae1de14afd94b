"""Checkpoints: read and written as data, one tensor at a time, under any of their names."""
