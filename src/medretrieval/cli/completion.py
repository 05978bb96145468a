"""Words that a shell offers at the Tab key, and the scripts by which bash and zsh ask for them."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from medretrieval.cli.usage import COMPLETE, COMPLETION, OPTIONS, all_choices, config_folder
from medretrieval.commands import VERBS, verb
from medretrieval.errors import UserError, choices, suggestion

LATEST_SWEEPS = 20  # ids of sweeps that are offered

# Each asks with the line up to the cursor. A word that is whole ends in a space, and a shell adds none.
SCRIPTS = {
    "bash": f"""# In ~/.bashrc: eval "$(medretrieval {COMPLETION} bash)"
_medretrieval() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" word begin="" candidate
    word="${{line##*[[:space:]]}}"
    # bash cuts words at = and wants only what follows it.
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && begin="${{word%"${{word##*=}}"}}"
    COMPREPLY=()
    while IFS= read -r candidate; do
        [[ -n $candidate ]] && COMPREPLY+=("${{candidate#"$begin"}}")
    done < <("${{COMP_WORDS[0]}}" {COMPLETE} "$line" 2>/dev/null)
}}
complete -o default -o nospace -F _medretrieval medretrieval""",
    "zsh": f"""# In ~/.zshrc, below compinit: eval "$(medretrieval {COMPLETION} zsh)"
