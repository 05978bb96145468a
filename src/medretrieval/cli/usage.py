"""What --help and --version print, before Hydra or anything heavy is started."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from medretrieval.commands import VERBS
from medretrieval.commands.words import CONFIG_OPTIONS
from medretrieval.errors import UserError, suggestion

COMPLETION, COMPLETE = "--completion", "--complete"  # a shell's script, and what this script asks for
# Of this program and of Hydra (`medretrieval --hydra-help`).
WITH_VALUE = (*CONFIG_OPTIONS, "--cfg", "-c", "--package", "-p", "--experimental-rerun")
OPTIONS = (
    "--help", "-h", "--version", "--multirun", "-m", "--config-dir", "-cd", "--cfg", "-c", "--resolve",
    "--package", "-p", "--info", "-i", "--hydra-help", "--run", "-r", "--shell-completion", "-sc",
    "--config-path", "-cp",
    "--config-name", "-cn", "--dry-run", COMPLETION,
)  # fmt: skip
UNPICKLES = "--experimental-rerun"  # of Hydra: it runs a pickle, and with it whatever that holds
GROUPS = ("dataset", "encoder", "index", "metric", "protocol", "adapt", "rerank", "tracking")
HELP = """medretrieval: which encoder, index and distance retrieve the right medical images?

A run (Hydra):
  medretrieval [key=value ...]                 embed, index, evaluate, track
  medretrieval -m key=a,b ...                  a sweep over all combinations
  medretrieval experiments=<preset>            a prepared experiment
  medretrieval --cfg job                       the configuration, without running
  medretrieval --dry-run ...                   what a run or sweep would take: images, time, disk
  medretrieval --config-dir <folder> ...       with components of your own; --help lists these too
  medretrieval --completion bash|zsh           a script that completes words at the Tab key
  medretrieval --hydra-help                    Hydra's own options

Verbs (medretrieval <verb> --help explains each):
{verbs}

Choices:
{choices}

Useful keys:
  evaluation.ks=[1,5,10]     index.nlist= index.nprobe= index.ef_search=
  encoder.checkpoint=<path>  device=auto  threads=  seed=0  force=true
  verbose=true (a sweep prints the whole table of each run)
  paths.data= (MEDRETRIEVAL_DATA)  paths.cache= (MEDRETRIEVAL_CACHE)  paths.outputs=
  tracking.uri= (MLFLOW_TRACKING_URI)
"""


def in_order(words: Sequence[str]) -> list[str]:
    """The words of a run with the overrides in a row, as Hydra's parser wants them.

    >>> in_order(["metric=l2", "--config-dir", "mine", "index=flat"]), in_order(["-m", "index=flat"])
    (['metric=l2', 'index=flat', '--config-dir', 'mine'], ['-m', 'index=flat'])
    """
    kinds, rest = [], iter(words)
    for word in rest:
        kinds.append(not word.startswith("-"))
        if word in WITH_VALUE and next(rest, None) is not None:
            kinds.append(False)
    overrides = [word for word, is_override in zip(words, kinds, strict=True) if is_override]
    others = [word for word, is_override in zip(words, kinds, strict=True) if not is_override]
    begin = kinds.index(True) if overrides else 0
    in_a_row = all(kinds[begin : begin + len(overrides)])
    return list(words) if in_a_row else [*overrides, *others]


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether -h or --help is among the words."""
    return any(word in ("-h", "--help") for word in arguments)


def version_text() -> str:
    """The name of the program and its version."""
    return f"medretrieval {importlib.metadata.version('medretrieval')}"


def config_folder(arguments: Sequence[str]) -> Path | None:
    """The user's own configuration folder among the words of a command line, None where none is named.

    Raises:
        UserError: there is no such folder.
    """
    for i, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option not in ("--config-dir", "-cd"):
            continue
        folder = Path(value if equals else next(iter(arguments[i + 1 :]), ""))
        if not folder.is_dir():
            raise UserError(f"{option} {folder}: there is no such folder")
        return folder
    return None


def choices_in(folder: Path) -> dict[str, list[str]]:
    """Config group -> names of its files, of a folder as --config-dir names one."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        if path.parent != folder:
            found.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path.stem)
    return found


def all_choices(own: Path | None) -> dict[str, list[str]]:
    """Config group -> its choices, those in the user's own folder among them."""
    from medretrieval.config import root

    found = choices_in(root() / "conf")
    found["experiments"] = sorted(path.stem for path in (root() / "experiments").glob("*.yaml"))
    for group, names in (choices_in(own) if own else {}).items():
        found[group] = sorted({*found.get(group, []), *names})
    return found


def help_text(own: Path | None = None) -> str:
    """The text of --help: verbs, and the choices of every group.

    Args:
        own: the user's own configuration folder, whose choices are listed too.
    """
    ours = all_choices(None)
    lines = [_choice_line(group, ours[group]) for group in (*GROUPS, "experiments")]
    if own is not None:
        lines += ["", f"Your choices ({own}):"]
        lines += [_choice_line(group, names) for group, names in choices_in(own).items()]
    verbs = [f"  medretrieval {name:8} {meaning}" for name, meaning in VERBS.items()]
    return HELP.format(verbs="\n".join(verbs), choices="\n".join(lines))


def _choice_line(group: str, names: Sequence[str]) -> str:
    return f"  {group + '=':13} {' '.join(names)}"


def refuse_unknown(arguments: Sequence[str]) -> None:
    """Refuse a word with a dash that neither this program nor Hydra knows.

    Raises:
        UserError: with what may have been meant.
    """
    for word in arguments:
        name = word.partition("=")[0]
        if not word.startswith("-") or name == "--":
            continue
        # Hydra takes the beginning of a long option, and a value right after a short one.
        long = word.startswith("--")
        known = [
            o
            for o in OPTIONS
            if (o.startswith(name) if long else not o.startswith("--") and name.startswith(o))
        ]
        if long and not known and UNPICKLES.startswith(name):
            raise UserError(
                f"{name}: would unpickle a file, which can run any code; use medretrieval again <run>"
            )
        if not known:
            raise UserError(f"{name}: no such option; {suggestion(name, OPTIONS)}see medretrieval --help")
