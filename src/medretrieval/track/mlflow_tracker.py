"""MLflow as a tracker: a run of ours is a run there, with its scores, parameters, inputs and small files.

Where MLflow cannot be reached, the results stay in the run's folder with all that is needed to log them later
(`medretrieval log <folder>`).
"""

import json
import logging
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.adapt.stage import ADAPTATION, JOINED
from medretrieval.errors import UserError
from medretrieval.private import each, hide, same, shareable
from medretrieval.runs.folder import (
    AUDIT_PAIRS,
    AUDIT_PICTURE,
    CONFIG,
    FIGURES,
    HALVES,
    MANIFEST,
    PER_QUERY,
    PROMPTS,
    RANKING,
    SCORES,
)
from medretrieval.runs.report import numbers, read_report
from medretrieval.track.exchange import Patience, require_real
from medretrieval.track.mlflow.database import prepare_database, sqlite_file
from medretrieval.track.mlflow.entries import log_entry_run, log_sweep_run
from medretrieval.track.mlflow.notes import run_note
from medretrieval.track.mlflow.shared_map import FILE as MAP_FILE
from medretrieval.track.mlflow.shared_map import log_map
from medretrieval.track.mlflow.store import (
    MAX_TAG_LENGTH,
    NOTE_TAG,
    connect,
    create_run,
    log_params,
)
from medretrieval.track.mlflow.views import keep_views, run_views
from medretrieval.track.run_description import TRACKING, read_tracking, write_tracking
from medretrieval.track.run_metrics import run_metrics
from medretrieval.track.tracker import SWEEP_TAG, Ending, Entry, RunDescription, Sweep, Tracker, unless_away

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

FOLDER_TAG = "folder"  # where the run's files are, for verify and again
ARTIFACTS = (SCORES, PER_QUERY, RANKING, CONFIG, MANIFEST)
WHERE_MADE = (AUDIT_PAIRS, AUDIT_PICTURE, HALVES, PROMPTS, ADAPTATION, JOINED)  # logged where a run has them
TEXTS = (".json", ".yaml")
LARGE_ARTIFACTS = ("index.faiss", "embeddings_query.npy", "embeddings_gallery.npy")


