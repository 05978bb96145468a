"""The verb `report`: find runs, write the page, log it."""

import shlex
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from medretrieval.errors import UserError, choices, first_line
from medretrieval.report.gather import gather
from medretrieval.report.page import render
from medretrieval.report.views import Content
from medretrieval.runs import folder as run_folder
from medretrieval.sweep import reports_of
from medretrieval.track.find_runs import RUN_ID, config_of, default_uri, find, load_run, runs_and_options
from medretrieval.track.mlflow_store import download_pictures
from medretrieval.track.tracker import SWEEP_TAG, Entry, tracker_of

USAGE = """medretrieval report <run> <run> ... [key=value ...]

<run>  a sweep's id, a run's folder, a folder of runs, an MLflow run id, or an MLflow experiment's name

out=       the file to write (default: report.html in the sweep's folder, else in <outputs>)
log=       true (default): also log it to MLflow, with the sweep where it is one
uri=       MLflow store (MLFLOW_TRACKING_URI, or sqlite:///<outputs>/mlflow.db)
outputs=   where sweeps are (outputs)
"""
NAME = "report.html"


@dataclass(frozen=True)
class Options:
    """The keys of the command, checked."""

    runs: list[str]
    out: Path | None
    log: bool
    uri: str
    outputs: Path

    @property
    def folder(self) -> Path | None:
        """The folder of the one sweep that is asked for, None where it is something else."""
        places = [Path(self.runs[0]), self.outputs / "sweeps" / self.runs[0]] if len(self.runs) == 1 else []
        return next((p for p in places if (p / "multirun.yaml").is_file()), None)


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        UserError: an unknown key, runs that are not there, or a file that cannot be written.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    options = parse(arguments)
    out = options.out or (options.folder or options.outputs) / NAME
    with tempfile.TemporaryDirectory() as aside:
        places: dict[Path, str] = {}
        for what in options.runs:
            for folder, source in find(what, options.uri, options.outputs, Path(aside)):
                places.setdefault(folder, source)
        _fetch_pictures(places, options.uri, Path(aside))
        runs = [load_run(folder, source) for folder, source in places.items()]
        content = gather(runs)
        sweep = _sweep(options, config_of(runs[0]).get("tracking.experiment"))
        failures = reports_of(options.folder)[1] if options.folder else []
        page = render(content, _facts(options, sweep), failures)
        _write(out, page)
        print(f"{out}: {_runs(content)}, {len(page.encode()) / 1e6:.2f} MB")
        if options.log:
            place = tracker_of(runs[0].folder, options.uri).log_entry(as_entry(page, sweep, content))
            if place is not None:
                print(f"in {place}", file=sys.stderr)
    return 0


def parse(arguments: list[str]) -> Options:
    """Turn the command's words into checked options.

    Raises:
        UserError: no run, a key that is unknown or given twice, a value that cannot be meant.
    """
    keys = ("out", "log", "uri", "outputs")
    runs, given = runs_and_options("report", arguments, keys)
    if not runs:
        raise UserError("report wants runs: medretrieval report <sweep id> (--help says what else)")
    values = {"log": "true", "outputs": "outputs"} | given
    if values["log"] not in ("true", "false"):
        raise UserError(f"report: log={values['log']}: {choices(['true', 'false'])}")
    outputs = Path(values["outputs"])
    out = Path(values["out"]) if "out" in values else None
    if out is not None and out.is_dir():
        raise UserError(f"report: out={out}: a folder; give the name of a file: out={out / NAME}")
    return Options(runs, out, values["log"] == "true", values.get("uri") or default_uri(outputs), outputs)


def _fetch_pictures(places: dict[Path, str], uri: str, aside: Path) -> None:
    """Runs that are in MLflow alone: what they show beside what `find` has fetched."""
    download_pictures(
        {f: s.removeprefix(run_folder.MLFLOW_SOURCE) for f, s in places.items() if aside in f.parents}, uri
    )


def _sweep(options: Options, experiment: str | None) -> str | None:
    """The id of the sweep that is asked for as a whole; a report on some of its runs is not the sweep's."""
    word = options.runs[0]
    if options.folder is not None:
        return options.folder.resolve().name
    if len(options.runs) > 1 or Path(word).is_dir() or RUN_ID.fullmatch(word) or word == experiment:
        return None
    return word


def _facts(options: Options, sweep: str | None) -> dict[str, str]:
    words = [*options.runs, *([f"outputs={options.outputs}"] if options.outputs != Path("outputs") else [])]
    return {
        "title": f"Retrieval report: sweep {sweep}" if sweep else "Retrieval report",
        "made": f"{datetime.now():%d %B %Y, %H:%M}",
        "version": version("medretrieval"),
        "command": shlex.join(["medretrieval", "report", *words]),
    }


def _runs(content: Content) -> str:
    count = len(content.runs)
    return f"{count} run{'s' if count > 1 else ''}"


def _write(out: Path, page: str) -> None:
    """Write the page in one step, so that a reader never sees half of it."""
    aside = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(page, encoding="utf-8")
        aside.replace(out)
    except OSError as error:
        raise UserError(
            f"report: out={out}: cannot be written ({first_line(error)}); choose another"
        ) from error
    finally:
        if aside.parent.is_dir():
            aside.unlink(missing_ok=True)


def as_entry(page: str, sweep: str | None, content: Content) -> Entry:
    """The page as a tracker keeps it: with the sweep, where it is on one as a whole."""
    return Entry(
        kind="report",
        name=f"report {sweep or f'of {_runs(content)}'}",
        tags={"report": " ".join(run.run.source for run in content.runs)}
        | ({SWEEP_TAG: sweep} if sweep else {}),
        files={NAME: page},
        sweep=sweep,
        front=NAME,
    )
