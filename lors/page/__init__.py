"""The page of an experiment: one HTML file, with tables and plots, made from result files."""
