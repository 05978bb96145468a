"""Runs as lines over severities of a corruption: which belong together, their chart and what they keep."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

from medretrieval.cache.entry import canonical_sha256
from medretrieval.datasets.corruptions import Corruption
from medretrieval.report import charts
from medretrieval.report.compare import PLACES, names_of
from medretrieval.runs.report import RunReport
from medretrieval.track.find_runs import Run, config_of, sides_of

CORRUPT = "dataset.corrupt"
UNSAID = (*PLACES, "figures.", CORRUPT)  # what may differ between the runs of a line
PRECISION = "precision_at_"


@dataclass(frozen=True)
class Line:
    """Runs over one corruption that differ in its severity alone; severity 0 is the run on clean queries.

    Attributes:
        corruption: its name.
        name: what tells its runs from those of other lines.
        series: of its settings in charts.
        runs: severity -> what the run says of itself, ascending.
    """

    corruption: str
    name: str
    series: int
    runs: dict[int, RunReport]

    def values(self, score: str) -> dict[int, float]:
        """Severity -> the score, of the runs that have it."""
        return {s: run.scores[score] for s, run in self.runs.items() if score in run.scores}

    def clean(self, score: str) -> float | None:
        """The score of the run on clean queries; None where there is none."""
        return self.values(score).get(0)

    def chance(self, score: str) -> float | None:
        """Of a random ranking, which no corruption changes."""
        return next(iter(self.runs.values())).chance.get(score)

    def mean(self, score: str) -> float | None:
        """The mean over the severities, without the clean one."""
        corrupted = [value for severity, value in self.values(score).items() if severity]
        return float(np.mean(corrupted)) if corrupted else None

    def kept(self, score: str) -> float | None:
        """This mean as a share of the clean score."""
        clean, mean = self.clean(score), self.mean(score)
        return mean / clean if clean and mean is not None else None

    @property
    def severities(self) -> list[int]:
        """Those of its runs, without the clean one."""
        return [severity for severity in self.runs if severity]


@dataclass(frozen=True)
class Robustness:
    """Lines over one task.

    Attributes:
        key: its anchor in the page.
        heading: dataset and protocol.
        scores: the objective, and precision where that is another score.
        lines: of all corruptions.
        legend: what each series is, and its marker.
        charts: of each corruption, one for each score.
        percent: of the bands.
    """

    key: str
    heading: str
    scores: list[str]
    lines: list[Line]
    legend: list[tuple[str, Markup]]
    charts: list[Markup]
    percent: str


def robustness(runs: Sequence[Run]) -> list[Robustness]:
    """The lines that runs make, by task; none where no run has corrupted queries."""
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(_task(run), []).append(run)
    found = [_of_task(f"b{i + 1}", members) for i, members in enumerate(tasks.values())]
    return [one for one in found if one is not None]


def _task(run: Run) -> str:
    """What the runs of a chart have in common: `find_runs.place` but for the query images."""
    query, gallery = sides_of(run)
    how, report = run.manifest.evaluation, run.report
    sides = query.labels_sha256, query.groups_sha256, gallery
    return repr(
        (
            report.dataset,
            replace(report.protocol, center=None),
            sides,
            how.min_jaccard,
            how.confidence,
            report.objective.name,
        )
    )


def _settings(run: Run) -> str:
    """What the runs of a line have in common: all but the corruption, and the weights."""
    config = {key: value for key, value in config_of(run).items() if not key.startswith(UNSAID)}
    # In an order of its own: that of an identity depends on whether it came from the cache.
    return canonical_sha256({"config": config, "encoder": run.report.encoder.identity})


def _of_task(key: str, runs: Sequence[Run]) -> Robustness | None:
    if not any(run.report.corrupt for run in runs):
        return None
    settings: dict[str, list[Run]] = {}
    for run in runs:
        settings.setdefault(_settings(run), []).append(run)
    settings = {k: members for k, members in settings.items() if any(run.report.corrupt for run in members)}
    names = names_of([members[0] for members in settings.values()], but=(CORRUPT,))
    lines = [
        line
        for series, (name, members) in enumerate(zip(names, settings.values(), strict=True))
        for line in _lines(name, series, members)
    ]
    lines.sort(key=lambda line: (line.corruption, line.series))
    first = runs[0].report
    scores = _scores(first)
    return Robustness(
        key=key,
        heading=f"{first.dataset}, {first.protocol.name}",
        scores=scores,
        lines=lines,
        legend=[(name, charts.legend_shape(series)) for series, name in enumerate(names)],
        charts=_charts(key, scores, lines),
        percent=first.percent,
    )


def _lines(name: str, series: int, runs: Sequence[Run]) -> list[Line]:
    """A line for each corruption; all of them begin at the run on clean queries."""
    clean: dict[int, RunReport] = {}
    found: dict[str, dict[int, RunReport]] = {}
    for run in runs:
        if run.report.corrupt is None:
            clean.setdefault(0, run.report)
            continue
        corruption = Corruption.from_word(run.report.corrupt)
        found.setdefault(corruption.name, {}).setdefault(corruption.severity, run.report)
    return [
        Line(corruption, name, series, dict(sorted((clean | severities).items())))
        for corruption, severities in found.items()
    ]


def _scores(report: RunReport) -> list[str]:
    """The objective, and the precision at the middle depth."""
    depths = [int(n.removeprefix(PRECISION)) for n in report.scores if n.startswith(PRECISION)]
    middle = [f"{PRECISION}{sorted(depths)[len(depths) // 2]}"] if depths else []
    return list(dict.fromkeys([report.objective.name, *middle]))


def _charts(key: str, scores: Sequence[str], lines: Sequence[Line]) -> list[Markup]:
    """Those that have a line to draw: two severities at least."""
    drawn: list[Markup] = []
    for corruption in dict.fromkeys(line.corruption for line in lines):
        for score in scores:
            bands = [
                band
                for line in lines
                if line.corruption == corruption and len((band := _band(line, score)).points) > 1
            ]
            if bands:
                title = f"{score} under {corruption}"
                axis = f"severity of {corruption} (0: clean)"
                drawn.append(charts.bands(bands, (axis, score), title, f"{key}c{len(drawn)}"))
    return drawn


def _band(line: Line, score: str) -> charts.Band:
    points = []
    for severity, value in line.values(score).items():
        ends = line.runs[severity].intervals.get(score)
        points.append((severity, value, ends.low if ends else None, ends.high if ends else None))
    return charts.Band(line.series, line.name, points, line.chance(score))
