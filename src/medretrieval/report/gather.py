"""What a report says: runs in groups that may be ranked together, and what is known of each."""

import base64
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from omegaconf import OmegaConf

from medretrieval.errors import UserError
from medretrieval.figures import embedding_map
from medretrieval.protocol.ranking import Labels
from medretrieval.report import charts
from medretrieval.report.compare import PLACES, Family, Options, compare, resampling_of
from medretrieval.report.compare_tables import Comparison
from medretrieval.report.pictures import Album, read_pictures
from medretrieval.report.robustness.lines import robustness
from medretrieval.report.views import Content, Group, RunView
from medretrieval.runs import folder as run_folder
from medretrieval.runs.manifest import Manifest
from medretrieval.runs.reopen import saved_ranking
from medretrieval.runs.report import numbers
from medretrieval.runs.tables import AXES, axis_values, best_first, differing
from medretrieval.runs.typed_json import to_json
from medretrieval.track.find_runs import Run, config_of, place

MOST_PICTURE = 1_000_000  # bytes of an audit picture
UNSAID = (*PLACES, "figures.")  # where things lie, and which pictures there are
SAID = ("dataset.corrupt", "encoder.view")  # by an axis
LINKED = {"map of the embeddings": embedding_map.FILE, "the vote of the neighbors": "vote.png"}
NAMES_FIRST = ("encoder", "view", "index", "search", "metric")


def gather(runs: Sequence[Run], page_folder: Path) -> Content:
    """Put runs into groups, compare them within each, and read their pictures.

    Args:
        runs: finished runs; the same run given twice counts once.
        page_folder: where the page will be, from which it links to files of the runs.
    """
    runs = list({run.folder.resolve(): run for run in runs}.values())
    album = Album()
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(place(run), []).append(run)
    named = headings([members[0] for members in together.values()])
    groups: list[Group] = []
    for heading, members in zip(named, together.values(), strict=True):
        groups.append(_group(f"g{len(groups) + 1}", heading, members))
    for whole in (True, False):  # the best runs first: what is left of the room is for the others
        for group in groups:
            for view in group.runs[:1] if whole else group.runs[1:]:
                _illustrate(view, group.percent, album, whole)
                view.links = _links(view.run, page_folder)
    configs = [_config(run) for run in runs]
    axes = axis_values([run.report for run in runs])
    shared = {k: v for k, v in configs[0].items() if all(c.get(k) == v and k in c for c in configs)}
    varied = {name: values for name, values in axes.items() if len(values) > 1}
    for key in sorted({key for config in configs for key in config} - shared.keys()):
        if not key.startswith(UNSAID) and key not in SAID and _varies(key, configs):
            varied[key] = list(dict.fromkeys(str(config[key]) for config in configs if key in config))
    return Content(
        groups=groups,
        robustness=robustness(runs),
        varied=varied,
        fixed={name: values[0] for name, values in axes.items() if len(values) == 1 and values[0]},
        settings={k: v for k, v in shared.items() if not k.startswith(UNSAID) and v is not None},
        commands=list(dict.fromkeys(c for run in runs if (c := _whole_command(run.manifest.command)))),
        environments=_environments(groups),
        album=album,
    )


def _config(run: Run) -> dict[str, Any]:
    """A run's configuration as flat keys; the prompts only where the queries are sentences."""
    text_evidence = run.report.protocol.prompts is not None
    return {k: v for k, v in config_of(run).items() if text_evidence or not k.startswith("prompts.")}


def _varies(key: str, configs: Sequence[dict[str, Any]]) -> bool:
    """Whether a key takes several values where the choice of its group (encoder.name, ...) is the same."""
    name = f"{key.split('.')[0]}.name"
    found: dict[str, set[str]] = {}
    for config in configs:
        found.setdefault(str(config.get(name)), set()).add(str(config.get(key)))
    return any(len(values) > 1 for values in found.values())


def headings(firsts: Sequence[Run]) -> list[str]:
    """Dataset, protocol and score; then what is needed to tell groups apart."""
    facts: list[Callable[[Run], str]] = [
        lambda r: f"{r.report.dataset}, {AXES['protocol'](r.report)}, {r.report.objective.name}",
        lambda r: f"size {r.manifest.config['dataset'].get('size')}",
        lambda r: f"queries with {r.report.corrupt}" if r.report.corrupt else "clean queries",
        lambda r: f"min_jaccard {r.manifest.evaluation.min_jaccard}",
        lambda r: f"confidence {r.manifest.evaluation.confidence}",
        lambda r: f"queries {r.manifest.data['query'].content_sha256[:8]}",
        lambda r: f"gallery images {r.manifest.data['gallery'].content_sha256[:8]}",
    ]
    headings = [facts[0](run) for run in firsts]
    for fact in facts[1:]:
        said = [fact(run) for run in firsts]
        for heading in {h for h in headings if headings.count(h) > 1}:
            alike = [i for i, h in enumerate(headings) if h == heading]
            if len({said[i] for i in alike}) > 1:
                for i in alike:
                    headings[i] += f", {said[i]}"
    return headings


