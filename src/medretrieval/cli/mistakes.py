"""Exceptions as the one line that says what is wrong, where, and how to fix it."""

import errno
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medretrieval.errors import UserError, choices, first_line, suggestion

# Errors whose cause is the machine, not the program.
SURROUNDINGS = {
    errno.ENOSPC: "free some space or move it",
    errno.EDQUOT: "free some space or move it",
    errno.EACCES: "choose a folder of your own",
    errno.EPERM: "choose a folder of your own",
    errno.EROFS: "choose a folder of your own",
    errno.ENOTDIR: "there is a file where a folder is needed",
    errno.EEXIST: "there is a file where a folder is needed",
    errno.EISDIR: "there is a folder where a file is needed",
    errno.ENAMETOOLONG: "choose a shorter one",
    errno.ELOOP: "a link there leads back to itself",
}
MOST_OF_PATH = 120  # characters of a path that a message shows


def explain(error: BaseException) -> UserError | None:
    """The one line for an exception that the user can mend; None for a bug."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in SURROUNDINGS:
        where = str(error.filename or "paths.outputs or paths.cache")
        where = where if len(where) <= MOST_OF_PATH else f"{where[:MOST_OF_PATH]}..."
        return UserError(
            f"{where}: {error.strerror}; {SURROUNDINGS[error.errno]} (paths.outputs, paths.cache)"
        )
    return _explain_config(error)


def _explain_config(error: BaseException) -> UserError | None:
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if (refused := next((e for e in chain if isinstance(e, UserError)), None)) is not None:
        return refused
    missing = next((e for e in chain if isinstance(e, MissingConfigException)), None)
    if missing is not None and missing.options is not None:
        group, _, name = str(missing.missing_cfg_file).rpartition("/")
        kind = "preset" if group == "experiments" else group
        hint = suggestion(name, missing.options)
        return UserError(f"{group}={name}: there is no such {kind}; {hint}{choices(missing.options)}")
    if (unread := next((line for e in chain if (line := _unreadable(e)) is not None), None)) is not None:
        return unread
    if (broken := next((e for e in chain if isinstance(e, MarkedYAMLError)), None)) is not None:
        mark = broken.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a configuration file"
        return UserError(
            f"{where}: not valid YAML ({broken.problem}); put text that contains {{}}, : or # in quotes"
        )
    config = next((e for e in chain if isinstance(e, OmegaConfBaseException)), None)
    if config is not None:
        return UserError(_explain_key(config))
    if isinstance(error, HydraException):
        return UserError(" ".join(str(error).split()))
    return None


def _unreadable(error: BaseException) -> UserError | None:
    """The line for a configuration file that no parser gets through; None for any other error."""
    from yaml import MarkedYAMLError, YAMLError

    if isinstance(error, YAMLError) and not isinstance(error, MarkedYAMLError):
        name = getattr(error, "name", "a configuration file")
        return UserError(f"{name}: not valid YAML (a character that no text has); save it as UTF-8 text")
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [frame.f_locals.get("full_path") for frame in frames if frame.f_code.co_name == "load_config"]
    if isinstance(error, ValueError) and any(files):
        why = "no UTF-8 text; save the file as UTF-8"
        why = why if isinstance(error, UnicodeDecodeError) else f"cannot be read ({first_line(error)})"
        return UserError(f"{files[-1]}: {why}")
    parsers = ("yaml", "omegaconf", "copy.py")
    last = {part for frame in frames[-50:] for part in Path(frame.f_code.co_filename).parts}
    if isinstance(error, RecursionError) and "pathlib.py" in last:
        return UserError("paths.outputs, paths.cache: a path of too many folders; choose a shorter one")
    if isinstance(error, RecursionError) and not last.isdisjoint(parsers):
        return UserError("a configuration file is nested too deeply, or a part of it is within itself")
    return None


def _explain_key(error: Any) -> str:
    from omegaconf import DictConfig
    from omegaconf.errors import (
        ConfigAttributeError,
        ConfigKeyError,
        InterpolationToMissingValueError,
        MissingMandatoryValue,
    )

    from medretrieval.config import RENAMED, published_folder

    key = error.full_key or error.key
    reason = str(error.msg or error).strip().splitlines()[0]
    if isinstance(error, InterpolationToMissingValueError):
        key = reason.rsplit(" ", 1)[-1]
    if isinstance(error, (MissingMandatoryValue, InterpolationToMissingValueError)):
        return f"{key}: a value is needed; give it as {key}=<value>"
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and isinstance(
        error.parent_node, DictConfig
    ):
        if key == "experiments":  # the group has presets alone, which say where their keys belong
            tables = choices([path.stem for path in published_folder().glob("*.yaml")])
            return (
                "experiments=published/...: published rows are no preset; put a run beside them with "
                f"medretrieval compare <run> published=<table>; {tables}"
            )
        if (now := RENAMED.get(key)) is not None:
            moved = {old: new for old, new in RENAMED.items() if old.startswith(f"{key}.")} or {key: now}
            said = ", ".join(f"{old} is now {new}" for old, new in moved.items())
            return f"{key}: a name of an earlier version; {said}"
        known = [str(k) for k in error.parent_node if k != "_target_"]
        return f"{key}: no such key; {_meant(key, known, error.parent_node)}{choices(known)}"
    if (wrong := re.fullmatch(r"Invalid value '(.*)', expected one of \[(.*)\]", reason)) is not None:
        value, names = wrong[1], wrong[2].split(", ")
        return f"{key}={value}: not one of its values; {suggestion(value, names)}{choices(names)}"
    return f"{key}: {reason}"


def _meant(key: str, known: Sequence[str], node: Any) -> str:
    """What may have been meant by a key that is none: one beside it, or one of its name elsewhere."""
    from omegaconf import OmegaConf

    from medretrieval.config import leaves

    above, _, last = key.rpartition(".")
    if near := suggestion(last, known):
        return near.replace("did you mean ", f"did you mean {above}.") if above else near
    whole = OmegaConf.to_container(node._get_root(), resolve=False)
    names = [
        name for name in leaves(whole) if name.rpartition(".")[2] == last and not name.startswith("hydra")
    ]
    return f"did you mean {names[0]}? " if len(names) == 1 else ""