class MLflowTracker(Tracker):
    """Keeps runs in an experiment of an MLflow store.

    Attributes:
        uri: of the store: sqlite:///<file>, or a server's http://...; a password in it is hidden.
        experiment: its name; made where it is new.
        log_index: whether the index and the embeddings are logged too.
        system_metrics: whether CPU, memory and GPU are sampled while a run lasts.
        patience: how long a server is waited for: in a run, for all that it is told together.
        run_id: of the run there, None before `start` and where MLflow could not be reached then.
    """

    def __init__(self, uri: str, experiment: str, log_index: bool, system_metrics: bool) -> None:
        for name, text in (("uri", uri), ("experiment", experiment)):
            if text is None or str(text) == "":
                raise UserError(f"tracking.{name}={text}: a value is needed")
        for name, value in (("log_index", log_index), ("system_metrics", system_metrics)):
            if not isinstance(value, bool):
                raise UserError(f"tracking.{name}={value}: give true or false")
        self.uri, self.experiment = hide(str(uri)), str(experiment)
        require_real(self.uri)
        self.log_index, self.system_metrics = log_index, system_metrics
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._tried = False
        self.patience = Patience(in_all=True)
        self._monitor: Any = None

    @property
    def where(self) -> str:
        """The store, for messages."""
        return f"MLflow at {self.uri}"

    def _later(self, folder: Path) -> str:
        """The command that logs a run there."""
        return f"medretrieval log {shlex.quote(str(folder))} uri={shlex.quote(self.uri)}"

    def prepare(self) -> None:
        """Make the SQLite database and the experiment: parallel jobs on a new database would break it."""
        if sqlite_file(self.uri) is not None:
            with unless_away(self.where, "each job tries again"):
                self._connect()

    def start(self, about: RunDescription) -> None:
        """Create the run with its tags and parameters, so that it can be seen while it works."""
        self._create(about, "its results are kept in the run's folder")
        if self._client is not None and self.run_id is not None and self.system_metrics:
            with unless_away(self.where, "CPU and memory are not sampled"):
                self._monitor = _monitor(self.run_id, self.uri)

    def finish(self, about: RunDescription, folder: Path) -> None:
        """Log what is in the run's folder, and note there what was logged where."""
        logged = False
        self._stop_monitor()
        if self._client is None or self.run_id is None:
            log.warning("not in MLflow; log it later with: %s", self._later(folder))
        else:
            later = f"its results are kept; log them later with: {self._later(folder)}"
            with unless_away(self.where, later) as attempt:
                log_folder(self._client, self.run_id, folder, about, self.log_index)
            logged = not attempt.failed
        self._note(folder, about, logged)

    def fail(self, about: RunDescription, reason: str, status: Ending) -> None:
        """Mark the run FAILED or KILLED with its reason; an interrupted one is not made only to be marked."""
        self._stop_monitor()
        if not self._tried and status == "FAILED":
            self._create(about, "its failure is not recorded there")
        if self._client is not None and self.run_id is not None:
            with unless_away(self.where, "its failure is not recorded there"):
                self._client.set_tag(self.run_id, "failure", shareable(reason)[:MAX_TAG_LENGTH])
                self._client.set_tag(
                    self.run_id, NOTE_TAG, f"**{status}**: {shareable(reason)}"[:MAX_TAG_LENGTH]
                )
                self._client.set_terminated(self.run_id, status)

    def skip(self, about: RunDescription, finished: Path) -> None:
        """Let the earlier run be found with this sweep too; where it is not in this store, log it there."""
        with unless_away(self.where, f"the skipped run in {finished} is not marked there"):
            run_id = logged_run(finished, self.uri) or self.log_finished(finished, about)
            sweep = about.tags.get(SWEEP_TAG)
            if sweep is not None:
                client, _ = self._connect()
                old = client.get_run(run_id).data.tags.get(SWEEP_TAG, "")
                if sweep not in old.split():
                    client.set_tag(run_id, SWEEP_TAG, f"{old} {sweep}".strip())

    def log_sweep(self, sweep: Sweep) -> None:
        """Log a run of the sweep's own with its table and pictures."""
        with unless_away(self.where, "the sweep's table is not there"):
            log_sweep_run(*self._connect(), sweep)

    def log_entry(self, entry: Entry) -> str | None:
        """Log a comparison or a report to a run of its own, a sweep's report to the sweep's."""
        with unless_away(self.where, f"what {entry.kind} made is not logged there"):
            run_id = log_entry_run(*self._connect(), entry)
            return f"{self.where}: run {run_id}"
        return None

    def how_to_find(self, sweep: str) -> str | None:
        """By the tag of the sweep."""
        return f"in the MLflow UI filter by: tags.{SWEEP_TAG} LIKE '%{sweep}%'"

    def log_finished(self, folder: Path, about: RunDescription | None = None) -> str:
        """Log a run that has finished before, as its tracking.json describes it.

        Args:
            folder: of the run.
            about: its description where it has no tracking.json.

        Returns:
            The run's id.
        """
        note: dict[str, Any] = {}
        if about is None or (folder / TRACKING).exists():
            note = read_tracking(folder)
            about = RunDescription(**note["about"])
        client, experiment_id = self._connect()
        # A run that was started there and could not be finished.
        self.run_id = note["run_id"] if same(note.get("uri", ""), self.uri) else None
        if self.run_id is None:
            self.run_id = create_run(client, experiment_id, about.name, about.tags)
        log_folder(client, self.run_id, folder, about, self.log_index)
        self._note(folder, about, logged=True)
        return self.run_id

    def _connect(self) -> tuple["MlflowClient", str]:
        """A client and the experiment's id; of a store that was left half-made, with the runs it missed."""
        database = sqlite_file(self.uri)
        remade = database is not None and prepare_database(database)
        connection = connect(self.uri, self.experiment, self.patience)
        if database is not None and remade:
            self._log_missed(database.parent)
        return connection

    def _log_missed(self, outputs: Path) -> None:
        """Log the finished runs in a folder that were meant for this store and are not in it."""
        for path in sorted(outputs.rglob(TRACKING)):
            folder = path.parent
            with unless_away(self.where, f"log it later with: {self._later(folder)}"):
                note = read_tracking(folder)
                if (folder / SCORES).exists() and same(note.get("uri", ""), self.uri) and not note["logged"]:
                    tracker = MLflowTracker(
                        self.uri, note["experiment"], note["log_index"], system_metrics=False
                    )
                    log.info("%s: logged as run %s at %s", folder, tracker.log_finished(folder), self.uri)

    def _create(self, about: RunDescription, consequence: str) -> None:
        self._tried = True
        with unless_away(self.where, consequence) as attempt:
            self._client, experiment_id = self._connect()
            self.run_id = create_run(self._client, experiment_id, about.name, about.tags)
            log_params(self._client, self.run_id, about.params)
        if attempt.failed:
            self._client = None

    def _note(self, folder: Path, about: RunDescription, logged: bool) -> None:
        facts = {"uri": self.uri, "experiment": self.experiment, "log_index": self.log_index}
        write_tracking(folder, about, self, **facts, run_id=self.run_id, logged=logged)

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            monitor, self._monitor = self._monitor, None
            with unless_away(self.where, "the last samples of CPU and memory are not there"):
                self.patience.call(monitor.finish)


