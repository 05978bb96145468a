"""Views of an experiment's runs that a link opens: best first, in columns, and as charts.

MLflow 3 keeps a view under a tag of the experiment, and shows it where an address ends in its key. Its own
table has no scores as columns. A version that does not know the tag shows its usual table.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medretrieval.runs.report import RunReport
from medretrieval.runs.tables import MAP
from medretrieval.track.mlflow.store import NOTE_TAG
from medretrieval.track.run_metrics import OBJECTIVE
from medretrieval.track.tracker import KIND_TAG, SWEEP_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW_TAG = "mlflow.sharedViewState."
OF_MODELS = "workflowType=machine_learning"  # else MLflow 3 shows its pages for language models beside it
ALL_RUNS = "runs"  # the key of the view of every run of an experiment
VARIED = ("encoder", "index", "metric")
RUNS_ONLY = f"tags.{KIND_TAG} = 'run'"  # no sweeps, compares and reports
LATENCY = "search/latency_ms_p50"
BESIDE = tuple(f"{OBJECTIVE}_{end}" for end in ("low", "high", "chance", "baseline"))
COSTS = (LATENCY, "search/bytes_per_vector", "time/total_s")
MAX_CHARTED_RUNS = 20  # the best ones; MLflow knows 10 and 20
COLUMN_WIDTH = 140  # pixels: the longest header of a usual view
# Above the description that is written here, so that a description of the user's own is left alone.
HEADING = "### Runs of medretrieval"
SECTIONS = ("ann", "audit", "embed", "search", "time", "Model metrics")  # of MLflow's own charts


def address(experiment_id: str, key: str, charts: bool = False) -> str:
    """Where the UI shows a view, from its `#` on.

    >>> address("1", "runs")
    '#/experiments/1/runs?viewStateShareKey=runs&workflowType=machine_learning'
    """
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}{mode}&{OF_MODELS}"


def sweep_view(sweep: str, reports: Sequence[RunReport]) -> dict[str, str]:
    """The experiment tag of the view of a sweep's runs.

    Args:
        sweep: its id.
        reports: of its runs.
    """
    place = [name for name in ("dataset", "protocol") if len({_place(r)[name] for r in reports}) > 1]
    return _view(sweep, f"{RUNS_ONLY} AND tags.{SWEEP_TAG} LIKE '%{sweep}%'", place, _scores(reports))


def run_views(report: RunReport) -> dict[str, str]:
    """The experiment tags of the two views that a run is in: of its dataset and protocol, and of all runs."""
    place = _place(report)
    same = "".join(f" AND tags.{name} {_is(value)}" for name, value in place.items())
    return _view(view_key(report), RUNS_ONLY + same, [], _scores([report])) | _view(
        ALL_RUNS, RUNS_ONLY, list(place), [MAP]
    )


def view_key(report: RunReport) -> str:
    """What the view of a run's dataset and protocol is called in addresses."""
    return re.sub(r"[^\w.-]+", "-", "-".join(_place(report).values()))


def keep_views(client: "MlflowClient", experiment_id: str, views: Mapping[str, str]) -> None:
    """Set views as tags of the experiment, and link all that it has in its description."""
    experiment = client.get_experiment(experiment_id)
    tags = dict(experiment.tags)
    for name, view in views.items():
        if tags.get(name) != view:
            client.set_experiment_tag(experiment_id, name, view)
    note = _description(experiment_id, {**tags, **views})
    if tags.get(NOTE_TAG, HEADING).startswith(HEADING) and tags.get(NOTE_TAG) != note:
        client.set_experiment_tag(experiment_id, NOTE_TAG, note)


def _description(experiment_id: str, tags: Mapping[str, str]) -> str:
    """Links to the views of single datasets and protocols, and to that of all runs; sweeps link their own."""
    keys = sorted(name.removeprefix(VIEW_TAG) for name in tags if name.startswith(VIEW_TAG))
    tasks = [key for key in keys if "tags.dataset" in tags[f"{VIEW_TAG}{key}"]]
    lines = [
        f"- {key}: [table]({address(experiment_id, key)}), [charts]({address(experiment_id, key, True)})"
        for key in [ALL_RUNS, *tasks]
    ]
    return "\n".join([HEADING, "", *lines])


def _place(report: RunReport) -> dict[str, str]:
    return {"dataset": report.dataset, "protocol": report.protocol.name}


def _is(value: str) -> str:
    """MLflow's test for a value; its quotes cannot hold a quote, which a wildcard stands for."""
    return f"= '{value}'" if "'" not in value else f"LIKE '{value.replace(chr(39), '_')}'"


def _scores(reports: Sequence[RunReport]) -> list[str]:
    """The objective under its own name where all runs have the same, and what else all of them have."""
    others = (MAP, "vote_accuracy")
    names = {report.objective.name for report in reports}
    return [*(names if len(names) == 1 else ()), *(n for n in others if all(n in r.scores for r in reports))]


def _view(key: str, runs: str, place: Sequence[str], scores: Sequence[str]) -> dict[str, str]:
    """A view as an experiment tag.

    Args:
        key: by which addresses name it.
        runs: MLflow's search for those that it shows.
        place: the tags that are columns, because they differ.
        scores: beside the objective.
    """
    unlike = [name for name in dict.fromkeys(scores) if name != OBJECTIVE]
    metrics = [OBJECTIVE, *BESIDE, *unlike, *COSTS]
    columns = [f"params.`{name}`" for name in (*place, *VARIED)] + [f"metrics.`{name}`" for name in metrics]
    view = {
        "searchFilter": runs,
        "orderByKey": f"metrics.`{OBJECTIVE}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "runsHiddenMode": f"FIRST_{MAX_CHARTED_RUNS}_RUNS",
        "columnWidths": dict.fromkeys(columns, COLUMN_WIDTH),
        **_charts(unlike if len(unlike) > 1 else [OBJECTIVE, *unlike]),
    }
    return {f"{VIEW_TAG}{key}": json.dumps(view)}


def _charts(scores: Sequence[str]) -> dict[str, Any]:
    """Bars of each score, and the objective against what a query costs; MLflow's own charts are folded."""
    bars = [{"type": "BAR", "metricKey": name, "runsCountToCompare": MAX_CHARTED_RUNS} for name in scores]
    axes = {"xaxis": {"key": LATENCY, "type": "METRIC"}, "yaxis": {"key": OBJECTIVE, "type": "METRIC"}}
    against = {"type": "SCATTER", "runsCountToCompare": 100, **axes}
    charts = [
        {"uuid": f"chart-{number}", "metricSectionId": "headline", "deleted": False, "isGenerated": False}
        | chart
        for number, chart in enumerate([*bars, against])
    ]
    sections = [("headline", "Headline scores", True), *((name, name, False) for name in SECTIONS)]
    return {
        "isAccordionReordered": True,  # else the sections stand in alphabetical order
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": uuid, "name": name, "display": shown, "isReordered": True}
            for uuid, name, shown in sections
        ],
    }
