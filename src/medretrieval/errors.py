"""The one exception that a user may see: it says what, where and how to mend it, in one line."""

import difflib
from collections.abc import Sequence

from medretrieval.private import redacted


class UserError(Exception):
    """A mistake in the configuration, the data or the surroundings that the user can mend.

    The command line prints its text as one line and exits with 1; a traceback would only hide it.

    Attributes:
        reported: the line has been printed already.
    """

    reported = False

    def __init__(self, line: str = "") -> None:
        super().__init__(redacted(line))  # errors of libraries, which it may quote, have addresses in them


def first_line(error: BaseException) -> str:
    """The first line of an exception that says something, at most 300 characters, without passwords."""
    return redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]


def choices(names: Sequence[str]) -> str:
    """The end of an error message: what could have been said instead."""
    return "choose from: " + ", ".join(sorted(names)) if names else "there is nothing to choose from"


def suggestion(word: str, names: Sequence[str]) -> str:
    """What may have been meant by a word that is none of the names, as a question; empty where nothing.

    >>> suggestion("kk", ["k", "fit"]), suggestion("zebra", ["k", "fit"])
    ('did you mean k? ', '')
    """
    near = difflib.get_close_matches(word, names, 1)
    return f"did you mean {near[0]}? " if near else ""
