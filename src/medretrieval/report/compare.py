"""The verb `compare`: which of several runs is best, and is that more than luck of the queries?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError
from medretrieval.evaluate.half_samples import IN_BOTH_ROLES, MIN_UNITS, HalfSamples, PairedHalves
from medretrieval.evidence.bootstrap import (
    Flips,
    Resamples,
    Resampling,
    bootstrap,
    holm,
    means,
    not_different,
    sign_flips,
)
from medretrieval.protocol.ranking import class_members
from medretrieval.report.compare_tables import Comparison, Pair
from medretrieval.runs.folder import GROUP, HALVES, ID, LABEL, N_RELEVANT, PER_QUERY
from medretrieval.runs.report import ProtocolReport
from medretrieval.runs.tables import best_first, differing
from medretrieval.track.find_runs import Run, config_of

# Columns that runs must have in common, and what to call them in messages.
IN_COMMON = {ID: "query ids", LABEL: "labels", N_RELEVANT: "counts of relevant images"}
# Hashes of a side of the data, and what they are of.
DATA = {"content_sha256": "{}", "labels_sha256": "labels", "groups_sha256": "groups"}
# How intervals are made where runs made theirs in different ways.
USUAL = Resampling(resamples=10_000, confidence=0.95, seed=0)
PLACES = ("paths.", "tracking.", "force", "verbose", "dataset.root")


@dataclass(frozen=True)
class Options:
    """What runs are compared by, and how the differences are tested.

    Attributes:
        score: None for the objective of the first run.
        baseline: a run's name, a part of it or its number; None for the best run.
        pairs: "best" (each run with the best or the baseline) or "all".
        resamples: of the bootstrap.
        permutations: of the sign-flip test.
        confidence: of the intervals.
        seed: of both.
    """

    score: str | None
    baseline: str | None
    pairs: str
    resamples: int
    permutations: int
    confidence: float
    seed: int

    @property
    def alpha(self) -> float:
        """What counts as significant; 0.05 and not 0.050000000000000044."""
        return round(1 - self.confidence, 12)

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        return Resampling(self.resamples, self.confidence, self.seed)


def resampling_of(runs: Sequence[Run]) -> Resampling:
    """How the runs made their own intervals, which a comparison repeats; the usual where they differ."""
    how = [
        Resampling(r.manifest.evaluation.resamples, r.manifest.evaluation.confidence, r.manifest.seed)
        for r in runs
    ]
    agreed = {
        field.name: values.pop()
        for field in fields(Resampling)
        if len(values := {getattr(one, field.name) for one in how}) == 1
    }
    return replace(USUAL, **agreed)


def compare(runs: list[Run], options: Options) -> Comparison:
    """Test the differences between runs over the same queries.

    Args:
        runs: finished runs, in any order.
        options: score, baseline, and how to test.

    Raises:
        UserError: runs that cannot be compared, saying in what they differ; no such score or baseline.
    """
    score = options.score or runs[0].report.objective.name
    _require_comparable(runs, score)
    runs, values, labels, groups = _matched(runs, score)
    members = class_members(labels) if score.startswith("macro_") else None
    order = best_first([run.report for run in runs], [float(mean) for mean in means(values, members)])
    runs, values = [runs[i] for i in order], values[:, order]
    names = _names(runs)
    reference = _baseline(options.baseline, names)
    one_set = runs[0].report.resampled.endswith(IN_BOTH_ROLES)
    drawn: PairedHalves | _Drawn
    if one_set:
        drawn = _halves(runs, score, means(values, members), options.confidence)
    else:
        flips = sign_flips(values, options.permutations, options.seed, groups, members)
        drawn = _Drawn(bootstrap(values, options.resampling, groups, members), flips)
    tested = [(i, reference) for i in range(len(runs)) if i != reference]
    shown = len(tested)
    # The best is chosen on these same queries, so its comparisons are corrected as part of all pairs.
    if options.pairs == "all" or options.baseline is None:
        others = [i for i in range(len(runs)) if i != reference]
        tested += [(a, b) for b in others for a in others if a > b]
    p = [drawn.p(a, b) for a, b in tested]
    adjusted = holm(p)
    alike = not_different(adjusted, options.alpha)
    pairs = [
        Pair(a, b, *drawn.difference(a, b), raw, corrected, same)
        for (a, b), raw, corrected, same in zip(tested, p, adjusted, alike, strict=True)
    ]
    corrected_for, pairs = len(pairs), pairs if options.pairs == "all" else pairs[:shown]
    rows = [(float(mean), *(drawn.interval(i) or (None, None))) for i, mean in enumerate(drawn.means)]
    units = ("images" if one_set else "queries") if groups is None else _groups_said(groups, one_set)
    without = int(np.isnan(values[:, 0]).sum())
    comparison = Comparison(
        score, options.confidence, names, [r.source for r in runs], rows, reference, pairs, []
    )
    notes = _notes(
        comparison, options, _Tested(len(values) - without, without, units, corrected_for, one_set)
    )
    if any(run.report.encoder.random_weights for run in runs):
        notes.append("* RANDOM WEIGHTS: says nothing about the model")
    return replace(comparison, notes=notes)


@dataclass(frozen=True)
class _Tested:
    """What the tests rest on: queries with something to find and without, what varies, comparisons."""

    queries: int
    without: int
    units: str
    comparisons: int
    one_set: bool


@dataclass(frozen=True)
class _Drawn:
    """Bootstrap and sign flips of the queries, as `PairedHalves` answers."""

    resamples: Resamples
    flips: Flips

    @property
    def means(self) -> NDArray[np.float64]:
        return self.resamples.means

    def interval(self, run: int) -> tuple[float, float]:
        return self.resamples.interval(run)

    def difference(self, a: int, b: int) -> tuple[float, float, float]:
        return self.resamples.difference(a, b)

    def p(self, a: int, b: int) -> float:
        return self.flips.p(a, b)


def _halves(runs: list[Run], score: str, found: NDArray[np.float64], confidence: float) -> PairedHalves:
    """The runs' scores in halves of their images; refused where a run has none of this score."""
    columns, sides = [], None
    for run in runs:
        path = run.folder / HALVES
        halves = HalfSamples.load(path) if path.exists() else None
        if halves is None or score not in halves.scores:
            raise UserError(
                f"compare: {run.source}: {score} cannot be tested: the queries are the gallery, and {HALVES} "
                f"does not have it (fewer than {MIN_UNITS} images or groups, too many images for it, or a "
                "graded score); give another score=, or compare runs of protocol=query_gallery"
            )
        if sides is not None and not np.array_equal(sides, halves.sides):
            raise UserError(
                f"compare: {runs[0].source} and {run.source} have other halves in {HALVES}; run "
                "both with force=true"
            )
        sides = halves.sides
        columns.append(halves.scores[score])
    assert sides is not None
    return PairedHalves(found, np.stack(columns, axis=1), sides, confidence)


