"""The verbs of the command line: they read words and print; the work is done in the other rooms."""
