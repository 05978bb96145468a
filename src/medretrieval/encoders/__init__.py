"""Encoders: uint8 images, or sentences, to float32 vectors. One class and one YAML each."""