def logged_run(folder: Path, uri: str) -> str | None:
    """The id under which a finished run is in the MLflow store, None where it is not there."""
    if not (folder / TRACKING).exists():
        return None
    note = read_tracking(folder)
    run_id: str | None = note["run_id"] if same(note.get("uri", ""), uri) and note["logged"] else None
    return run_id


def _log_file(client: "MlflowClient", run_id: str, path: Path, place: str) -> None:
    """Log a file into a folder of the run's artifacts; what is text without the path of the user's home."""
    if path.suffix in TEXTS:
        client.log_text(run_id, shareable(path.read_text()), str(Path(place) / path.name))
    else:
        client.log_artifact(run_id, str(path), place or None)


def _monitor(run_id: str, uri: str) -> Any:
    import mlflow
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    mlflow.set_tracking_uri(require_real(uri))
    monitor = SystemMetricsMonitor(run_id)
    monitor.start()
    return monitor


def log_folder(
    client: "MlflowClient", run_id: str, folder: Path, about: RunDescription, log_index: bool
) -> None:
    """Log a finished run's folder: scores in one call, inputs, note, small files; then FINISHED."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag

    report, experiment_id = read_report(folder), client.get_run(run_id).info.experiment_id
    now = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now, 0) for name, value in run_metrics(report).items()]
    metrics += [
        Metric(f"autotune/{name}", value, now, step)
        for step, point in enumerate(report.autotune.curve if report.autotune else [])
        for name, value in numbers(point).items()
    ]
    log_params(client, run_id, about.params)  # those of `start` once more, and the fitted ones
    note, page = run_note(report), folder / FIGURES / MAP_FILE
    if page.exists():  # a link into the cache, which may have been pruned since
        note += f"\n- [Map of the embeddings]({log_map(client, experiment_id, run_id, page)})"
    tags = [RunTag(NOTE_TAG, shareable(note)), RunTag(FOLDER_TAG, shareable(str(folder.absolute())))]
    client.log_batch(run_id, metrics=metrics, tags=tags)
    roles: dict[str, list[str]] = {}  # of each dataset: MLflow keeps one that is given twice once
    for role, facts in about.inputs.items():
        roles.setdefault(json.dumps(facts, sort_keys=True), []).append(role)
    inputs = [
        DatasetInput(
            Dataset(source_type="local", **each(json.loads(facts), shareable)),
            [InputTag("mlflow.data.context", ", ".join(names))],
        )
        for facts, names in roles.items()
    ]
    client.log_inputs(run_id, inputs)
    some = tuple(name for name in WHERE_MADE if (folder / name).exists())
    for name in ARTIFACTS + some + (LARGE_ARTIFACTS if log_index else ()):
        _log_file(client, run_id, folder / name, "")
    for path in sorted((folder / FIGURES).glob("*")):
        if path.name != MAP_FILE:
            _log_file(client, run_id, path, FIGURES)
    client.set_terminated(run_id, "FINISHED")
    # One of two jobs that end in the same moment may be refused; the run is logged all the same.
    with unless_away("MLflow's table of views", "the next run sets the views"):
        keep_views(client, experiment_id, run_views(report))
