"""Pictures: they draw what other rooms have computed, and compute nothing."""
