"""What the template is handed: runs, the groups they are ranked in, and the whole report."""

from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from medretrieval.evaluate.score_table import is_headline
from medretrieval.report.compare_tables import Comparison, Pair
from medretrieval.report.pictures import Album, Pictures
from medretrieval.report.robustness.lines import Robustness
from medretrieval.runs.manifest import Manifest
from medretrieval.runs.report import RunReport
from medretrieval.runs.tables import MAP, baseline_names
from medretrieval.track.find_runs import Run


@dataclass
class RunView:
    """A run as the report shows it.

    Attributes:
        key: its anchor in the page.
        number: its place in its group's table, from 1.
        name: what tells it from the others of its group.
        more: what tells it beside the axes, from its configuration.
        axes: what each axis says.
        run: its files.
        pair: its difference to the best, None for the best and where nothing was compared.
        series: of its encoder in charts.
        recall: neighbors found by its index, None where it is exact.
        bar: its interval, drawn.
        links: what to call a file of its folder -> its address, seen from the page.
    """

    key: str
    number: int
    name: str
    more: str
    axes: dict[str, str]
    run: Run
    pair: Pair | None
    series: int
    recall: float | None
    bar: Markup = field(default_factory=Markup)
    pictures: Pictures = field(default_factory=Pictures)
    charts: list[Markup] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)

    @property
    def report(self) -> RunReport:
        """What the run says of itself."""
        return self.run.report

    @property
    def objective(self) -> float:
        """The score it is ranked by."""
        return self.report.objective.value

    @property
    def baseline(self) -> str | None:
        """Name of the baseline encoder, None where there is none."""
        return self.report.baseline.encoder if self.report.baseline else None

    @property
    def by_class(self) -> list[str]:
        """Scores of the table of classes: the objective, other precisions, mAP and the vote."""
        classes = list(self.report.per_class.values())
        known = classes[0].scores if classes else {}
        first = self.report.objective.name.removeprefix("macro_")
        others = [n for n in known if n.startswith("precision_at_") or n in (MAP, "vote_accuracy")]
        return [name for name in dict.fromkeys([first, *others]) if name in known][:4]

    @property
    def headline(self) -> list[str]:
        """The scores that stand with their intervals."""
        report = self.report
        return [name for name in report.scores if is_headline(name) or name == report.objective.name]


@dataclass
class Group:
    """Runs over the same queries, gallery, relevance and protocol, ranked by the same score.

    Attributes:
        key: its anchor in the page.
        heading: dataset, protocol, score, and what else tells it from other groups.
        runs: best first.
        columns: axes in which the runs differ.
        constant: axis -> value of the others.
        notes: how the differences were tested.
        manifest: of the best run, for the data that all of them have in common.
        classes: class, images of it among the queries, and in the gallery; empty where that is not known.
        picture: of the audit, a data URI.
        audits: title, and the audit's counts, of runs with different counts.
    """

    key: str
    heading: str
    score: str
    runs: list[RunView]
    columns: list[str]
    constant: dict[str, str]
    comparison: Comparison | None
    notes: list[str]
    manifest: Manifest
    classes: list[tuple[str, int, int]]
    picture: str | None
    audits: list[tuple[str, dict[str, float]]]
    encoders: list[tuple[str, Markup]]
    charts: list[Markup]

    @property
    def best(self) -> RunView:
        """The run at the top."""
        return self.runs[0]

    @property
    def baseline(self) -> str:
        """What the column of the baseline is called."""
        return baseline_names([run.report for run in self.runs])

    @property
    def alike(self) -> list[RunView]:
        """Runs that are not shown to differ from the best."""
        return [run for run in self.runs if run.pair is not None and run.pair.alike]

    @property
    def axes(self) -> list[str]:
        """The columns of the table: how an index is searched stands in the column of the index."""
        return [name for name in self.columns if name != "search" or "index" not in self.columns]

    @property
    def percent(self) -> str:
        """Of the intervals."""
        return self.best.report.percent


@dataclass
class Content:
    """The whole report."""

    groups: list[Group]
    robustness: list[Robustness]
    varied: dict[str, list[str]]
    fixed: dict[str, str]
    settings: dict[str, Any]
    commands: list[str]
    environments: list[tuple[dict[str, str], list[str]]]
    album: Album

    @property
    def runs(self) -> list[RunView]:
        """Every run, group by group."""
        return [run for group in self.groups for run in group.runs]
