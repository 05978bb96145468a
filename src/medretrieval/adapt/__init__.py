"""Stage between embed and index: vectors changed by what is fitted on train and chosen on val."""
