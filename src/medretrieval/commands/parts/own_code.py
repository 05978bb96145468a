"""Whose code a verb may run: this program's, and what the user's own words and configuration name."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

DIR_OPTIONS = ("--config-dir", "-cd")


def trusting_words(folder: Path | None, words: Sequence[str]) -> AbstractContextManager[None]:
    """A block in which a run's folder may name classes of the modules that a command line names.

    Args:
        folder: of the user's own configuration; None where none is given.
        words: of the command line: "key=value", whose `_target_` names a class, and --config-dir of a run.

    Raises:
        UserError: no such folder, or a file in it that is not YAML.
    """
    named = [value for key, _, value in (word.partition("=") for word in words) if key.endswith("_target_")]
    folders = [*([folder] if folder else []), *_folders(words)]
    if not named and not folders:
        return nullcontext()
    from medretrieval.instantiate import module_of, modules_named, trusting

    modules = [module for own in folders for module in modules_named(own)]
    return trusting({*modules, *(module_of(target) for target in named)} - {""})


def _folders(words: Sequence[str]) -> Iterator[Path]:
    for word, following in itertools.pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option in DIR_OPTIONS:
            yield Path(value if equals else following).expanduser()
