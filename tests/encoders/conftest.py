"""Fixtures of the encoders' tests."""

import pytest
from tests.tiny_models import add_clip


@pytest.fixture
def tiny_clip(monkeypatch):
    """open_clip knows a model `tiny`."""
    add_clip(monkeypatch)
