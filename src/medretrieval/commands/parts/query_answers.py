"""Answers of the verb `query`: as JSON values, as tables, and what is to be said of the pictures asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medretrieval.query.novelty import NOVELTY_QUANTILE
from medretrieval.query.search import Answer, Query, SearchableRun
from medretrieval.runs.tables import table


def remark_lines(queries: Sequence[Query]) -> list[str]:
    """What was done to pictures, a line for each kind of it."""
    by_remark: dict[str, list[str]] = {}
    for query in queries:
        for remark in query.remarks:
            by_remark.setdefault(remark, []).append(query.name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {remark}"
        for remark, names in by_remark.items()
    ]


def document(
    run: SearchableRun, why: str | None, k: int, answers: Sequence[Answer], drawn: Path | None
) -> dict[str, Any]:
    """The answers as JSON values.

    run (its folder), chosen (why it and no other run of a sweep, or null), title, metric, k, random_weights,
    picture (path or null), and queries: of each image or text (the other is null), remarks, novelty (null
    for a text; distance, metric, quantile, limit, out_of_distribution), votes (class or finding -> results
    that have it, the most frequent first) and results (rank, id, class, distance, split).
    """
    return {
        "run": str(run.folder),
        "chosen": why,
        "title": run.report.title,
        "metric": run.report.metric,
        "k": k,
        "random_weights": run.report.encoder.random_weights,
        "picture": None if drawn is None else str(drawn),
        "queries": [_one(answer) for answer in answers],
    }


def _one(answer: Answer) -> dict[str, Any]:
    query, near = answer.query, answer.novelty
    return {
        "image": None if query.image is None else query.name,
        "text": query.name if query.image is None else None,
        "remarks": list(query.remarks),
        "novelty": near
        and {
            "distance": near.distance,
            "metric": near.metric,
            "quantile": near.quantile,
            "limit": near.limit,
            "out_of_distribution": near.is_out_of_distribution,
        },
        "votes": answer.votes,
        "results": [
            {"rank": rank, "id": n.id, "class": n.label, "distance": n.distance, "split": n.split}
            for rank, n in enumerate(answer.neighbors, 1)
        ],
    }


def text(run: SearchableRun, k: int, answers: Sequence[Answer], drawn: Path | None) -> str:
    """The answers as tables for the terminal."""
    lines = ["", run.report.title, f"run: {run.folder}"]
    for answer in answers:
        lines += ["", f"query: {answer.query.name}", ""]
        rows = [
            [str(rank), n.id, n.label, f"{round(n.distance, 4) + 0.0:.4f}", n.split]
            for rank, n in enumerate(answer.neighbors, 1)
        ]
        lines += table(["rank", "id", "class", "distance", "split"], rows)
        lines.append(_vote_line(answer))
        if len(rows) < k:
            lines.append(f"the index returned {len(rows)} of {k} results; a run with index=flat returns all")
        lines += _nearness_lines(answer)
    far = sum(answer.novelty is not None and answer.novelty.is_out_of_distribution for answer in answers)
    if len(answers) > 1 and answers[0].novelty is not None:
        lines += ["", f"{far} of {len(answers)} queries {'is' if far == 1 else 'are'} out of distribution"]
    lines += [] if drawn is None else ["", f"picture: {drawn}"]
    return "\n".join([*lines, ""])


def _vote_line(answer: Answer) -> str:
    """How many of the neighbors have each class or finding."""
    n = len(answer.neighbors)
    counts = [f"{count} of {n} {name}" for name, count in answer.votes.items()]
    return f"vote: {', '.join(counts) or 'no results'}"


def _nearness_lines(answer: Answer) -> list[str]:
    near = answer.novelty
    if answer.query.image is None:
        return ["no out-of-distribution check: sentences lie apart from images in any case"]
    if near is None:
        return ["no out-of-distribution check: the gallery is a single image"]
    said = (
        f"nearest {near.metric} distance {round(near.distance, 4) + 0.0:.4f}: greater than "
        f"{100 * near.quantile:.1f} % of the distances from gallery images to their own nearest neighbor "
        f"(limit {near.limit:.4f}, the {100 * NOVELTY_QUANTILE:.0f}th percentile)"
    )
    if near.is_out_of_distribution:
        return [said, "out of distribution: these results say little about this picture"]
    return [said]
