"""The one line that a user reads where something is refused."""

import pytest

from medretrieval.errors import UserError


def refusal(call, *arguments):
    """The text of the UserError that a call raises; a test fails where it is none or more than one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line
