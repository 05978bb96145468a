"""From the `_target_` of a configuration group to an object, with refusals that a user can read.

Naming a class imports its module, and importing runs code. What a user types or keeps in a configuration of
their own may name any class; what lies in a run's folder, which may come from anybody, only known ones.
"""

import inspect
import math
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import hydra.utils

from medretrieval.errors import UserError, choices, first_line

T = TypeVar("T")
WORDS = {None: "null", type(None): "null", bool: "true or false", int: "a whole number", float: "a number"}
TARGET = "_target_"
OWN = "medretrieval"
_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


@contextmanager
def trusting(modules: Iterable[str]) -> Iterator[None]:
    """Within the block a run's folder may name classes of these modules too.

    Args:
        modules: dotted names, such as those of `modules_named`.
    """
    before = _trusted.set(_trusted.get() | frozenset(modules))
    try:
        yield
    finally:
        _trusted.reset(before)


def modules_named(folder: Path) -> frozenset[str]:
    """The modules whose classes the YAML files of a configuration folder name.

    Args:
        folder: of the user's own, as --config-dir names it; searched with its subfolders.

    Raises:
        UserError: no such folder, or a file that is not YAML.
    """
    import yaml

    if not folder.is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder")
    found: set[str] = set()
    for path in sorted(folder.rglob("*.yaml")):
        try:
            content = yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(
                f"--config-dir {folder}: {path} is not valid YAML ({first_line(error)})"
            ) from error
        named = (value for key, value in _values(content, "") if key.rpartition(".")[2] == TARGET)
        found |= {module_of(target) for target in named}
    return frozenset(found - {""})


def module_of(target: Any) -> str:
    """The module of a class that a `_target_` names; empty where it names none.

    >>> module_of("mine.models.Net"), module_of("Net")
    ('mine.models', '')
    """
    return str(target).rpartition(".")[0]


def require_known_code(config: Any, source: Path, group: str = "") -> None:
    """Refuse a configuration from a run's folder that would run code or read the environment.

    A class may be of this package, of a module that the user's own configuration or command line names
    (`trusting`), or one that this process has imported already. Nothing is imported here.

    Args:
        config: nested dictionaries and lists.
        source: the file that it comes from.
        group: its place in a whole configuration, for messages.

    Raises:
        UserError: naming the class, the file, and how to allow it; or an interpolation that calls a
            function, which a finished run's configuration has none of.
    """
    for key, value in _values(config, group):
        if isinstance(value, str) and ":" in value.partition("${")[2]:  # ${oc.env:NAME}
            raise UserError(
                f"{source}: {key} holds ${{...:...}}, which asks the machine that reads it; a finished "
                "run's configuration has only values; repeat the run, or write the value there"
            )
        if key.rpartition(".")[2] == TARGET and not _is_known(value):
            raise UserError(
                f"{source}: {key}={value} is code from outside {OWN}, which a run's folder cannot have run; "
                "if you trust it, name it in a configuration of your own: --config-dir <folder>"
            )


def _is_known(target: Any) -> bool:
    parts = target.split(".") if isinstance(target, str) else [""]
    if not all(part.isidentifier() for part in parts):
        return False
    if parts[0] == OWN:
        return len(parts) > 1 and not any(p.startswith("_") for p in parts)  # __main__ is the command itself
    module = module_of(target)
    loaded = vars(sys.modules[module]) if module in sys.modules else {}
    return module in _trusted.get() or isinstance(loaded.get(parts[-1]), type)


def _values(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Each value in nested dictionaries and lists, with its dotted key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _values(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _values(value, f"{key}.{number}" if key else str(number))
    else:
        yield key, node


def instantiate(node: dict[str, Any], kind: type[T], group: str) -> T:
    """Build the component that a group's `_target_` names, with its other keys as arguments.

    Keys that the base class lists in `BESIDE` are no arguments: each is read by the function there and set as
    an attribute of what was built.

    Args:
        node: the group's resolved configuration.
        kind: the base class that it must have.
        group: "dataset" or "encoder", for messages.

    Raises:
        UserError: no such class, an argument it does not take or lacks, not of the kind wanted, or what the
            functions of `BESIDE` refuse.
    """
    target = node.get(TARGET)
    if target is None:
        raise UserError(f"{group}: its configuration has no _target_; name the class there")
    try:
        cls = hydra.utils.get_class(target)
    except (ImportError, ValueError) as error:
        raise UserError(f"{group}._target_={target}: {' '.join(str(error).split())}") from error
    if not issubclass(cls, kind):
        raise UserError(f"{group}._target_={target}: not a subclass of {kind.__module__}.{kind.__name__}")
    readers = getattr(kind, "BESIDE", {})
    beside = {key: read(node[key]) for key, read in readers.items() if key in node}
    arguments = {key: value for key, value in node.items() if key not in (TARGET, *readers)}
    known = _arguments(cls)
    for key in arguments:
        if known is not None and key not in known:
            raise UserError(f"{group}.{key}: {target} has no such argument; {choices(list(known))}")
    if known is not None and (missing := [n for n, needed in known.items() if needed and n not in arguments]):
        raise UserError(
            f"{group}.{missing[0]}: {target} needs it; set it in conf/{group}/ or on the command line"
        )
    hints = _hints(cls)
    for key, value in arguments.items():
        if key in hints and not _fits(value, hints[key]):
            raise UserError(f"{group}.{key}={value}: must be {_said(hints[key])}")
    built: T = cls(**arguments)
    for key, value in beside.items():
        setattr(built, key, value)
    return built


def _arguments(cls: type) -> dict[str, bool] | None:
    """Argument names and whether they are needed, through **kwargs of subclasses; None where open."""
    known: dict[str, bool] = {}
    for level in cls.__mro__:
        if "__init__" not in level.__dict__:
            continue
        if level is object:  # no constructor on the way here: it takes nothing more
            return known
        parameters = list(inspect.signature(level.__dict__["__init__"]).parameters.values())[1:]
        known = {p.name: p.default is p.empty for p in parameters if p.kind is not p.VAR_KEYWORD} | known
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return known
    return None


def _hints(cls: type) -> dict[str, Any]:
    """Argument name -> its type, through **kwargs of subclasses; where types cannot be read, none."""
    found: dict[str, Any] = {}
    for level in cls.__mro__:
        if "__init__" in level.__dict__ and level is not object:
            try:
                found = get_type_hints(level.__dict__["__init__"]) | found
            except (NameError, TypeError):  # a type that is imported for the checker alone
                continue
    return found


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of YAML is of a type; what is no type of YAML is left to the constructor."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if hint in (str, Path) or (isinstance(hint, type) and issubclass(hint, Enum)):
        return isinstance(value, str)
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if isinstance(kind, type) and issubclass(kind, Iterable) and inner:
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and all(_fits(one, inner[0]) for one in value)
    return True


def _said(hint: Any) -> str:
    """A type in words.

    >>> _said(int | None), _said(list[str])
    ('a whole number or null', 'a list, each of it text')
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(sorted((_said(one) for one in inner), key=lambda word: word == "null"))
    if origin is Literal:
        return "one of " + ", ".join(str(one) for one in inner)
    words = {
        None: "null",
        type(None): "null",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
    }
    if hint in words:
        return words[hint]
    kind = origin or hint
    if isinstance(kind, type) and kind not in (str, Path) and not issubclass(kind, Enum):
        if issubclass(kind, Mapping):
            return "a mapping"
        if inner:
            return f"a list, each of it {_said(inner[0])}"
    return "text"
