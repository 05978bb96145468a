"""Where runs are recorded: what a tracker is, MLflow and JSON lines, and finding runs again."""
