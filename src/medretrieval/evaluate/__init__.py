"""Stage 3: scores of every query from hits and counts, and their means."""
