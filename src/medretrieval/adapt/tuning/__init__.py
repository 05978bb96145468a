"""Adaptations of the encoder itself: its last blocks, or a low-rank update of them, trained on train."""
