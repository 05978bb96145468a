"""Who queries whom: task, relevance, exclusions, prompts, and the ranking as a value."""
