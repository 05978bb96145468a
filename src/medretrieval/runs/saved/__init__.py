"""The runs and sweeps of an outputs folder: listed, named by a word, removed."""