def _groups_said(groups: NDArray[np.str_], one_set: bool) -> str:
    count = len(np.unique(groups))
    return (
        f"whole groups of images ({count} groups)" if one_set else f"whole groups of queries ({count} groups)"
    )


def _require_comparable(runs: list[Run], score: str) -> None:
    _require_same(runs, "the dataset", [run.report.dataset for run in runs])
    # Centering changes the vectors, as an encoder does, not who queries whom.
    for key in sorted({field.name for field in fields(ProtocolReport)} - {"center"}):
        _require_same(runs, f"protocol.{key}", [getattr(run.report.protocol, key) for run in runs])
    for role in ("query", "gallery"):
        for what in DATA:
            _require_same_data(runs, role, what)
    jaccard = [run.manifest.evaluation.min_jaccard for run in runs]
    _require_same(runs, "evaluation.min_jaccard", jaccard)
    column = score.removeprefix("macro_")
    if lacking := [run.source for run in runs if column not in run.scores]:
        common = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
        raise UserError(
            f"compare: score={score}: {_listed(lacking)} has no such score; choose from (also with macro_ "
            f"before it): {', '.join(common)}"
        )


def _require_same(runs: list[Run], what: str, facts: Sequence[Any]) -> None:
    if others := [i for i, fact in enumerate(facts) if fact != facts[0]]:
        raise UserError(
            f"compare: {what} is {facts[0]} in {runs[0].source} but {facts[others[0]]} in "
            f"{_listed([runs[i].source for i in others])}; compare runs for which it is the same"
        )


