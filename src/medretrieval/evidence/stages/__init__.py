"""What single stages of a run are worth: its scores with them and without."""
