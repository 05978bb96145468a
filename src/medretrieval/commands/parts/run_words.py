"""The configuration of a run's words without running it: by Hydra, as `medretrieval <words>` has it made."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.commands.parts.dry_run import hydra_words

if TYPE_CHECKING:
    from medretrieval.config import Config


def settings_of(words: Sequence[str]) -> "Config":
    """The checked configuration that a run of these words would have.

    Args:
        words: overrides, choices of groups, and options such as --config-dir, in any order.

    Raises:
        UserError: what a run refuses of its configuration.
        HydraException: what Hydra refuses, to be said in one line by the command.
    """
    import hydra

    from medretrieval.checks import check
    from medretrieval.config import register, root

    register()
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as aside, _as_if_typed(hydra_words(_in_order(words), Path(aside))):
        hydra.main(config_path=str(root() / "conf"), config_name="config", version_base="1.3")(found.append)()
    return check(found[0])


def _in_order(words: Sequence[str]) -> list[str]:
    """Hydra's parser wants all overrides in a row: options before them."""
    options: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
        else:
            options += [word] if "=" in word else [word, next(rest)]
    return [*options, *overrides]


@contextmanager
def _as_if_typed(words: Sequence[str]) -> Iterator[None]:
    """With these words behind the program's name, and Hydra's exceptions raised instead of printed."""
    kept, full = sys.argv[:], os.environ.get("HYDRA_FULL_ERROR")
    sys.argv[1:] = words
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv[:] = kept
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
