"""Which regions make two images similar, and what such maps are worth."""
