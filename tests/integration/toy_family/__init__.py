"""A model family outside the package ``lors``: it knows words by their loudness."""
