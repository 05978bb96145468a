"""What each stage between embed and evaluate changes: the score without it and with it."""