_medretrieval() {{
    local -a candidates
    candidates=("${{(@f)$("${{words[1]}}" {COMPLETE} "${{(j: :)words[1,CURRENT-1]}} $PREFIX" 2>/dev/null)}}")
    candidates=("${{(@)candidates:#}}")
    if (( ${{#candidates}} )); then
        compadd -Q -S '' -- "${{(@)candidates}}"
    else
        _files
    fi
}}
compdef _medretrieval medretrieval""",
}


def script(words: Sequence[str]) -> str:
    """The script for a shell.

    Args:
        words: that follow --completion: the name of the shell.

    Raises:
        UserError: no shell, or one that is not known.
    """
    shell = words[0] if words else ""
    if len(words) != 1 or shell not in SCRIPTS:
        said = " ".join(words)
        raise UserError(f"{COMPLETION} {said}: {suggestion(said, list(SCRIPTS))}{choices(list(SCRIPTS))}")
    return SCRIPTS[shell]


def completions(line: str) -> list[str]:
    """What the last word of a command line could become; a word that is whole ends in a space.

    Args:
        line: from the program's name to the cursor.

    >>> completions("medretrieval comp"), completions("medretrieval index=hn")
    (['compare '], ['index=hnsw ', 'index=hnsw_sq8 '])
    """
    words = line.split()[1:]
    word = "" if not words or line[-1].isspace() else words.pop()
    if words and words[0] in VERBS:
        names = _of_verb(words[0], words[1:], word)
    elif word.startswith("-"):
        names = list(OPTIONS)
    else:
        names = _of_run(words, word) + ([] if words else list(VERBS))
    fitting = sorted({name for name in names if name.startswith(word)})
    return [name if name.endswith(("=", ".")) else f"{name} " for name in fitting]


def _of_run(words: Sequence[str], word: str) -> list[str]:
    """Keys of a run's configuration, or values of the key that a word names."""
    key, equals, value = word.partition("=")
    groups = _groups(words)
    if equals:
        begin = word[: len(word) - len(value.rpartition(",")[2])]  # in a sweep, the values before this one
        return [f"{begin}{choice}" for choice in groups.get(key) or _values_of(key)]
    if "." in key:
        group = key.partition(".")[0]
        return [f"{group}.{name}=" for name in _keys_of(group, words, groups)]
    plain, parts = _top_keys()
    return [f"{name}=" for name in {*groups, *plain}] + [f"{part}." for part in parts]


def _groups(words: Sequence[str]) -> dict[str, list[str]]:
    try:
        return all_choices(config_folder(words))
    except UserError:  # the folder is not there (yet)
        return all_choices(None)


def _top_keys() -> tuple[list[str], list[str]]:
    """Keys of the configuration that have a value, and those that have keys below them."""
    from medretrieval.config import Config

    hints = get_type_hints(Config)
    open_parts = [name for name, hint in hints.items() if hint is Any]
    parts = [name for name, hint in hints.items() if _dataclass_of(hint) is not None]
    return [name for name in hints if name not in (*parts, *open_parts)], parts + open_parts


def _keys_of(group: str, words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Keys below a part of the configuration: of the schema, or of the file that was chosen."""
    from medretrieval.config import Config

    hint = get_type_hints(Config).get(group)
    kind = _dataclass_of(hint)
    if kind is not None:
        return [field.name for field in dataclasses.fields(kind)]
    if hint is not Any or group not in groups:
        return []
    chosen = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    return _keys_in_file(group, chosen[-1] if chosen else _default(group), words)


def _keys_in_file(group: str, choice: str, words: Sequence[str]) -> list[str]:
    """Keys of a choice's file and of the files of its group that it starts from."""
    from omegaconf import OmegaConf

    from medretrieval.config import root

    for folder in (root() / "conf", config_folder(words)):
        path = folder / group / f"{choice}.yaml" if folder is not None else None
        if path is not None and path.is_file():
            content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            keys = [key for key in content if key not in ("_target_", "defaults")]
            below = [name for name in content.get("defaults", []) if name != "_self_"]
            return keys + [key for name in below for key in _keys_in_file(group, str(name), words)]
    return []


def _default(group: str) -> str:
    """What is taken of a group where the command line does not say."""
    from omegaconf import OmegaConf

    from medretrieval.config import root

    defaults = OmegaConf.load(root() / "conf" / "config.yaml").defaults
    return next(
        (str(entry[group]) for entry in defaults if not isinstance(entry, str) and group in entry), ""
    )


def _values_of(key: str) -> list[str]:
    """The values of a key that has few: true and false, or the members of an enumeration."""
    from medretrieval.config import Config

    hint: Any = Config
    for name in key.split("."):
        kind = _dataclass_of(hint)
        hint = get_type_hints(kind).get(name) if kind is not None else None
    kinds = get_args(hint) if get_origin(hint) is UnionType or isinstance(hint, UnionType) else (hint,)
    values: list[str] = []
    for kind in kinds:
        if kind is bool:
            values += ["true", "false"]
        elif isinstance(kind, type) and issubclass(kind, StrEnum):
            values += [member.value for member in kind]
    return values


def _dataclass_of(hint: Any) -> Any:
    """The dataclass that a type hint names, alone or beside None; None for any other."""
    kinds = [hint, *get_args(hint)]
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def _of_verb(name: str, words: Sequence[str], word: str) -> list[str]:
    """Options of a verb, values of the one that a word names, and ids of sweeps for its run."""
    options = verb(name).options
    key, equals, _ = word.partition("=")
    sweeps = _sweeps(words)
    if not equals:
        keys = [option.key for option in options]
        if verb(name).composes:
            keys += _of_run(words, word)
        return keys + (sweeps if any(option.name == verb(name).bare == "run" for option in options) else [])
    named = any(option.name == key for option in options)
    if verb(name).composes and not named:
        return _of_run(words, word)
    values = sweeps if key == "run" else []
    values += [value for option in options if option.name == key for value in option.allowed]
    return [f"{key}={value}" for value in values]


def _sweeps(words: Sequence[str]) -> list[str]:
    """Ids of the latest sweeps."""
    given = [word.partition("=")[2] for word in words if word.startswith("outputs=")]
    folder = Path(given[-1] if given else "outputs") / "sweeps"
    ids = sorted((path.name for path in folder.glob("*") if path.is_dir()), reverse=True)
    return ids[:LATEST_SWEEPS]
