"""Verbs about the runs of a folder or a sweep."""
