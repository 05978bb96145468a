"""The tables of numbers in the pages, made by the commands that stand above them.

A table stands between `<!-- numbers: name -->` and `<!-- end of numbers -->`. Here each name has a function
that makes it from finished runs; tests/test_numbers.py makes them again and compares.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from pyarrow import compute, parquet
from tests.numbers import adaptation, dual, finetuning, learning_curves, own_images, reranking

from medretrieval import compose, run
from medretrieval.commands.many_runs.compare import VERB as COMPARE
from medretrieval.runs.folder import LABEL, PER_QUERY
from medretrieval.runs.report import RunReport
from medretrieval.runs.tables import markdown

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- numbers: ([\w ]+) -->\n(.*?)<!-- end of numbers -->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.]*\w)")
ENCODERS = ("pixels", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "random")
INDEXES = ("flat", "ivf", "hnsw", "ivfpq", "hnsw_sq8")
CORRUPTIONS, CORRUPT_SEVERITIES = ("noise", "contrast"), (1, 3, 5)
CONFUSED = ("pneumonia for normal", "normal for pneumonia")
SKEWNESS = "skewness of the 5-occurrence"
LOO_AND_TRAIN = (("leave_one_out", ENCODERS), ("query_gallery", ("pixels", "efficientnet_lite0", "random")))


@dataclass
class Runs:
    """Finished runs of the presets, each made once.

    Attributes:
        places: overrides that say where data, cache and outputs are.
    """

    places: Sequence[str]
    done: dict[tuple[str, ...], tuple[RunReport, Path]] = field(default_factory=dict)

    def of(self, *overrides: str) -> tuple[RunReport, Path]:
        """The report and the folder of a run."""
        if overrides not in self.done:
            result = run(compose("figures.enabled=false", *overrides, *self.places, "tracking=none"))
            self.done[overrides] = result.report, result.folder
        return self.done[overrides]

    def compared(self, runs: Sequence[tuple[str, ...]], *words: str) -> str:
        """What `medretrieval compare` prints of some runs."""
        folders = [str(self.of(*overrides)[1]) for overrides in runs]
        text = io.StringIO()
        with redirect_stdout(text):
            COMPARE.main([*folders, *words, "track=false"])
        return text.getvalue()


def of_encoders(protocol: str, encoders: Sequence[str]) -> list[tuple[str, ...]]:
    """The runs of encoders_offline."""
    return [("experiments=encoders_offline", f"protocol={protocol}", f"encoder={e}") for e in encoders]


def encoder_scores(runs: Runs) -> str:
    names = ["precision_at_1", "precision_at_5", "precision_at_10", "map"]
    rows = []
    for encoder, overrides in zip(ENCODERS, of_encoders("leave_one_out", ENCODERS), strict=True):
        scores = runs.of(*overrides)[0].scores
        rows.append([encoder, *(f"{scores[name]:.4f}" for name in names)])
    return markdown(["encoder", *names], rows)


def encoder_differences(runs: Runs) -> str:
    """The rows of `compare baseline=pixels` in both protocols."""
    rows: list[list[str]] = []
    for protocol, encoders in LOO_AND_TRAIN:
        shown = runs.compared(of_encoders(protocol, encoders), "baseline=pixels", "format=markdown")
        header, _, *lines = [_cells(line) for line in shown.splitlines() if line.startswith("|")]
        # The run, and all from the difference on; the first row is compared with nothing.
        rows += [[protocol, line[1], *line[4:]] for line in lines if line[-1]]
    return markdown(["protocol", "encoder", "minus pixels", *header[5:]], rows)


def comparison(runs: Runs) -> str:
    """The terminal's table, without the sentences below it."""
    shown = runs.compared(of_encoders("leave_one_out", ENCODERS))
    return f"```\n{shown.split(chr(10) * 2)[0]}\n```"


def encoder_failures(runs: Runs) -> str:
    """What is retrieved wrongly, at depth 5."""
    header = ["encoder", *CONFUSED, "queries without a hit (normal)", SKEWNESS]
    rows = []
    for encoder, overrides in zip(ENCODERS, of_encoders("leave_one_out", ENCODERS), strict=True):
        _, folder = runs.of(*overrides, "figures.enabled=true")
        confused, skewness, _ = _failures(folder)
        table = parquet.read_table(folder / PER_QUERY, columns=[LABEL, "hit_rate_at_5"])
        lost = table.filter(compute.equal(table["hit_rate_at_5"], 0))[LABEL].to_pylist()
        rows.append([encoder, *confused, f"{len(lost)} ({lost.count(0)})", skewness])
    return markdown(header, rows)


def index_failures(runs: Runs) -> str:
    """The same of the index types."""
    header = ["index", *CONFUSED, SKEWNESS, "share of the gallery that is never retrieved"]
    rows = []
    for index in INDEXES:
        _, folder = runs.of("experiments=index_types", f"index={index}", "figures.enabled=true")
        confused, *hubness = _failures(folder)
        rows.append([index, *confused, *hubness])
    return markdown(header, rows)


def _failures(folder: Path) -> tuple[list[str], str, str]:
    """Shares of the other class, skewness of the k-occurrence, and what is never retrieved."""
    found = json.loads((folder / "figures" / "examples.json").read_text())
    share, hubness = found["confusion"]["share"], found["hubness"]
    confused = [f"{share[0][1]:.3f}", f"{share[1][0]:.3f}"]
    return confused, f"{hubness['skewness']:.2f}", f"{hubness['never_retrieved']:.3f}"


