"""The tables of experiments/dual.md: notes that search radiographs, and fits to other patients' notes."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Protocol

from medretrieval.checks import check
from medretrieval.config import compose
from medretrieval.datasets.base import Dataset
from medretrieval.datasets.groups import load_split
from medretrieval.encoders.composed.sentences import SentenceEncoder
from medretrieval.instantiate import instantiate
from medretrieval.runs.report import RunReport
from medretrieval.runs.tables import markdown

PRESET = "experiments=dual"
SPLITS, SEEDS = (0, 1, 2), (0, 1, 2)
IMAGE, PATIENT = "image", "group"
SCORES = {IMAGE: ("recall_at_10", "mrr", "median_rank"), PATIENT: ("hit_rate_at_10", "mrr", "median_rank")}
FINDINGS = ("experiments=covid_cxr", "protocol=query_gallery")


class Finished(Protocol):
    """Finished runs (`tests.numbers.tables.Runs`)."""

    def of(self, *overrides: str) -> tuple[RunReport, Path]: ...


def _fit(runs: Finished, split: int, hit: str, control: str, seed: int) -> RunReport:
    words = (f"dataset.split_seed={split}", f"prompts.hit={hit}", f"encoder.control={control}")
    return runs.of(PRESET, *words, f"encoder.seed={seed}")[0]


def _said(name: str, value: float) -> str:
    return f"{value:.1f}" if name == "median_rank" else f"{value:.4f}"


def _between(name: str, found: list[float]) -> str:
    return f"{_said(name, min(found))} to {_said(name, max(found))}"


def dual_scores(runs: Finished) -> str:
    """The fit of seed 0 with its interval and chance, other seeds, and fits to shuffled notes."""
    rows = []
    for hit, names in SCORES.items():
        for name in names:
            for split in SPLITS:
                fits = {c: [_fit(runs, split, hit, c, s) for s in SEEDS] for c in ("none", "shuffled")}
                report = fits["none"][0]
                ends = report.intervals.get(name)
                spread = [_between(name, [one.scores[name] for one in fits[c]]) for c in fits]
                interval = "none" if ends is None else f"{ends.low:.4f} to {ends.high:.4f}"
                cells = [_said(name, report.scores[name]), interval, _said(name, report.chance[name])]
                rows.append([hit, name, str(split), *cells, *spread])
    header = ["a hit is", "score", "split_seed", "value", "95 %", "chance", "seeds 0 to 2"]
    return markdown([*header, "fitted to shuffled notes"], rows)


def dual_counts(runs: Finished) -> str:
    """What is fitted on and what asks, split by split."""
    rows = []
    for split in SPLITS:
        report, folder = runs.of(
            PRESET,
            f"dataset.split_seed={split}",
            "prompts.hit=image",
            "encoder.control=none",
            "encoder.seed=0",
        )
        places = (f"paths.{n}={Path(p)}" for n, p in _places(folder).items())
        settings = check(compose(PRESET, f"dataset.split_seed={split}", *places))
        dataset = instantiate(settings.dataset, Dataset, "dataset")
        train, test = (load_split(dataset, name) for name in ("train", "test"))
        said = [[text.strip() for text in one.captions or () if text.strip()] for one in (train, test)]
        known, tokens = set(said[0]), _tokens(said[1])
        patients = [len(set(one.groups.tolist())) for one in (train, test) if one.groups is not None]
        rows.append([
            str(split), f"{len(said[0])} of {len(train)}", f"{report.counts.queries} of {len(test)}",
            *map(str, patients), str(sum(text in known for text in said[1])),
            str(len(said[1]) - len(set(said[1]))), str(int(median(tokens))),
            str(sum(n > 256 for n in tokens)),
        ])  # fmt: skip
    header = ["split_seed", "train images with a note", "test images with a note", "train patients"]
    header += ["test patients", "test notes that train has too", "test notes worded like an earlier one"]
    return markdown([*header, "tokens of a test note (median)", "test notes with more than 256"], rows)


def _places(folder: Path) -> dict[str, str]:
    import yaml

    paths = yaml.safe_load((folder / "config.yaml").read_text())["paths"]
    return {name: paths[name] for name in ("data", "cache")}


def _tokens(texts: list[str]) -> list[int]:
    tokenizer = SentenceEncoder("dual", "package:all_minilm_l6_v2")._tokenizer
    return [len(one.ids) for one in tokenizer.encode_batch(texts)]


def dual_findings(runs: Finished) -> str:
    """Images that search images, by finding: what the joined space keeps of the image encoder's."""
    rows = []
    for split in SPLITS:
        for words in (
            ("encoder=efficientnet_lite0",),
            ("encoder=dual",),
            ("encoder=dual", "encoder.control=shuffled"),
        ):
            report = runs.of(*FINDINGS, *words, f"dataset.split_seed={split}", "evaluation.subgroups=[]")[0]
            ends = report.intervals["precision_at_5"]
            cells = [f"{report.scores['precision_at_5']:.4f}", f"{ends.low:.4f} to {ends.high:.4f}"]
            cells += [
                f"{report.chance['precision_at_5']:.4f}",
                f"{report.scores['macro_precision_at_5']:.4f}",
            ]
            rows.append([str(split), report.encoder.name, *cells])
    return markdown(
        ["split_seed", "encoder", "precision_at_5", "95 %", "chance", "macro_precision_at_5"], rows
    )


TABLES: dict[str, Callable[[Finished], str]] = {
    "dual counts": dual_counts,
    "dual findings": dual_findings,
    "dual scores": dual_scores,
}
