"""The report written: runs found and gathered, the page beside them, and the page in MLflow."""

import shlex
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medretrieval.config import TrackingConfig
from medretrieval.errors import UserError, first_line
from medretrieval.report.gather import gather
from medretrieval.report.page import render
from medretrieval.report.views import Content
from medretrieval.runs import folder as run_folder
from medretrieval.track.find_runs import RUN_ID, config_of, find_all, load_run, local_folder

NAME = "report.html"


@dataclass(frozen=True)
class Request:
    """What a report is asked on.

    Attributes:
        runs: words that name runs.
        uri: MLflow's store.
        outputs: the folder that holds sweeps.
    """

    runs: list[str]
    uri: str
    outputs: Path

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
        experiment: of MLflow, that of the first run.
        content: what it says.
    """

    path: Path
    size_bytes: int
    sweep: str | None
    experiment: str
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
        content = gather(runs)
        experiment = config_of(runs[0])["tracking.experiment"]
        sweep = _sweep(request, experiment)
        page = render(content, _facts(request, sweep), failures)
    _write(out, page)
    return Written(out, len(page.encode()), sweep, experiment, content)


def _fetch_pictures(places: dict[Path, str], uri: str, aside: Path) -> None:
    """Runs that are in MLflow alone: what they show beside what `find` has fetched."""
    fetched = {f: s.removeprefix("MLflow run ") for f, s in places.items() if aside in f.parents}
    if not fetched:
        return
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    for folder, run_id in fetched.items():
        try:
            there = {found.path for found in client.list_artifacts(run_id)}
            for name in there & {run_folder.FIGURES, run_folder.AUDIT_PICTURE, run_folder.RANKING}:
                client.download_artifacts(run_id, name, str(folder))
        except Exception as error:  # whatever a server, a database or a disk may raise
            print(f"MLflow run {run_id}: no pictures ({first_line(error)})", file=sys.stderr)


def _sweep(request: Request, experiment: str) -> str | None:
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


def log_report(written: Written, request: Request) -> str | None:
    """Log the page to the sweep's own MLflow run, or to a run of its own; where MLflow is away, say so.

    Returns:
        The MLflow run's id, None where MLflow is away.
    """
    from medretrieval.track.mlflow_tracker import connect

    out, sweep, content = written.path, written.sweep, written.content
    try:
        config = TrackingConfig(True, request.uri, written.experiment, log_index=False, system_metrics=False)
        client, where = connect(config, request.outputs)
        run_id = _sweep_run(client, where, sweep)
        if run_id is None:
            tags = {"report": " ".join(run.run.source for run in content.runs)[:5000]}
            tags |= {"mlflow.source.name": "medretrieval"} | ({"sweep": sweep} if sweep else {})
            name = f"report {sweep or f'of {said_runs(content)}'}"
            run_id = client.create_run(where, run_name=name, tags=tags).info.run_id
            client.set_terminated(run_id, "FINISHED")
        client.log_artifact(run_id, str(out)) if out.name == NAME else _log_as(client, run_id, out)
        _link(client, where, run_id)
    except UserError:
        raise
    except Exception as error:  # whatever a server, a database or a disk may raise
        line = f"MLflow at {request.uri} is away ({first_line(error)}); this report is not logged there"
        print(line, file=sys.stderr)
        return None
    print(f"in MLflow at {request.uri}: run {run_id}", file=sys.stderr)
    return str(run_id)


def _log_as(client: Any, run_id: str, out: Path) -> None:
    client.log_text(run_id, out.read_text(encoding="utf-8"), NAME)


def _sweep_run(client: Any, experiment: str, sweep: str | None) -> str | None:
    """The run that holds a sweep's table: of its tag, and without an encoder."""
    if sweep is None:
        return None
    found = client.search_runs([experiment], f"tags.sweep = '{sweep}'", max_results=50000)
    own = [run.info.run_id for run in found if "encoder" not in run.data.tags]
    return own[0] if own else None


def _link(client: Any, experiment: str, run_id: str) -> None:
    """Put a link to the report at the top of the run's note."""
    note = client.get_run(run_id).data.tags.get("mlflow.note.content", "")
    link = f"[Report](#/experiments/{experiment}/runs/{run_id}/artifacts/{NAME})"
    if link not in note:
        client.set_tag(run_id, "mlflow.note.content", f"{link}\n\n{note}"[:5000].strip())
