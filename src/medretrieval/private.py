"""What must not leave this process: passwords in addresses, and the path of the user's home.

An address such as https://user:password@host is shown, kept and passed on as https://***@host. The whole one
stays in this process's memory, and `real` finds it again for the one library that has to have it.
"""

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

HIDDEN = "***"
MEMORY = "MEDRETRIEVAL_PRIVATE_URIS"  # of this process; jobs of a sweep in processes of their own inherit it
TRACKING_URI = "MLFLOW_TRACKING_URI"
# Before the @ of an address: anything up to the host's end, or a name and a password with a slash in it,
# which databases take. What looks like the port of a server is none.
_PORT = r"(?!(?:(?<=http://)|(?<=https://))[^\s/?#\"<>:@]*:\d{1,5}[/?#])"
_USER = re.compile(rf"(?<=://)(?:{_PORT}[^\s/?#\"<>:@]*:[^\s\"<>@]*@|[^\s/?#\"<>]*@)(?:[^\s/?#\"<>]*@)?")
_WHOLE = re.compile(r"\A([a-zA-Z][\w+.-]*://)[^/?#\n]*@")  # of a text that is an address, spaces and all
_KEY = r"[\w.-]*(?:password|passwd|pwd|token|secret|api[_-]?key|signature)[\w.-]*"
_QUERY = re.compile(rf"(?<=[?&])({_KEY})=[^&\s\"<>#]+", re.IGNORECASE)
_HOME_SQLITE = "sqlite:///~/"


def redacted(text: str) -> str:
    """A text with what is secret in the addresses in it replaced; the same text where nothing is.

    >>> redacted("MLflow at https://ann:s3cret@ml.example.org/x?token=abc cannot be reached")
    'MLflow at https://***@ml.example.org/x?token=*** cannot be reached'
    """
    if "://" not in text:
        return text
    text = _WHOLE.sub(rf"\1{HIDDEN}@", _USER.sub(f"{HIDDEN}@", text))
    return _QUERY.sub(rf"\1={HIDDEN}", text)


def shareable(text: str) -> str:
    """As `redacted`, and the user's home is ~: what is written to be read by others."""
    home = str(Path.home())
    if len(home) > 1:  # not where / is the home
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    return redacted(text)


def each(node: Any, change: Callable[[str], str] = redacted) -> Any:
    """Nested dictionaries and lists with every text in them changed."""
    if isinstance(node, dict):
        return {key: each(value, change) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [each(value, change) for value in node]
    return change(node) if type(node) is str else node


def hide(uri: str) -> str:
    """An address as it may be shown; the whole one is remembered for `real`."""
    shown = redacted(uri)
    if shown != uri:
        known = _remembered()
        os.environ[MEMORY] = json.dumps([uri, *(one for one in known if one != uri)])
    return shown


def hide_word(word: str) -> str:
    """A word of a command line as it may be shown and kept; the addresses in it are remembered."""
    shown = redacted(word)
    if shown != word:
        value = word[word.find("=", 0, word.find("://")) + 1 :]  # all of it where it is no key=value
        for part in (value, *value.split(",")):  # of a sweep
            hide(part.strip(" '\"[]"))
    return shown


def real(uri: str) -> str | None:
    """The whole address that one in which something is hidden stands for.

    Args:
        uri: as `hide` gives it, or as a run's folder keeps it.

    Returns:
        The same where nothing is hidden in it; else one that was hidden in this process, or that of
        MLFLOW_TRACKING_URI, where it is otherwise equal; None where neither is.
    """
    if uri.startswith(_HOME_SQLITE):
        return f"sqlite:///{Path.home()}/{uri.removeprefix(_HOME_SQLITE)}"
    if HIDDEN not in uri:
        return uri
    known = [*_remembered(), os.environ.get(TRACKING_URI, "")]
    equal = [one for one in known if redacted(one) == uri and one != uri]
    return next((one for one in [*equal, *known] if same(one, uri) and HIDDEN not in one), None)


def same(one: str, other: str) -> bool:
    """Whether two addresses differ in nothing but what is secret in them."""
    return _bare(one) == _bare(other)


def _bare(uri: str) -> str:
    return redacted(uri).replace(f"://{HIDDEN}@", "://")


def _remembered() -> list[str]:
    known: list[str] = json.loads(os.environ.get(MEMORY, "[]"))
    return known


def watch() -> None:
    """From now on nothing secret is in what this process logs, or prints of an exception that ends it."""
    make = logging.getLogRecordFactory()
    if getattr(make, "watches", False):
        return

    def made(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        _clean(record)
        return record

    made.watches = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(made)
    sys.excepthook = _print_exception


def _clean(record: logging.LogRecord) -> None:
    try:
        text = record.getMessage()
    except Exception:  # words that do not fit their message: logging says so itself
        return
    if (shown := redacted(text)) != text:
        record.msg, record.args = shown, ()
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info))).rstrip()


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    lines: Iterable[str] = traceback.format_exception(kind, error, trace)
    sys.stderr.write(redacted("".join(lines)))
