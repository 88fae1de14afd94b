"""LoRS: multi-lingual speech recognition and translation by low-rank and sparse model merging."""

__version__ = "0.1.0"
