"""The report written: runs found and gathered, the page beside them, and the page in MLflow."""

import shlex
import tempfile
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from medretrieval.errors import UserError, first_line
from medretrieval.files import put_in_place
from medretrieval.private import shareable
from medretrieval.report.gather import gather
from medretrieval.report.page import render
from medretrieval.report.views import Content
from medretrieval.runs import folder as run_folder
from medretrieval.runs.saved.names import local_folder
from medretrieval.track.find_runs import RUN_ID, config_of, find_all, load_run
from medretrieval.track.mlflow.store import download_pictures
from medretrieval.track.tracker import SWEEP_TAG, Entry, Tracker, tracker_of

NAME = "report.html"


@dataclass(frozen=True)
class Request:
    """What a report is asked on.

    Attributes:
        runs: words that name runs.
        uri: MLflow's store.
        outputs: the folder that holds sweeps.
        track: whether the tracker of the runs is to keep the page.
    """

    runs: list[str]
    uri: str
    outputs: Path
    track: bool

    @property
    def folder(self) -> Path | None:
        """The folder of the one sweep that is asked for, None where it is something else."""
        folder = local_folder(self.runs[0], self.outputs) if len(self.runs) == 1 else None
        return folder if folder is not None and (folder / "multirun.yaml").is_file() else None


@dataclass(frozen=True)
class Written:
    """A report that is written.

    Attributes:
        path: of the page.
        size_bytes: of the page.
        sweep: the id of the sweep that it is on as a whole, None where it is on something else.
        tracker: of the first run, which is to keep the report; None where none is.
        content: what it says.
    """

    path: Path
    size_bytes: int
    sweep: str | None
    tracker: Tracker | None
    content: Content


def write_report(request: Request, out: Path | None, failures: list[str]) -> Written:
    """Find runs, compare them and write the page.

    Args:
        request: which runs.
        out: the file; None for report.html in the sweep's folder, else in the outputs folder.
        failures: a line for each run of the sweep that did not finish.

    Raises:
        UserError: no such runs, files of them that cannot be read, or a file that cannot be written.
    """
    out = out or (request.folder or request.outputs) / NAME
    with tempfile.TemporaryDirectory() as aside:
        places = find_all(request.runs, request.uri, request.outputs, Path(aside))
        _fetch_pictures(places, request.uri, Path(aside))
        runs = [load_run(folder, source) for folder, source in places.items()]
        content = gather(runs, out.parent)
        sweep = _sweep(request, config_of(runs[0]).get("tracking.experiment"))
        tracker = tracker_of(runs[0].folder, request.uri) if request.track else None
        page = render(content, _facts(request, sweep), failures)
    write_page("report", out, page)
    return Written(out, len(page.encode()), sweep, tracker, content)


def _fetch_pictures(places: dict[Path, str], uri: str, aside: Path) -> None:
    """Runs that are in MLflow alone: what they show beside what `find` has fetched."""
    fetched = {f: s.removeprefix(run_folder.MLFLOW_SOURCE) for f, s in places.items() if aside in f.parents}
    download_pictures(fetched, uri)


def _sweep(request: Request, experiment: str | None) -> str | None:
    """The id of the sweep that is asked for as a whole; a report on some of its runs is not the sweep's."""
    word = request.runs[0]
    if request.folder is not None:
        return request.folder.resolve().name
    if len(request.runs) > 1 or RUN_ID.fullmatch(word) or word == experiment:
        return None
    return word if local_folder(word, request.outputs) is None else None


def _facts(request: Request, sweep: str | None) -> dict[str, str]:
    words = [*request.runs, *([f"outputs={request.outputs}"] if request.outputs != Path("outputs") else [])]
    return {
        "title": f"Retrieval report: sweep {sweep}" if sweep else "Retrieval report",
        "made": f"{datetime.now():%d %B %Y, %H:%M}",
        "version": version("medretrieval"),
        "command": shlex.join(["medretrieval", "report", *words]),
    }


def said_runs(content: Content) -> str:
    """How many runs, in words."""
    count = len(content.runs)
    return f"{count} run{'s' if count > 1 else ''}"


def write_page(verb: str, out: Path, page: str) -> None:
    """Write a page in one step, so that a reader never sees half of it.

    Args:
        verb: that writes it, for messages.
        out: the file.
        page: its content.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with put_in_place(out) as aside:
            aside.write_text(shareable(page), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{verb}: out={out}: cannot be written ({first_line(error)}); choose another"
        ) from error


def log_report(written: Written) -> str | None:
    """Let the runs' tracker keep the page: with the sweep, where it is on one as a whole.

    Returns:
        Where it is kept; None where no tracker is to keep it, keeps no reports, or cannot be reached, which
        it says itself.
    """
    if written.tracker is None:
        return None
    content, sweep = written.content, written.sweep
    entry = Entry(
        kind="report",
        name=f"report {sweep or f'of {said_runs(content)}'}",
        tags={"report": " ".join(run.run.source for run in content.runs)}
        | ({SWEEP_TAG: sweep} if sweep else {}),
        files={NAME: written.path.read_text(encoding="utf-8")},
        sweep=sweep,
        front=NAME,
    )
    return written.tracker.log_entry(entry)
