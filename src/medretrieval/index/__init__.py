"""Stage 2: FAISS indexes, distances, exact search, and how well and how fast an index answers."""
