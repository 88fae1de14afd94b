"""Figures as PNG files; matplotlib is imported only when a figure is drawn."""
