"""The command: without a verb it is the Hydra run, with one it is that verb."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.cli.mistakes import explain
from medretrieval.cli.usage import (
    COMPLETE,
    COMPLETION,
    asks_for_help,
    config_folder,
    help_text,
    in_order,
    refuse_unknown,
    version_text,
)
from medretrieval.commands import VERBS, verb
from medretrieval.commands.parts.dry_run import DRY_RUN, JSON, Plans, hydra_words
from medretrieval.errors import UserError, choices, suggestion
from medretrieval.private import hide_word, redacted, watch

if TYPE_CHECKING:
    from medretrieval.runner import RunResult

log = logging.getLogger(__name__)


def main() -> int:
    """Run the command line; returns the exit code."""
    # So that a _target_ can name a class in the user's own folder, as with `python -m`.
    sys.path.append(os.getcwd())
    watch()
    sys.argv[1:] = map(hide_word, sys.argv[1:])  # Hydra writes them into files, and a run into its manifest
    try:
        return _do(sys.argv[1:])
    except UserError as error:
        if not error.reported:
            print(f"medretrieval: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who was to read has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(
            "medretrieval: interrupted; run the same command again to continue from the cache",
            file=sys.stderr,
        )
        return 130


def _do(arguments: list[str]) -> int:
    first = arguments[0] if arguments else ""
    if first in VERBS:
        return _verb(first, arguments[1:])
    if asks_for_help(arguments):
        print(help_text(config_folder(arguments)))
        return 0
    if "--version" in arguments:
        print(version_text())
        return 0
    if first.partition("=")[0] in (COMPLETE, COMPLETION):
        return _complete(first, arguments[1:])
    if first and not first.startswith(("-", "+", "~")) and "=" not in first:
        hint = suggestion(first, list(VERBS))
        raise UserError(f"{first}: neither a verb nor key=value; {hint}{choices(list(VERBS))}")
    if DRY_RUN in arguments:
        return _dry_run(arguments)
    refuse_unknown(arguments)
    sys.argv[1:] = in_order(arguments)
    return _hydra(_task)


def _complete(first: str, rest: list[str]) -> int:
    """Print the script that completes the command line in a shell, or what such a script asks for."""
    from medretrieval.cli.completion import completions, script

    asked, equals, value = first.partition("=")
    words = [value, *rest] if equals else rest
    if asked == COMPLETION:
        print(script(words))
    else:
        print(*completions(" ".join(words)), sep="\n")
    return 0


def _verb(name: str, arguments: list[str]) -> int:
    try:
        return verb(name).main(arguments)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        raise line from error


def _dry_run(arguments: list[str]) -> int:
    """Plan the run or sweep of a command line without doing it; 1 where a run of it would fail."""
    import json

    plans = Plans(explain)
    with tempfile.TemporaryDirectory() as aside:
        words = hydra_words(arguments, Path(aside))
        refuse_unknown(words)
        sys.argv[1:] = words
        _hydra(lambda cfg: plans.add(cfg))
    print(json.dumps(plans.document(), indent=2) if JSON in arguments else plans.text())
    return 1 if plans.failing else 0


def _hydra(task: Callable[[Any], float]) -> int:
    import hydra

    from medretrieval.config import register, root

    register()
    # Makes Hydra hand its exceptions to us instead of printing them.
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=str(root() / "conf"), config_name="config", version_base="1.3")(task)()
    except Exception as error:
        line = explain(error)
        if line is None or full == "1":
            raise
        raise line from error
    finally:
        if full is None:  # what runs later in this process decides for itself
            del os.environ["HYDRA_FULL_ERROR"]
        if "hydra.experimental.callback" in sys.modules:
            _end_sweep()
    return 0


def _task(cfg: Any) -> float:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from medretrieval.runner import run
    from medretrieval.runs import folder as run_folder
    from medretrieval.runs.tables import run_table

    watch()  # in a process of its own, too
    hydra_cfg = HydraConfig.get()
    sweep = Path(hydra_cfg.sweep.dir).absolute() if hydra_cfg.mode == RunMode.MULTIRUN else None
    folder = Path(hydra_cfg.runtime.output_dir)
    (folder / run_folder.FAILED).unlink(missing_ok=True)  # of an earlier try of an interrupted sweep
    try:
        result = run(cfg, folder, sweep.name if sweep else None)
    except Exception as error:
        line = explain(error)
        (folder / run_folder.FAILED).write_text(f"{line or redacted(repr(error))}\n")
        _print_line(sweep, hydra_cfg, None)
        if line is None:
            log.exception("medretrieval: this is a bug; please report it with the lines above")
            raise
        if not line.reported:
            log.error("medretrieval: %s", line)
            line.reported = True
        if sweep is None:  # Hydra would add a line of its own to ours
            raise SystemExit(1) from error
        raise line from error
    _print_line(sweep, hydra_cfg, result)
    if sweep is None or cfg.verbose:
        print(run_table(result.report, result.folder))
    return result.objective


def _print_line(sweep: Path | None, hydra_cfg: Any, result: "RunResult | None") -> None:
    """The line of a sweep's run; nothing for a single run."""
    from medretrieval.sweep.progress import FAILED, run_line, scored

    if sweep is not None:
        outcome = FAILED if result is None else scored(result.report, result.skipped)
        # Flushed: with the output in a file, the lines of a sweep of hours are read while it lasts.
        print(run_line(sweep, hydra_cfg.job.num, hydra_cfg.overrides.task, outcome), flush=True)


def _end_sweep() -> None:
    from medretrieval.sweep.callback import end_sweep

    said = end_sweep()
    if said is not None:
        print(said)
