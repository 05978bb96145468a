"""Several finished runs together: comparison, tables, and one HTML file to send."""
