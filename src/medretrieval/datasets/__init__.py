"""Datasets: splits of 8-bit images with labels, ids and, where there are any, groups."""
