"""A question to a finished run: nearest images, and whether the query is like the gallery at all."""
