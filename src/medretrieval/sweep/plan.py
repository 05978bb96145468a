"""What a sweep is going to run, written into its folder before the first job starts.

By it an interrupted sweep is found again, and says how much of it is done.
"""

import importlib.metadata
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medretrieval.cache.store import content_key
from medretrieval.runs import folder as run_folder
from medretrieval.runs.saved.listing import SWEEP_PLAN
from medretrieval.runs.typed_json import ContentError, from_json

PLAN = SWEEP_PLAN
HYDRAS_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
NOT_OF_THE_RESULTS = "verbose"  # the key of the configuration that says what is printed


@dataclass(frozen=True)
class Plan:
    """The jobs of a sweep.

    Attributes:
        key: hash of the jobs, the configuration and the version: equal where the same command is given again.
        jobs: overrides of each job, in the order of their numbers.
        started: when the process that works on it began, seconds since 1970.
        ended: whether every job has ended, with or without results.
    """

    key: str
    jobs: list[list[str]]
    started: float
    ended: bool

    @property
    def varied(self) -> list[str]:
        """What tells each job from the others: its overrides that not all jobs have."""
        shared = set.intersection(*(set(job) for job in self.jobs)) if len(self.jobs) > 1 else set()
        return [" ".join(word for word in job if word not in shared) for job in self.jobs]

    def as_ended(self) -> "Plan":
        """The same plan when every job has ended."""
        return replace(self, ended=True)

    def write(self, folder: Path) -> None:
        """Put it into the sweep's folder."""
        run_folder.write_json(folder / PLAN, asdict(self))


def read_plan(folder: Path) -> Plan | None:
    """The plan of a sweep; None where it has none that can be read."""
    try:
        return from_json(Plan, json.loads((folder / PLAN).read_text()))
    except (OSError, ValueError, ContentError):
        return None


def plan_of(config: DictConfig) -> Plan | None:
    """What a sweep's configuration is going to run; None where the sweeper decides as it goes.

    Args:
        config: of the sweep, with Hydra's part.

    Raises:
        HydraException: overrides that cannot be swept over.
    """
    if config.hydra.sweeper["_target_"] != HYDRAS_SWEEPER:
        return None
    jobs = _jobs(config)
    counted = [[word for word in job if not word.startswith(f"{NOT_OF_THE_RESULTS}=")] for job in jobs]
    content: Any = OmegaConf.to_container(config, resolve=False)
    settings = {key: value for key, value in content.items() if key not in ("hydra", NOT_OF_THE_RESULTS)}
    version = importlib.metadata.version("medretrieval")
    key = content_key({"jobs": counted, "config": settings, "version": version})
    return Plan(key, jobs, time.time(), ended=False)


def _jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper takes them apart."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*params, *config.hydra.overrides.task])
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return [list(job) for job in jobs]


def interrupted(sweeps: Path, key: str) -> list[Path]:
    """Folders of sweeps with this plan in which not every job has ended, the latest first.

    Args:
        sweeps: the folder of all sweeps.
        key: of the plan.
    """
    folders = sorted((path.parent for path in sweeps.glob(f"*/{PLAN}")), reverse=True)
    plans = ((folder, read_plan(folder)) for folder in folders)
    return [folder for folder, plan in plans if plan is not None and plan.key == key and not plan.ended]


def job_folders(folder: Path) -> list[Path]:
    """The folders of a sweep's jobs that have started, in the order of their numbers."""
    started = {path.parent.parent for path in folder.rglob(".hydra/overrides.yaml")}
    return sorted(started, key=lambda path: (len(path.name), path.name))


def has_ended(job: Path) -> bool:
    """Whether a job has results, was skipped or has failed."""
    return has_results(job) or (job / run_folder.FAILED).exists()


def has_results(job: Path) -> bool:
    """Whether a job has results, its own or those of an earlier run."""
    return (job / run_folder.SCORES).exists() or (job / run_folder.SKIPPED).exists()


def all_ended(plan: Plan | None, jobs: Sequence[Path]) -> bool:
    """Whether every job of a sweep has ended; without a plan, every job that has started."""
    ended = [job for job in jobs if has_ended(job)]
    return len(ended) >= (len(jobs) if plan is None else len(plan.jobs))
