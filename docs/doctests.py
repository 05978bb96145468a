"""Doctests of docstrings as code: to the parser of docstrings they are prose where no heading names them."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> .*", re.MULTILINE | re.DOTALL)


class Doctests(griffe.Extension):
    """Puts the doctest at the end of a docstring under a heading of its own."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite a docstring after it was read."""
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(_under_heading, obj.docstring.value)


def _under_heading(found: re.Match[str]) -> str:
    return "Examples:\n" + "\n".join(f"    {line}" if line else "" for line in found[0].splitlines())
