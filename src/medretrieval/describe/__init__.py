"""What can be said before anything is run: what a dataset holds, and what its queries can show."""