def _group(key: str, heading: str, members: list[Run]) -> Group:
    comparison, notes = _compared(members)
    if comparison is not None:
        by_source = {run.source: run for run in members}
        ordered, names = [by_source[s] for s in comparison.sources], comparison.names
        if len(ordered) < len(members):
            count = len(members) - len(ordered)
            notes.append(
                "1 run that repeats another exactly is left out."
                if count == 1
                else f"{count} runs that repeat another exactly are left out."
            )
    else:
        ordered = [members[i] for i in best_first([run.report for run in members])]
        names = [
            " ".join(AXES[axis](run.report) for axis in NAMES_FIRST if AXES[axis](run.report))
            for run in ordered
        ]
    shown = differing([run.report for run in ordered])
    constant = {n: v for n, axis in AXES.items() if n not in shown and (v := axis(ordered[0].report))}
    pairs = {p.a: p for p in comparison.pairs if p.b == comparison.reference} if comparison else {}
    encoders = list(dict.fromkeys(AXES["encoder"](run.report) for run in ordered))
    views = []
    for i, (run, name) in enumerate(zip(ordered, names, strict=True)):
        axes = {n: axis(run.report) for n, axis in AXES.items()}
        plain = " ".join(axes[n] for n in shown if axes[n])
        more = name.removeprefix(plain).strip() if comparison else ""
        ann = run.report.ann_loss
        recall = list(ann.recall.values())[-1] if ann else None
        series = encoders.index(axes["encoder"])
        views.append(RunView(f"{key}r{i + 1}", i + 1, name, more, axes, run, pairs.get(i), series, recall))
    score = ordered[0].report.objective.name
    _draw_bars(views, score)
    return Group(
        key=key,
        heading=heading,
        score=score,
        runs=views,
        columns=list(shown),
        constant=constant,
        comparison=comparison,
        notes=notes,
        manifest=ordered[0].manifest,
        classes=_classes(ordered[0]),
        picture=_audit_picture(ordered),
        audits=_audits(views),
        encoders=[(name, charts.legend_shape(i)) for i, name in enumerate(encoders)],
        charts=_group_charts(key, heading, score, views),
    )


def _compared(members: list[Run]) -> tuple[Comparison | None, list[str]]:
    if len(members) < 2:
        return None, ["One run: there is nothing to compare it with here."]
    if len({run.report.fingerprint for run in members}) == 1:
        return None, ["The runs are repetitions of one another: there is nothing to compare."]
    how = resampling_of(members)
    options = Options(
        score=None, baseline=None, family=Family.all, resamples=how.resamples,
        permutations=how.resamples, confidence=how.confidence, seed=how.seed,
    )  # fmt: skip
    try:
        comparison = compare(members, options)
    except UserError as error:
        return None, [f"The differences are not tested. {error}"]
    return comparison, list(comparison.notes)


def _draw_bars(views: list[RunView], score: str) -> None:
    """Intervals of all runs on one scale, with chance and the baseline."""
    rows = []
    for view in views:
        ends = view.report.intervals.get(score)
        low, high = (ends.low, ends.high) if ends else (view.objective, view.objective)
        said = {"chance": view.report.chance.get(score), "baseline": view.report.baseline_score(score)}
        rows.append((view, low, high, [(kind, float(v)) for kind, v in said.items() if v is not None]))
    # Chance lies far below as a rule and would leave the intervals no room.
    places = [v for _, low, high, marks in rows for v in (low, high, *(m for k, m in marks if k != "chance"))]
    for view, low, high, marks in rows:
        view.bar = charts.range_bar(low, view.objective, high, marks, (min(places), max(places)))


def _group_charts(key: str, heading: str, score: str, views: list[RunView]) -> list[Markup]:
    if len(views) < 2:
        return []
    drawn = []
    costs = {
        "median latency of a query, ms": [view.report.speed.latency_ms.p50 for view in views],
        "bytes a vector": [view.report.speed.bytes_per_vector for view in views],
    }
    for i, (name, values) in enumerate(costs.items()):
        points = []
        for view, value in zip(views, values, strict=True):
            ends = view.report.intervals.get(score)
            low, high = (ends.low, ends.high) if ends else (None, None)
            place = float(value), view.objective
            points.append(charts.Point(view.key, view.number, view.series, view.name, *place, low, high))
        title = f"{score} against {name} ({heading})"
        drawn.append(charts.scatter(points, f"{name} (log scale)", score, title, f"{key}s{i}"))
    return drawn


