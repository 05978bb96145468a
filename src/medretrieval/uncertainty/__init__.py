"""How sure scores and their differences are: intervals, p, and both corrected for many comparisons."""
