"""Re-ranking: a query's results put into another order by what the gallery knows of itself."""