def index_types(runs: Runs) -> str:
    header = ["index", "factory", "search", "precision_at_5", "recall@10", "change of precision_at_10 (95 %)"]
    rows = []
    for index in INDEXES:
        report, _ = runs.of("experiments=index_types", f"index={index}")
        loss = report.ann_loss
        recall = change = ""
        if loss is not None:
            one = loss.changes["precision_at_10"]
            recall, change = f"{loss.recall[10]:.4f}", f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})"
        search, precision = report.index.search, f"{report.scores['precision_at_5']:.4f}"
        size = f"{report.speed.bytes_per_vector:,.0f}"
        rows.append([index, report.index.factory, search, precision, recall, change, size])
    return markdown([*header, "bytes a vector"], rows)


def mahbod(runs: Runs) -> str:
    """All that `compare published=mahbod2025` prints."""
    ours = [("experiments=mahbod2025", f"encoder={e}") for e in ("efficientnet_lite0", "pixels", "random")]
    return runs.compared(ours, "published=mahbod2025", "format=markdown").strip()


def robustness(runs: Runs) -> str:
    """Precision at 5 under corruptions of the queries, and what is kept of the clean score."""
    score, rows = "precision_at_5", []
    for encoder in ("efficientnet_lite0", "pixels"):
        preset = ("experiments=robustness", f"encoder={encoder}")
        clean = runs.of(*preset)[0]
        for corruption in CORRUPTIONS:
            found = [runs.of(*preset, f"dataset.corrupt={corruption}@{s}")[0] for s in CORRUPT_SEVERITIES]
            ends = [(r.scores[score], r.intervals[score]) for r in (clean, *found)]
            kept = sum(report.scores[score] for report in found) / len(found) / clean.scores[score]
            chance = clean.chance[score] / clean.scores[score]
            cells = [f"{value:.4f} ({one.low:.4f} to {one.high:.4f})" for value, one in ends]
            rows.append([corruption, encoder, *cells, f"{kept:.3f}", f"{chance:.3f}"])
    severities = [f"severity {s}" for s in CORRUPT_SEVERITIES]
    header = ["corruption", "encoder", "clean", *severities, "share kept", "chance, as a share"]
    return markdown(header, rows)


def views(runs: Runs) -> str:
    """The row that `compare baseline=checkpoint` gives of the whole image, task by task."""
    rows = []
    for dataset in ("pneumoniamnist", "retinamnist"):
        for protocol in ("query_gallery", "leave_one_out"):
            task = ("experiments=views", f"dataset={dataset}", f"protocol={protocol}")
            both = [(*task, f"encoder.view={view}") for view in ("checkpoint", "whole")]
            shown = runs.compared(both, "baseline=checkpoint", "format=markdown")
            lines = [_cells(line) for line in shown.splitlines() if line.startswith("|")]
            score = {line[1]: line[2] for line in lines}
            (whole,) = (line for line in lines if line[1] == "whole")
            # Without the corrected interval and p: one comparison a task.
            rows.append([dataset, protocol, score["checkpoint"], score["whole"], *whole[4:6], whole[7]])
    header = ["dataset", "protocol", "checkpoint", "whole", "whole minus checkpoint", "95 %", "p"]
    return markdown(header, rows)


def near_duplicates(runs: Runs) -> str:
    """What the audit finds, on the test images of PneumoniaMNIST."""
    rows = []
    for protocol in ("leave_one_out", "query_gallery"):
        for encoder in ("pixels", "efficientnet_lite0"):
            words = ["dataset=pneumoniamnist", f"protocol={protocol}", f"encoder={encoder}"]
            audit = runs.of(*words)[0].audit
            assert audit is not None
            assert audit.near_cosine is not None
            rows.append(
                [f"`medretrieval {' '.join(words)}`", f"{audit.near_cosine:.4f}", f"{audit.near_embedding}"]
            )
    return markdown(["command", "threshold", "query images with a near-duplicate"], rows)


def in_words(runs: Runs) -> list[float]:
    """The numbers of the README's paragraph on pixels and efficientnet_lite0, in its order."""
    found = []
    for protocol, encoders in reversed(LOO_AND_TRAIN):
        shown = runs.compared(of_encoders(protocol, encoders), "format=csv")
        row = next(r for r in csv.DictReader(io.StringIO(shown)) if r["run"] == "efficientnet_lite0")
        keys = ["difference", "difference_low", "difference_high"]
        keys += ["p", "p_corrected"] if protocol == "leave_one_out" else []
        found += [float(row[key]) for key in keys]
    return found


TABLES: dict[str, Callable[[Runs], str]] = {
    "encoder scores": encoder_scores,
    "encoder differences": encoder_differences,
    "encoder failures": encoder_failures,
    "comparison": comparison,
    "index types": index_types,
    "index failures": index_failures,
    "mahbod2025": mahbod,
    "near duplicates": near_duplicates,
    **own_images.TABLES,
    **reranking.TABLES,
    **adaptation.TABLES,
    **learning_curves.TABLES,
    **finetuning.TABLES,
    **dual.TABLES,
    "robustness": robustness,
    "views": views,
}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def pages() -> list[Path]:
    """Pages that have such tables."""
    found = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("experiments/*.md")]
    return [path for path in sorted(found) if BLOCK.search(path.read_text())]
