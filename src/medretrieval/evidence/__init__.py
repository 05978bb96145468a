"""Stage 4: what stands beside the scores: intervals, baselines, losses, failures. Nothing is drawn here."""
