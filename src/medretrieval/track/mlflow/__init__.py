"""MLflow behind its tracker: the store, runs logged to it, notes and saved views, and where it is opened."""
