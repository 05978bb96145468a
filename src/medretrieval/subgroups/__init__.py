"""Scores beside the mean: by values of metadata, and what of them goes by a value or by the patient."""
