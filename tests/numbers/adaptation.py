"""The tables of experiments/adaptation.md: every adaptation beside the encoder's own vectors."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from medretrieval.runs.report import RunReport
from medretrieval.runs.report_parts import Difference
from medretrieval.runs.tables import markdown

PRESET = "experiments=adaptation"
DATASETS = ("pneumoniamnist", "retinamnist")
PROTOCOLS = ("leave_one_out", "query_gallery")
ENCODERS = ("pixels", "efficientnet_lite0", "fusion")
ADAPTATIONS, HEADS = ("center", "pca", "whiten", "within_class"), ("linear_head", "mlp_head")
MORE_CLASSES = {"retinamnist": ("lda",)}  # with two classes it leaves one number an image: a table of its own
SCORE = "precision_at_5"
PUBLISHED_ROWS = (
    ("fusion", "none"),
    ("fusion", "within_class"),
    ("pixels", "within_class"),
    ("pixels", "linear_head"),
    ("efficientnet_lite0", "linear_head"),
    ("fusion", "linear_head"),
)
PUBLISHED = (
    "map_at_5_hits",
    "majority_vote_at_5",
    "precision_at_1",
)  # mAP@5, mMV@5 and ACC@1 of Mahbod et al.


class Finished(Protocol):
    """Finished runs (`tests.numbers.tables.Runs`)."""

    places: Sequence[str]

    def of(self, *overrides: str) -> tuple[RunReport, Path]: ...


def adaptation(runs: Finished) -> str:
    """Each adaptation's gain over the encoder's own vectors, and what it is held against."""
    rows = []
    for dataset in DATASETS:
        for protocol in PROTOCOLS:
            for encoder in ENCODERS:
                words = (PRESET, f"dataset={dataset}", f"protocol={protocol}", f"encoder={encoder}")
                own = runs.of(*words, "adapt=none")[0]
                rows.append([dataset, protocol, encoder, "none", f"{own.scores[SCORE]:.4f}", "", "", "", ""])
                rows += [
                    [dataset, protocol, encoder, *cells(runs.of(*words, f"adapt={name}")[0])]
                    for name in (*ADAPTATIONS, *MORE_CLASSES.get(dataset, ()))
                ]
    header = ["dataset", "protocol", "encoder", "adapt", SCORE, "gain (95 %)", "val minus test", "refits"]
    return markdown([*header, "shuffled labels (95 %)"], rows)


def heads(runs: Finished) -> str:
    """Trained heads, with a gallery that they have not seen."""
    rows = []
    for dataset, protocol, encoder, name in itertools.product(DATASETS, PROTOCOLS, ENCODERS, HEADS):
        words = (PRESET, f"dataset={dataset}", f"protocol={protocol}", f"encoder={encoder}")
        report = runs.of(*words, f"adapt={name}")[0]
        found = report.adapt
        assert found is not None
        out = "" if found.out_of_fold is None else f"{found.out_of_fold.with_it:.4f}"
        rows.append([dataset, protocol, encoder, *cells(report), out])
    return markdown([*HEADS_HEADER, "gallery out of fold"], rows)


HEADS_HEADER = (
    "dataset",
    "protocol",
    "encoder",
    "adapt",
    SCORE,
    "gain (95 %)",
    "val minus test",
    "refits",
    "shuffled labels (95 %)",
)


def two_classes(runs: Finished) -> str:
    """LDA by Euclidean distance, where two classes leave one number an image."""
    rows = []
    for protocol in PROTOCOLS:
        for encoder in ENCODERS:
            words = (PRESET, "dataset=pneumoniamnist", f"protocol={protocol}", f"encoder={encoder}")
            report = runs.of(*words, "adapt=lda", "metric=l2")[0]
            found = report.adapt
            assert found is not None
            out = "" if found.out_of_fold is None else f"{found.out_of_fold.with_it:.4f}"
            rows.append([protocol, encoder, *cells(report)[1:], out])
    header = [
        "protocol",
        "encoder",
        SCORE,
        "gain (95 %)",
        "val minus test",
        "refits",
        "shuffled labels (95 %)",
    ]
    return markdown([*header, "gallery out of fold"], rows)


def cells(report: RunReport) -> list[str]:
    """The row of one adapted run, from its adaptation on."""
    found = report.adapt
    assert found is not None
    shuffled = "" if found.shuffled is None else said(found.shuffled.change)
    refits = f"{min(found.refits):.4f} to {max(found.refits):.4f}"
    score = f"{report.scores[SCORE]:.4f}"
    return [found.name, score, said(report.stages[0].change), f"{found.val_gap:+.4f}", refits, shuffled]


def said(change: Difference | None) -> str:
    """A difference with its interval; empty where it has none."""
    return "" if change is None else f"{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def best_published(runs: Finished) -> str:
    """The adapted fusion by the scores and the protocol of the published table."""
    words = (PRESET, "dataset=pneumoniamnist", "protocol=query_gallery")
    rows = []
    for encoder, name in PUBLISHED_ROWS:
        report = runs.of(*words, f"encoder={encoder}", f"adapt={name}")[0]
        rows.append([encoder, name, *(f"{report.scores[score]:.4f}" for score in PUBLISHED)])
    return markdown(["encoder", "adapt", *PUBLISHED], rows)


TABLES: dict[str, Callable[[Finished], str]] = {
    "adaptation": adaptation,
    "adaptation heads": heads,
    "adaptation published": best_published,
    "adaptation two classes": two_classes,
}
