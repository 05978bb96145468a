"""Dataclasses as JSON and back, strictly: a file says what its type says, or it is refused by key."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


class ContentError(ValueError):
    """Content that is not of its type: names the key and what was wanted there."""


def to_json(value: Any) -> Any:
    """A dataclass, and what is in it, as JSON values.

    >>> to_json({5: 0.9})
    {'5': 0.9}
    """
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def from_json(kind: type[T], content: object, key: str = "") -> T:
    """JSON values as an object of a type.

    Dataclasses (every field must be there, and nothing else), lists, objects of any keys or of whole numbers
    as keys, numbers, texts, truth values, `X | None`, and `Any` for what has no type of its own.

    Args:
        kind: the type.
        content: JSON values.
        key: what to call them in messages, "" for the whole.

    Raises:
        ContentError: an unknown key, a key that is missing, or a value of another type.

    >>> from_json(dict[int, float], {"5": 1})
    {5: 1.0}
    """
    found: T = _value(kind, content, key)
    return found


def _value(kind: Any, content: object, key: str) -> Any:
    if kind is Any:
        return content
    if dataclasses.is_dataclass(kind):
        return _object(kind, content, key)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (wanted,) = (one for one in inner if one is not types.NoneType)
        return None if content is None else _value(wanted, content, key)
    if origin is list:
        if not isinstance(content, list):
            raise _wrong(key, "a list", content)
        return [_value(inner[0], item, f"{key}[{i}]") for i, item in enumerate(content)]
    if origin is dict:
        items = _mapping(content, key).items()
        return {_key(inner[0], name, key): _value(inner[1], item, _under(key, name)) for name, item in items}
    if kind is float and isinstance(content, int) and not isinstance(content, bool):
        return float(content)  # other writers leave the .0 out
    if type(content) is not kind:
        raise _wrong(key, WORDS[kind], content)
    return content


def _object(kind: Any, content: object, key: str) -> Any:
    hints, found = field_types(kind), _mapping(content, key)
    if unknown := sorted(found.keys() - hints.keys()):
        raise ContentError(f"{_under(key, unknown[0])} is no key of it")
    if missing := [name for name in hints if name not in found]:
        raise ContentError(f"{_under(key, missing[0])} is missing")
    return kind(**{name: _value(hint, found[name], _under(key, name)) for name, hint in hints.items()})


@functools.cache
def field_types(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, in their order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _mapping(content: object, key: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise _wrong(key, "an object", content)
    return content


def _key(kind: Any, name: str, key: str) -> str | int:
    if kind is str:
        return name
    if not name.isdecimal():
        raise ContentError(f"{key} has the key {name[:40]!r}, where a whole number is needed")
    return int(name)


def _under(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _wrong(key: str, wanted: str, content: object) -> ContentError:
    said = repr(content)
    return ContentError(f"{key or 'its content'} is {said[:40]}, where {wanted} is needed")
