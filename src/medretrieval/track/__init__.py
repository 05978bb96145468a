"""Where runs are recorded: the tracker protocol, MLflow, and finding runs again."""
