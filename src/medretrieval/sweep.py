"""What Hydra's sweeps need of us: the database made before the jobs, and one table after them.

The sweeping itself is Hydra's; there is no second sweep engine here.
"""

import json
import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from medretrieval import results
from medretrieval.config import TrackingConfig, expand
from medretrieval.summary import sweep_table

log = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Set in conf/config.yaml under hydra.callbacks.

    Attributes:
        folder: of the sweep that this process started, None for a single run.
    """

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the tracking database once: parallel jobs on a new one would break it."""
        SweepCallback.folder = Path(str(config.hydra.sweep.dir)).absolute()
        tracking = OmegaConf.to_object(config.tracking)
        if isinstance(tracking, TrackingConfig) and tracking.enabled:
            from medretrieval.track import connect, sqlite_file

            if sqlite_file(tracking.uri) is not None:
                try:
                    connect(tracking, expand(config.paths.outputs))
                except Exception as error:  # each job says again what it could not log
                    log.warning("MLflow at %s is away (%s)", tracking.uri, error)


def sweep_id(folder: str) -> str:
    """The id under which a sweep's runs are found: the name of its folder."""
    return Path(folder).name


def sweep_summary(folder: Path) -> str:
    """The table of a sweep's runs, those that failed, and how to find them in the MLflow UI."""
    reports, failures = [], []
    jobs = sorted(
        {p.parent.parent for p in folder.rglob(".hydra/overrides.yaml")}, key=lambda p: (len(p.name), p.name)
    )
    for job in jobs:
        if (job / results.SCORES).exists():
            reports.append(results.read_scores(job))
        elif (job / results.SKIPPED).exists():
            reports.append(results.read_scores(Path(json.loads((job / results.SKIPPED).read_text())["run"])))
        else:
            reason = (
                (job / results.FAILED).read_text() if (job / results.FAILED).exists() else "did not finish"
            )
            failures.append(f"failed: {job.name}: {reason.strip()}")
    lines = ["", f"sweep {folder.name}: {len(reports)} of {len(jobs)} runs have results"]
    lines += [sweep_table(reports)] if reports else []
    lines += [*failures, f"in the MLflow UI filter by: tags.sweep LIKE '%{folder.name}%'"]
    return "\n".join(lines)
