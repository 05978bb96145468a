"""A sweep from its start to its end: where it goes, and what is kept of it as a whole."""

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from medretrieval.cache.lock import locked_if_free
from medretrieval.config import leaves
from medretrieval.errors import UserError
from medretrieval.private import each, hide_word, redacted
from medretrieval.sweep.plan import PLAN, all_ended, interrupted, job_folders, plan_of, read_plan
from medretrieval.sweep.results import draw_pareto, reports_of, save_tables, sweep_summary
from medretrieval.track.tracker import Sweep, Tracker, tracker_from_config

SWEEP_DIR = "hydra.sweep.dir"


class SweepCallback(Callback):
    """Set in conf/config.yaml under hydra.callbacks.

    Attributes:
        folder: of the sweep that this process started, None for a single run.
        tracker: of its runs.
        held: the lock of its plan, by which another process sees that the sweep is being worked on.
    """

    folder: Path | None = None
    tracker = Tracker()
    held = ExitStack()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write down what is planned, and let the tracker make what parallel jobs must not all make."""
        SweepCallback.held = ExitStack()
        with suppress(OSError, HydraException):  # the sweeper says it
            self._plan(config)
        SweepCallback.folder = Path(str(config.hydra.sweep.dir)).absolute()
        with suppress(UserError):  # each job says it, as its own failure
            SweepCallback.tracker = tracker_from_config(config.tracking)
            SweepCallback.tracker.prepare()
        _hide(config)  # Hydra is about to write it into multirun.yaml

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take out of what Hydra has just written of a job the passwords of the user's own YAML files."""
        if config.hydra.output_subdir is not None:
            for path in (Path(config.hydra.runtime.output_dir) / config.hydra.output_subdir).glob("*.yaml"):
                text = path.read_text(encoding="utf-8")
                if (clean := redacted(text)) != text:
                    path.write_text(clean, encoding="utf-8")

    def _plan(self, config: DictConfig) -> None:
        """Take up the interrupted sweep of the same plan, where there is one that nobody works on."""
        plan = plan_of(config)
        if plan is None:
            return
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        chosen = any(word.startswith(f"{SWEEP_DIR}=") for word in config.hydra.overrides.hydra)
        if not chosen and not config.force:
            for earlier in interrupted(folder.parent, plan.key):
                if SweepCallback.held.enter_context(locked_if_free(earlier / PLAN)):
                    _go_to(config, earlier.name)
                    plan.write(earlier)
                    return
        folder.mkdir(parents=True, exist_ok=True)
        SweepCallback.held.enter_context(locked_if_free(folder / PLAN))
        plan.write(folder)


def _hide(config: DictConfig) -> None:
    """Hide passwords in a configuration, in its place."""
    said = leaves(OmegaConf.to_container(config, resolve=False))
    with flag_override(config, ["struct", "readonly"], [False, False]):
        for key, value in said.items():
            if (hidden := each(value, hide_word)) != value:
                OmegaConf.update(config, key, hidden)


def _go_to(config: DictConfig, name: str) -> None:
    """Let a sweep and its jobs, which compose their own configurations, use the folder of this name."""
    folder = str(Path(str(config.hydra.sweep.dir)).with_name(name))
    quoted = folder.replace("'", r"\'")
    with flag_override(config, ["struct", "readonly"], [False, False]):
        config.hydra.sweep.dir = folder
        config.hydra.overrides.hydra.append(f"{SWEEP_DIR}='{quoted}'")


def end_sweep() -> str | None:
    """Keep what there is to say of this process's sweep as a whole; returns it as text, None for no sweep.

    Hydra tells its callbacks nothing of a sweep with a failed job, so the command calls this.
    """
    folder = SweepCallback.folder
    with SweepCallback.held:
        if folder is None or not folder.exists():
            return None
        jobs, plan = job_folders(folder), read_plan(folder)
        if not jobs:  # refused before the first of them
            _discard(folder)
            return None
        reports, _ = reports_of(folder)
        save_tables(folder, reports)
        if all_ended(plan, jobs):
            pictures = draw_pareto(folder, reports)
            if reports:
                SweepCallback.tracker.log_sweep(Sweep(folder, reports, pictures))
            if plan is not None:
                plan.as_ended().write(folder)
        return sweep_summary(folder, SweepCallback.tracker.how_to_find(folder.name))


def _discard(folder: Path) -> None:
    """Remove the folder of a sweep without jobs, unless something else is in it."""
    for name in (PLAN, "multirun.yaml"):
        (folder / name).unlink(missing_ok=True)
    SweepCallback.held.close()
    with suppress(OSError):
        folder.rmdir()