def _require_same_data(runs: list[Run], role: str, what: str) -> None:
    """Of one dataset: other images, other labels or other groups, said without their hashes."""
    sides = [run.manifest.data[role] for run in runs]
    if others := [i for i, side in enumerate(sides) if getattr(side, what) != getattr(sides[0], what)]:
        one, other = (f"{side.split}, {side.count} {side.kind}" for side in (sides[0], sides[others[0]]))
        named = DATA[what].format(sides[0].kind), "queries" if role == "query" else role
        raise UserError(
            f"compare: the {named[0]} of the {named[1]} are not the same in {runs[0].source} ({one}) "
            f"and in {_listed([runs[i].source for i in others])} ({other}), though the dataset is called "
            f"{runs[0].report.dataset} in both; compare runs over the same data"
        )


def _listed(sources: list[str]) -> str:
    return sources[0] + (f" (and in {len(sources) - 1} more)" if len(sources) > 1 else "")


def _matched(
    runs: list[Run], score: str
) -> tuple[list[Run], NDArray[np.float64], NDArray[Any], NDArray[np.str_] | None]:
    """Runs without duplicates, their scores float64 [q, runs], labels and groups, queries as in the first."""
    from pyarrow import parquet

    column, first = score.removeprefix("macro_"), None
    kept: dict[tuple[str, bytes], tuple[Run, NDArray[np.float64]]] = {}
    for run in runs:
        found = parquet.read_table(run.folder / PER_QUERY, columns=[*IN_COMMON, column])
        if first is None:
            first = found
        elif not found[ID].equals(first[ID]):
            found = _in_order_of(first[ID], found)
        for name, what in IN_COMMON.items():
            if not found[name].equals(first[name]):
                raise UserError(
                    f"compare: {runs[0].source} and {run.source} differ in their {what} (column {name!r} of "
                    f"{PER_QUERY}); compare runs over the same queries and gallery"
                )
        values = found[column].to_numpy()
        if (np.isnan(values) != (found[N_RELEVANT].to_numpy() == 0)).any():
            raise UserError(f"{run.source}: {column} is missing for some queries; run it with force=true")
        # The same configuration counts as another run only where it came out differently.
        kept.setdefault((run.report.fingerprint, values.tobytes()), (run, values))
    if len(kept) < 2 or first is None:
        raise UserError(f"compare: {runs[0].source} is the only run given; give two or more different ones")
    if (first[N_RELEVANT].to_numpy() > 0).sum() < 2:
        raise UserError("compare: fewer than two queries have a relevant image; nothing can be tested")
    kept_runs, columns = zip(*kept.values(), strict=True)
    return list(kept_runs), np.stack(columns, axis=1), _label_array(first[LABEL]), _groups(kept_runs[0])


def _in_order_of(ids: Any, table: Any) -> Any:
    """The rows of a table in the order of other ids; as they are where the ids are not the same."""
    rows = {query: row for row, query in enumerate(table[ID].to_pylist())}
    wanted = ids.to_pylist()
    return table.take([rows[query] for query in wanted]) if rows.keys() == set(wanted) else table


