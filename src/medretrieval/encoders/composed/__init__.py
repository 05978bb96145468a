"""Encoders made of others: fusion, a sentence tower beside an image tower."""
