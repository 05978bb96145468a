"""What a tracker is to the rest of the pipeline: it is told what happens to runs, and keeps it to be found.

A new tracker is a subclass of `Tracker` and a file in conf/tracking/.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import DictConfig, OmegaConf

from medretrieval.config import root
from medretrieval.errors import UserError, first_line
from medretrieval.instantiate import instantiate, require_known_code
from medretrieval.private import redacted
from medretrieval.runs.folder import CONFIG
from medretrieval.runs.report import RunReport

log = logging.getLogger(__name__)

SWEEP_TAG = "sweep"
KIND_TAG = "kind"  # what a record is of: run, sweep, compare or report
Ending = Literal["FAILED", "KILLED"]


@dataclass
class RunDescription:
    """What a tracker is told of a run besides its scores.

    Attributes:
        name: the run's name for people.
        tags: searchable facts.
        params: the configuration's values worth comparing.
        inputs: role -> {"name", "digest", "source", "profile"} of the dataset's splits.
    """

    name: str
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """A sweep that has ended.

    Attributes:
        folder: of the sweep; its name is the sweep's id, which its runs have as their tag `sweep`.
        reports: of its runs, those of skipped runs among them; at least one.
        pictures: files that were drawn of the sweep as a whole.
    """

    folder: Path
    reports: list[RunReport]
    pictures: Sequence[Path] = ()

    @property
    def id(self) -> str:
        """What its runs are found by."""
        return self.folder.name


@dataclass(frozen=True)
class Entry:
    """What is said of finished runs, to be kept beside them: a comparison, a report.

    Attributes:
        kind: the verb that made it, "compare" or "report".
        name: for people.
        tags: searchable facts.
        files: file name -> text.
        note: Markdown.
        params: how it was made.
        metrics: its numbers.
        sweep: the id of the sweep that it is about as a whole, with which it is kept; None where it is not.
        front: the one of its files that a reader opens first; None where the note says it all.
    """

    kind: str
    name: str
    tags: dict[str, str]
    files: Mapping[str, str]
    note: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    sweep: str | None = None
    front: str | None = None


class Tracker:
    """Keeps runs where they are found again. This class itself keeps nothing: it is `tracking=none`.

    A subclass says what it does of the methods below; what it leaves out does nothing. Its constructor's
    arguments are the keys of its YAML file. One object sees one run (`start`, then `finish` or `fail`;
    `skip` alone where it had finished before), or one sweep as a whole (`prepare`, `log_sweep`), or one
    entry (`log_entry`). Jobs of a sweep run in parallel, each with an object of its own.

    A tracker is never a reason to lose a run: what it cannot reach costs a warning (`unless_away`), and
    the results stay in the run's folder. It raises a UserError for what the user has to set right.
    """

    def prepare(self) -> None:
        """Before a sweep's jobs start, once: make what jobs at the same time must not all make."""

    def start(self, about: RunDescription) -> None:
        """Data and encoder are loaded and the work begins. `about` has no fitted parameters yet."""

    def finish(self, about: RunDescription, folder: Path) -> None:
        """Everything is in the run's folder: scores.json, the tables, the pictures, tracking.json."""

    def fail(self, about: RunDescription, reason: str, status: Ending) -> None:
        """The run ends without results.

        Args:
            about: the run; `start` may not have come yet.
            reason: one line.
            status: FAILED by an error, KILLED by whoever interrupted it.
        """

    def skip(self, about: RunDescription, finished: Path) -> None:
        """The same configuration had finished in the folder `finished`: nothing is run. No `start` came."""

    def log_sweep(self, sweep: Sweep) -> None:
        """All jobs of a sweep have ended: keep its table and pictures."""

    def log_entry(self, entry: Entry) -> str | None:
        """Keep a comparison or a report.

        Returns:
            Where it is now, for people ("MLflow at <uri>: run <id>"); None where it is kept nowhere.
        """
        return None

    def how_to_find(self, sweep: str) -> str | None:
        """A line that says how a sweep's runs are found by its id; None where they are kept nowhere."""
        return None


class Attempt:
    """Whether a block of `unless_away` came to its end."""

    failed = False


@contextmanager
def unless_away(where: str, consequence: str, refuse: bool = False) -> Iterator[Attempt]:
    """Let a block fail with a line, because what it talks to cannot be reached: a server, a database, a disk.

    Args:
        where: what may not be reached ("MLflow at http://...").
        consequence: what that means for the user, and how to mend it.
        refuse: raise the line as a UserError, where the block was all that the user asked for.
    """
    attempt = Attempt()
    try:
        yield attempt
    except UserError:
        raise
    except Exception as error:  # whatever a server, a database or a disk may raise
        attempt.failed = True
        line = f"{where} cannot be reached ({first_line(error)}); {consequence}"
        if refuse:
            raise UserError(line) from error
        log.warning("%s", line)


@contextmanager
def recorded(tracker: Tracker, about: RunDescription) -> Iterator[None]:
    """Tell the tracker of a failure of the block, and pass it on.

    The reason is printed first, so that nobody waits for a database to read it.
    """
    try:
        yield
    except UserError as error:
        log.error("medretrieval: %s", error)
        error.reported = True
        with suppress(UserError):  # what the tracker itself refuses has been said, or is second to this
            tracker.fail(about, str(error), "FAILED")
        raise
    except Exception as error:
        with suppress(UserError):
            tracker.fail(about, redacted(f"{type(error).__name__}: {error}"), "FAILED")
        raise
    except BaseException:
        with suppress(UserError):
            tracker.fail(about, "interrupted", "KILLED")
        raise


def tracker_from_config(node: Any) -> Tracker:
    """The tracker that a configuration's `tracking` names.

    Raises:
        UserError: no such class, or arguments it does not take.
    """
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=True)
    if not isinstance(node, dict):
        raise UserError(f"tracking={node}: give its keys, such as tracking._target_=<class>")
    return instantiate(node, Tracker, "tracking")


def mlflow_at(uri: str, experiment: str | None = None) -> Tracker:
    """MLflow at a store, else as conf/tracking/mlflow.yaml has it.

    Args:
        uri: of the store.
        experiment: its name; None for the one in the file.
    """
    node = _mlflow_node()
    node.uri = uri
    if experiment is not None:
        node.experiment = experiment
    return tracker_from_config(node)


def tracker_of(folder: Path, uri: str) -> Tracker:
    """The tracker that keeps what is said of finished runs: that of one of them.

    Args:
        folder: of that run.
        uri: the MLflow store, for a run that MLflow keeps and for one that nothing keeps (tracking=none).

    Raises:
        UserError: the run's configuration names code from elsewhere.
    """
    node = OmegaConf.load(folder / CONFIG).tracking
    target = node.get("_target_")  # runs of earlier versions have none: MLflow was all there was
    if target == class_name(Tracker):
        return mlflow_at(uri)
    if target in (None, _mlflow_node()["_target_"]):
        return mlflow_at(uri, node.experiment)
    require_known_code(OmegaConf.to_container(node), folder / CONFIG, "tracking")
    return tracker_from_config(node)


def _mlflow_node() -> DictConfig:
    return cast(DictConfig, OmegaConf.load(root() / "conf" / "tracking" / "mlflow.yaml"))


def class_name(cls: type) -> str:
    """A class as `_target_` names it."""
    return f"{cls.__module__}.{cls.__qualname__}"
