"""The command: without a verb it is the Hydra run, with one it is that verb."""

import errno
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

from medretrieval.commands import VERBS
from medretrieval.commands.words import suggestion
from medretrieval.errors import UserError, choices

log = logging.getLogger(__name__)

GROUPS = ("dataset", "encoder", "index", "metric", "protocol", "tracking")
# Errors whose cause is the machine, not the program.
SURROUNDINGS = {
    errno.ENOSPC: "free some space or move it",
    errno.EDQUOT: "free some space or move it",
    errno.EACCES: "choose a folder of your own",
    errno.EPERM: "choose a folder of your own",
    errno.EROFS: "choose a folder of your own",
    errno.ENOTDIR: "there is a file where a folder is needed",
    errno.EEXIST: "there is a file where a folder is needed",
}

HELP = """medretrieval: which encoder, index and distance retrieve the right medical images?

A run (Hydra):
  medretrieval [key=value ...]                 embed, index, evaluate, track
  medretrieval -m key=a,b ...                  a sweep over all combinations
  medretrieval experiments=<preset>            a prepared experiment
  medretrieval --cfg job                       the configuration, without running
  medretrieval --hydra-help                    Hydra's own options

Verbs (medretrieval <verb> --help explains each):
{verbs}

Choices:
{choices}

Useful keys:
  evaluation.ks=[1,5,10]     index.nlist= index.nprobe= index.ef_search=
  encoder.checkpoint=<path>  device=auto  threads=  seed=0  force=true
  paths.data= (MEDRETRIEVAL_DATA)  paths.cache= (MEDRETRIEVAL_CACHE)  paths.outputs=
  tracking.uri= (MLFLOW_TRACKING_URI)
"""


def main() -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:]
    # So that a _target_ can name a class in the user's own folder, as with `python -m`.
    sys.path.append(os.getcwd())
    try:
        if arguments and arguments[0] in ("-h", "--help"):
            print(help_text())
            return 0
        if arguments and arguments[0] in VERBS:
            return _verb(arguments[0], arguments[1:])
        if arguments and not arguments[0].startswith(("-", "+", "~")) and "=" not in arguments[0]:
            hint = suggestion(arguments[0], list(VERBS))
            raise UserError(f"{arguments[0]}: neither a verb nor key=value; {hint}{choices(list(VERBS))}")
        return _hydra(arguments)
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


def _verb(name: str, arguments: list[str]) -> int:
    try:
        code: int = importlib.import_module(f"medretrieval.commands.{name}").VERB.main(arguments)
        return code
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        raise line from error


def help_text() -> str:
    """The text of --help: verbs, and the choices of every group."""
    from medretrieval.config import root

    folders = {group: root() / "conf" / group for group in GROUPS} | {"experiments": root() / "experiments"}
    lines = [
        f"  {group + '=':13} {' '.join(sorted(p.stem for p in folder.glob('*.yaml')))}"
        for group, folder in folders.items()
    ]
    verbs = [f"  medretrieval {name:8} {meaning}" for name, meaning in VERBS.items()]
    return HELP.format(verbs="\n".join(verbs), choices="\n".join(lines))


def _hydra(arguments: list[str]) -> int:
    import hydra

    from medretrieval.config import register, root

    register()
    # Makes Hydra hand its exceptions to us instead of printing them.
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=str(root() / "conf"), config_name="config", version_base="1.3")(_task)()
    except Exception as error:
        line = explain(error)
        if line is None or full == "1":
            raise
        raise line from error
    finally:
        if "hydra.experimental.callback" in sys.modules:
            _print_sweep()
    return 0


def _task(cfg: Any) -> float:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from medretrieval.runner import run
    from medretrieval.runs import folder as run_folder
    from medretrieval.runs.tables import run_table
    from medretrieval.sweep import sweep_id

    hydra_cfg = HydraConfig.get()
    sweep = sweep_id(hydra_cfg.sweep.dir) if hydra_cfg.mode == RunMode.MULTIRUN else None
    folder = Path(hydra_cfg.runtime.output_dir)
    try:
        result = run(cfg, folder, sweep)
    except Exception as error:
        line = explain(error)
        (folder / run_folder.FAILED).write_text(f"{line or repr(error)}\n")
        if line is None:
            log.exception("medretrieval: this is a bug; please report it with the lines above")
            raise
        if not line.reported:
            log.error("medretrieval: %s", line)
            line.reported = True
        if sweep is None:  # Hydra would add a line of its own to ours
            raise SystemExit(1) from error
        raise line from error
    print(run_table(result.report, result.folder))
    return result.objective


def _print_sweep() -> None:
    from medretrieval.sweep import SweepCallback, sweep_summary

    if SweepCallback.folder is not None and SweepCallback.folder.exists():
        print(sweep_summary(SweepCallback.folder))


def explain(error: BaseException) -> UserError | None:
    """The one line for an exception that the user can mend; None for a bug."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in SURROUNDINGS:
        where = error.filename or "paths.outputs or paths.cache"
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
    missing = next((e for e in chain if isinstance(e, MissingConfigException)), None)
    if missing is not None and missing.options is not None:
        group, _, name = str(missing.missing_cfg_file).rpartition("/")
        kind = "preset" if group == "experiments" else group
        return UserError(f"{group}={name}: there is no such {kind}; {choices(missing.options)}")
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


def _explain_key(error: Any) -> str:
    from omegaconf import DictConfig
    from omegaconf.errors import (
        ConfigAttributeError,
        ConfigKeyError,
        InterpolationToMissingValueError,
        MissingMandatoryValue,
    )

    from medretrieval.config import RENAMED

    key = error.full_key or error.key
    reason = str(error.msg or error).strip().splitlines()[0]
    if isinstance(error, InterpolationToMissingValueError):
        key = reason.rsplit(" ", 1)[-1]
    if isinstance(error, (MissingMandatoryValue, InterpolationToMissingValueError)):
        return f"{key}: a value is needed; give it as {key}=<value>"
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and isinstance(
        error.parent_node, DictConfig
    ):
        if (now := RENAMED.get(key)) is not None:
            moved = {old: new for old, new in RENAMED.items() if old.startswith(f"{key}.")} or {key: now}
            said = ", ".join(f"{old} is now {new}" for old, new in moved.items())
            return f"{key}: a name of an earlier version; {said}"
        known = [str(k) for k in error.parent_node if k != "_target_"]
        return f"{key}: no such key; {choices(known)}"
    return f"{key}: {reason}"
