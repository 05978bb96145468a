"""Which regions make a query and a retrieved image similar, and whether that can be believed."""
