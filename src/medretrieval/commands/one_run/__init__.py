"""Verbs that open one finished run."""
