"""Medical encoders whose published files no model library reads: their architectures are written out here."""
