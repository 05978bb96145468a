"""What a run says of its stages between embed and evaluate: rows of tables, and notes."""
