"""Runs beside the rows of a published table."""
