"""What verbs are made of beside their words: which runs these name, and how answers are printed."""
