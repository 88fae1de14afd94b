"""Corpora: reading real ones and making a synthetic one."""
