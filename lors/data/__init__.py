"""Corpora as Kaldi data directories, and a synthetic corpus."""
