"""Files to 8-bit arrays: pictures and DICOM, below datasets and query."""
