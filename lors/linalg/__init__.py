"""Linear algebra of task vectors: low-rank parts, sparse parts, singular values."""