def _classes(run: Run) -> list[tuple[str, int, int]]:
    """Images of each class; runs fetched from MLflow have no ranking to count in."""
    if not (run.folder / run_folder.RANKING).exists():
        return []
    ranking = saved_ranking(run.folder)
    names = list(run.manifest.config["dataset"].get("classes") or run.report.per_class)
    counts = [_count(labels, len(names)) for labels in (ranking.query_labels, ranking.gallery_labels)]
    if any(len(count) != len(names) for count in counts):
        return []
    return [(str(name), int(q), int(g)) for name, q, g in zip(names, *counts, strict=True)]


def _count(labels: Labels, classes: int) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = (
        labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    )
    return counts


def _audit_picture(runs: Sequence[Run]) -> str | None:
    """That of the best run that has one."""
    for run in runs:
        path = run.folder / run_folder.AUDIT_PICTURE
        if path.exists() and path.stat().st_size <= MOST_PICTURE:
            return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return None


def _audits(views: Sequence[RunView]) -> list[tuple[str, dict[str, float]]]:
    """Counts by encoder: near-duplicates depend on it."""
    found: dict[str, dict[str, float]] = {}
    for view in views:
        if view.report.audit is not None:
            found.setdefault(view.axes["encoder"], numbers(view.report.audit))
    return list(found.items())


def _illustrate(view: RunView, percent: str, album: Album, whole: bool) -> None:
    view.pictures = read_pictures(view.run.folder, view.run.source, album, whole)
    view.commands = [c for c in (_job_command(view.run), f"medretrieval again {_named(view.run)}") if c]
    if (found := view.pictures.curves) is not None:
        for name in ("precision", "recall"):
            said = (f"{name} at k", percent, view.baseline)
            view.charts.append(charts.curve(found["ks"], found[name], said, f"{view.key}{name}"))


def _links(run: Run, page_folder: Path) -> dict[str, str]:
    """Files of a run's folder that the page does not hold; none of a run that was fetched from MLflow."""
    if run.source.startswith(run_folder.MLFLOW_SOURCE):
        return {}
    places = {name: run.folder.absolute() / run_folder.FIGURES / file for name, file in LINKED.items()}
    return {
        name: quote(Path(os.path.relpath(path, page_folder.absolute())).as_posix())
        for name, path in places.items()
        if path.exists()
    }


def _whole_command(words: Sequence[str]) -> str | None:
    """The command line that started a run or its sweep; None where it was started from Python."""
    program = Path(words[0]) if words else Path()
    ours = program.stem == "medretrieval" or program.parts[-2:] == ("medretrieval", "__main__.py")
    return shlex.join(["medretrieval", *words[1:]]) if ours else None


def _job_command(run: Run) -> str | None:
    """A run's own command: one job of a sweep."""
    path = run.folder / ".hydra" / "overrides.yaml"
    if not path.exists():
        return None
    words: Any = OmegaConf.to_container(OmegaConf.load(path))  # ${...} stays as it was typed
    return shlex.join(["medretrieval", *map(str, words)])


def _named(run: Run) -> str:
    return shlex.quote(run.source.removeprefix(run_folder.MLFLOW_SOURCE))


def _environments(groups: Sequence[Group]) -> list[tuple[dict[str, str], list[str]]]:
    """Versions, commit, machine and threads, each with the runs that had them."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for group in groups:
        for view in group.runs:
            name = f"{group.heading}: {view.name}" if len(groups) > 1 else view.name
            found.setdefault(tuple(_environment(view.run.manifest).items()), []).append(name)
    return [(dict(facts), names) for facts, names in found.items()]


def _environment(manifest: Manifest) -> dict[str, str]:
    git, machine = manifest.git, manifest.machine
    commit = "not in a repository" if git.commit is None else git.commit
    threads = ", ".join(f"{name} {n}" for name, n in to_json(manifest.threads).items() if n is not None)
    return {
        "commit": commit + (" (with changes that are not committed)" if git.dirty else ""),
        "machine": f"{machine.processor}, {machine.cpus} CPUs, {machine.platform}",
        "threads": threads,
        "seed": str(manifest.seed),
        "python": manifest.python,
        **manifest.libraries,
    }
