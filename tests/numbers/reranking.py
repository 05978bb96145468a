"""The table of docs/reranking.md: each method against none, with its own file's parameters."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from medretrieval.runs.report import RunReport
from medretrieval.runs.tables import markdown

METHODS = ("alpha_qe", "augmentation", "k_reciprocal", "diffusion")
DATASETS, PROTOCOLS = ("pneumoniamnist",), ("leave_one_out", "query_gallery")
ENCODERS = ("efficientnet_lite0",)
ADAPTED = ("pixels", "efficientnet_lite0", "fusion")
SCORES = ("precision_at_5", "map_at_100")
PLAIN = ("audit.enabled=false", "evaluation.baseline=none")  # which the table does not show


class Finished(Protocol):
    """Finished runs (`tests.numbers.tables.Runs`)."""

    def of(self, *overrides: str) -> tuple[RunReport, Path]: ...


def reranking(runs: Finished) -> str:
    """Scores without re-ranking, and the changes that each method brings."""
    rows = []
    for dataset in DATASETS:
        for protocol in PROTOCOLS:
            for encoder in ENCODERS:
                words = (f"dataset={dataset}", f"encoder={encoder}", f"protocol={protocol}")
                for method in METHODS:
                    report = runs.of(*words, f"rerank={method}", *PLAIN)[0]
                    gain = report.rerank
                    assert gain is not None
                    cells = [f"{gain.without[name]:.4f}" for name in SCORES]
                    for name in SCORES:
                        change = gain.changes.get(name)
                        ends = f" ({change.low:+.4f} to {change.high:+.4f})" if change else ""
                        cells.append(f"{report.scores[name] - gain.without[name]:+.4f}{ends}")
                    rows.append([dataset, protocol, encoder, method, *cells])
    header = ["dataset", "protocol", "encoder", "rerank", *SCORES, *(f"change of {name}" for name in SCORES)]
    return markdown(header, rows)


def on_adapted(runs: Finished) -> str:
    """The change that each method brings on raw and on adapted vectors, the gallery held fixed."""
    rows = []
    for dataset, encoder in itertools.product(("pneumoniamnist", "retinamnist"), ADAPTED):
        words = (f"dataset={dataset}", f"encoder={encoder}", "protocol=query_gallery", *PLAIN)
        for adapt in (("adapt=none",), ("adapt=within_class", "adapt.refits=0")):
            gains = [runs.of(*words, *adapt, f"rerank={method}")[0].rerank for method in METHODS]
            for score in SCORES:
                changes = [gain.changes[score] for gain in gains if gain is not None]
                cells = [f"{one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for one in changes]
                without = next(gain.without[score] for gain in gains if gain is not None)
                rows.append([dataset, encoder, adapt[0].partition("=")[2], score, f"{without:.4f}", *cells])
    return markdown(["dataset", "encoder", "adapt", "score", "without", *METHODS], rows)


TABLES: dict[str, Callable[[Finished], str]] = {"reranking": reranking, "reranking adapted": on_adapted}
