"""Verbs about what runs start from: data, and what is kept between runs."""
