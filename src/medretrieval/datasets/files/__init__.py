"""Datasets of files of one's own: class folders, a table, DICOM."""
