"""How scores fall as query images get worse: runs that differ in the severity of one corruption alone."""
