"""Runs that may be compared: the same task, and their scores query by query."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError
from medretrieval.protocol.ranking import Labels
from medretrieval.runs.folder import GROUP, ID, LABEL, N_RELEVANT, PER_QUERY
from medretrieval.runs.report import ProtocolReport
from medretrieval.track.find_runs import Run

# Columns that runs must have in common, and what to call them in messages.
IN_COMMON = {ID: "query ids", LABEL: "labels", N_RELEVANT: "counts of relevant images"}
# Hashes of a side of the data, and what they are of.
DATA = {"content_sha256": "{}", "labels_sha256": "labels", "groups_sha256": "groups"}


def require_comparable(runs: list[Run], score: str) -> None:
    """Refuse runs over other data, of other protocols, or without the score.

    Raises:
        UserError: saying in what they differ.
    """
    for run in runs:
        if run.report.rerank is not None and run.report.rerank.transductive:
            raise UserError(
                f"compare: the queries of {run.source} depend on each other (rerank.transductive=true), "
                "so no test "
                "of a difference is valid; leave it out, or run it with rerank.transductive=false"
            )
    _require_same(runs, "the dataset", [run.report.dataset for run in runs])
    _require_same(runs, "dataset.corrupt", [run.report.corrupt or "null" for run in runs])
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


@dataclass(frozen=True)
class MatchedRuns:
    """Runs over the same queries, without duplicates.

    Attributes:
        runs: in any order.
        values: a score of each, float64 [q, runs]; NaN for a query without relevant items.
        labels: int64 [q] or bool [q, classes].
        groups: of the queries, str [q]; None where they have none.
        n_relevant: R of each query, int64 [q].
    """

    runs: list[Run]
    values: NDArray[np.float64]
    labels: Labels
    groups: NDArray[np.str_] | None
    n_relevant: NDArray[np.int64]


def scored(run: Run, score: str) -> MatchedRuns:
    """One run's scores, query by query.

    Args:
        run: a finished one that has the score.
        score: its name, also with macro_ before it.
    """
    from pyarrow import parquet

    column = score.removeprefix("macro_")
    found = parquet.read_table(run.folder / PER_QUERY, columns=[*IN_COMMON, column])
    labels, counts = _label_array(found[LABEL]), found[N_RELEVANT].to_numpy()
    return MatchedRuns([run], found[column].to_numpy()[:, None], labels, _groups(run), counts)


def matched(runs: list[Run], score: str) -> MatchedRuns:
    """The runs' scores, queries as in the first run."""
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
    return MatchedRuns(
        list(kept_runs),
        np.stack(columns, axis=1),
        _label_array(first[LABEL]),
        _groups(kept_runs[0]),
        first[N_RELEVANT].to_numpy(),
    )


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
