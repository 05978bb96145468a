"""From the `_target_` of a configuration group to an object, with refusals that a user can read."""

import inspect
from typing import Any, TypeVar

import hydra.utils

from medretrieval.errors import UserError, choices

T = TypeVar("T")


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
    target = node.get("_target_")
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
    arguments = {key: value for key, value in node.items() if key not in ("_target_", *readers)}
    known = _arguments(cls)
    for key in arguments:
        if known is not None and key not in known:
            raise UserError(f"{group}.{key}: {target} has no such argument; {choices(list(known))}")
    if known is not None and (missing := [n for n, needed in known.items() if needed and n not in arguments]):
        raise UserError(
            f"{group}.{missing[0]}: {target} needs it; set it in conf/{group}/ or on the command line"
        )
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
