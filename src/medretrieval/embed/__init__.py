"""Stage 1: images and sentences to embeddings, kept in the cache, resumable."""
