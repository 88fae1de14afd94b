"""Sub-networks of languages in one model: finding their masks, training under them, their overlap.

After S3Net, "Language Adaptive Cross-lingual Speech Representation Learning with Sparse Sharing
Sub-networks" (arXiv 2203.04583).
"""