def _groups(run: Run) -> NDArray[np.str_] | None:
    """The queries' groups in the order of its file, None where they are not known."""
    from pyarrow import parquet

    path = run.folder / PER_QUERY
    if GROUP not in parquet.read_schema(path).names:
        return None
    return np.array(parquet.read_table(path, columns=[GROUP])[GROUP].to_pylist())


def _label_array(column: Any) -> NDArray[Any]:
    labels = column.to_pylist()
    if not isinstance(labels[0], list):
        return np.array(labels, dtype=np.int64)
    findings = np.zeros((len(labels), 1 + max((f for row in labels for f in row), default=0)), dtype=np.bool_)
    for row, found in zip(findings, labels, strict=True):
        row[found] = True
    return findings


def _names(runs: list[Run]) -> list[str]:
    """What differs between the runs; where reports do not tell, what differs in their configuration."""
    shown = differing([run.report for run in runs]).values()
    names = [" ".join(text for axis in shown if (text := axis(run.report))) for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        twins = [i for i, other in enumerate(names) if other == name]
        configs = [config_of(runs[i]) for i in twins]
        known = {key for config in configs for key in config if not key.startswith(PLACES)}
        # One key of those that differ in the same way: the shortest, the others are filled in from it.
        telling: dict[tuple[str, ...], str] = {}
        for key in sorted(known, key=lambda key: (len(key), key)):
            telling.setdefault(tuple(str(config.get(key)) for config in configs), key)
        keys = [key for values, key in telling.items() if len(set(values)) > 1]
        for i, config in zip(twins, configs, strict=True):
            names[i] = " ".join([name, *(f"{k}={config[k]}" for k in keys if k in config)])
    return [
        f"{n} ({run.folder.name})" if names.count(n) > 1 else n for n, run in zip(names, runs, strict=True)
    ]


def _baseline(wanted: str | None, names: list[str]) -> int:
    if wanted is None:
        return 0
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    if wanted in names:
        return names.index(wanted)
    found = [i for i, name in enumerate(names) if wanted in name]
    if len(found) != 1:
        known = "; ".join(f"{i} {name}" for i, name in enumerate(names, 1))
        raise UserError(f"compare: baseline={wanted}: fits {len(found)} runs; choose one of: {known}")
    return found[0]


def _notes(comparison: Comparison, options: Options, tested: _Tested) -> list[str]:
    names, reference, pairs = comparison.names, comparison.reference, tested.comparisons
    left_out = f" ({tested.without} without a relevant image left out)" if tested.without else ""
    alpha, least = options.alpha, pairs / (options.permutations + 1)
    role = "the best" if options.baseline is None else "the baseline"
    corrected = f"Holm's correction for {pairs} comparison{'s' if pairs > 1 else ''}"
    if tested.one_set:
        how = f"The queries are the gallery: what varies is {tested.units} {IN_BOTH_ROLES} (random halves)."
        test = "Student's t over the same halves"
        least = 0.0
    else:
        how = (
            f"The gallery is held fixed and {tested.units} are resampled: BCa bootstrap, {options.resamples} "
            f"resamples, seed {options.seed}."
        )
        test = f"sign-flip test, {options.permutations} permutations,"
    lines = [
        f"{comparison.score} over {tested.queries} queries{left_out}. {how}",
        f"Differences are paired: run minus {role} (number {reference + 1}, {names[reference]}); p: {test} "
        f"with {corrected}.",
        f"Not significantly different: corrected p >= {alpha:.3g}. That is no proof that two runs are equal.",
    ]
    if options.baseline is None and options.pairs == "best" and len(names) > 2:
        lines.append(
            "The best was chosen on these same queries, so p is corrected for all pairs of runs; with a "
            "baseline= chosen beforehand there are fewer comparisons to correct for."
        )
    if least >= alpha:
        need = math.ceil(pairs / alpha) + 1
        lines.append(f"note: no corrected p can be below {min(least, 1):.3g}; give permutations={need}")
    return lines
