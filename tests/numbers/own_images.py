"""The tables of the pages on images in files: covid_cxr, ham10000, and real grades."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from medretrieval.query.confound_run import confound
from medretrieval.query.identity_run import Change, identity
from medretrieval.runs.report import RunReport
from medretrieval.runs.report_parts import ScoreInterval
from medretrieval.runs.tables import markdown
from medretrieval.subgroups.confounding import KINDS

BOTH = ("efficientnet_lite0", "pixels")
SEEDS = (0, 1, 2)
ALL_BUT_OWN_PATIENT = "leave_one_group_out"


class Finished(Protocol):
    """Finished runs (`tests.numbers.tables.Runs`)."""

    def of(self, *overrides: str) -> tuple[RunReport, Path]: ...


def _covid(encoder: str, protocol: str) -> tuple[str, ...]:
    return ("experiments=covid_cxr", f"protocol={protocol}", f"encoder={encoder}")


def _ham(encoder: str, seed: int, split_by: str) -> tuple[str, ...]:
    drawn = f"dataset.split_seed={seed}", f"dataset.split_by={split_by}"
    return ("experiments=ham10000", f"encoder={encoder}", *drawn)


def _between(found: ScoreInterval | Sequence[float] | None) -> str:
    if found is None:
        return "none"
    low, high = (found.low, found.high) if isinstance(found, ScoreInterval) else found
    return f"{low:.4f} to {high:.4f}"


def _scored(report: RunReport, name: str) -> list[str]:
    """A score, its interval and chance."""
    return [f"{report.scores[name]:.4f}", _between(report.intervals.get(name)), f"{report.chance[name]:.4f}"]


def _changed(change: Change) -> str:
    return f"{change[0]:+.4f} ({change[1]:+.4f} to {change[2]:+.4f})"


def covid_scores(runs: Finished) -> str:
    rows = []
    for protocol in ("query_gallery", ALL_BUT_OWN_PATIENT):
        for encoder in BOTH:
            report, _ = runs.of(*_covid(encoder, protocol))
            macro = report.scores["macro_precision_at_5"]
            rows.append([protocol, encoder, *_scored(report, "precision_at_5"), f"{macro:.4f}"])
    return markdown(["protocol", "encoder", "precision_at_5", "95 %", "chance", "macro_precision_at_5"], rows)


def covid_subgroups(runs: Finished) -> str:
    report, _ = runs.of(*_covid(BOTH[0], ALL_BUT_OWN_PATIENT))
    assert report.subgroups is not None
    rows, name = [], report.subgroups.score
    for one in report.subgroups.values:
        counts = [one.column, one.said, str(one.queries), str(one.patients)]
        if one.too_small:
            rows.append([*counts, "too small", "", "", ""])
            continue
        lift = f"{one.lift[name]:.2f}" if name in one.lift else ""
        rows.append([*counts, f"{one.scores[name]:.4f}", _between(one.intervals.get(name)),
                     f"{one.chance[name]:.4f}", lift])  # fmt: skip
    return markdown(["column", "value", "queries", "patients", name, "95 %", "chance", "lift"], rows)


def covid_gaps(runs: Finished) -> str:
    rows = []
    for encoder in BOTH:
        report, _ = runs.of(*_covid(encoder, ALL_BUT_OWN_PATIENT))
        assert report.subgroups is not None
        for gap in report.subgroups.gaps:
            p = "none" if gap.p is None else f"{gap.p:.4f}"
            ends = [gap.higher or "none", gap.lower or "none", f"{gap.difference or 0:.4f}"]
            rows.append([encoder, gap.column, *ends, p])
    return markdown(["encoder", "column", "higher", "lower", "difference", "p"], rows)


def covid_confounding(runs: Finished) -> str:
    rows = []
    for by in ("location", "view"):
        for encoder in BOTH:
            found = confound(runs.of(*_covid(encoder, ALL_BUT_OWN_PATIENT))[1], by, None)
            shares, index = found.mean_shares or {}, found.found.index
            rows.append([
                by, encoder, str(found.found.queries), *(f"{shares[kind]:.4f}" for kind in KINDS),
                f"{index.value:.4f}", _between(index.interval), f"{found.found.chance:.4f}",
            ])  # fmt: skip
    return markdown(["value", "encoder", "queries", *KINDS, "robustness index", "95 %", "chance"], rows)


def covid_association(runs: Finished) -> str:
    """Cramer's V of finding and value, beside what a table of this size has where nothing goes together."""
    rows = []
    for by in ("location", "view"):
        seen = confound(runs.of(*_covid(BOTH[0], ALL_BUT_OWN_PATIENT))[1], by, None).found.association
        counts, least = seen.counts, min(seen.counts.shape) - 1
        # The expectation of chi-squared is its degrees of freedom.
        freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
        unrelated = (freedom / (counts.sum() * least)) ** 0.5
        shape = [str(counts.sum()), str(counts.shape[0]), str(counts.shape[1])]
        single = (counts > 0).sum(axis=0) == 1
        shape += [str(single.sum()), str(counts[:, single].sum())]
        rows.append([by, *shape, f"{seen.cramers_v:.2f}", f"{unrelated:.2f}"])
    header = ["value", "images", "findings", "values", "values with one finding", "images of these"]
    return markdown([*header, "Cramer's V", "V where nothing goes together"], rows)


def covid_identity(runs: Finished) -> str:
    rows = []
    for encoder in BOTH:
        found = identity(runs.of(*_covid(encoder, ALL_BUT_OWN_PATIENT))[1], None)
        first, (with_own, without) = found.first, (found.with_own, found.without_own)
        of = f"{first.queries} of {len(found.run.queries)}"
        share = [f"{first.share.value:.4f}", f"{first.chance:.4f}"]
        rows += [
            [
                encoder,
                of,
                *share,
                name,
                f"{with_own[name]:.4f}",
                f"{without[name]:.4f}",
                _changed(found.changes[name]),
            ]
            for name in ("precision_at_1", "precision_at_5")
        ]
    header = ["encoder", "queries with another image of their patient", "first result is of the same patient"]
    return markdown([*header, "chance", "score", "own patient counted", "left out", "change (95 %)"], rows)


def ham_leak(runs: Finished) -> str:
    """What leaving the query's own lesion out changes, where splits are drawn by image."""
    rows = []
    for encoder in BOTH:
        for seed in SEEDS:
            found = identity(runs.of(*_ham(encoder, seed, "image"))[1], None)
            queries, with_own = len(found.run.queries), found.with_own
            rows.append([
                encoder, str(seed), f"{found.first.queries} of {queries}", f"{found.first.share.value:.4f}",
                *(cell for name in ("precision_at_1", "precision_at_5")
                  for cell in (f"{with_own[name]:.4f}", _changed(found.changes[name]))),
            ])  # fmt: skip
    header = ["encoder", "seed", "queries with an image of their lesion in train"]
    header += ["first result is of the same lesion", "precision_at_1", "own lesion left out (95 %)"]
    return markdown([*header, "precision_at_5", "own lesion left out (95 %)"], rows)


def ham_splits(runs: Finished) -> str:
    """Honest splits beside leaky ones; other test images, so nothing is paired."""
    rows = []
    for encoder in BOTH:
        for seed in SEEDS:
            for split_by, said in (("group", "lesion"), ("image", "image")):
                report, _ = runs.of(*_ham(encoder, seed, split_by))
                assert report.files is not None
                one, five = (_scored(report, name) for name in ("precision_at_1", "precision_at_5"))
                rows.append([encoder, str(seed), said, str(report.files.shared_groups), *one[:2], *five])
    header = ["encoder", "seed", "splits by", "lesions in several splits", "precision_at_1", "95 %"]
    return markdown([*header, "precision_at_5", "95 %", "chance of precision_at_5"], rows)


def retina_grades(runs: Finished) -> str:
    rows = [
        [name, encoder, *_scored(runs.of("experiments=retina_grades", f"encoder={encoder}")[0], name)]
        for name in ("precision_at_5", "graded_ndcg_at_5", "graded_ndcg_at_10")
        for encoder in BOTH
    ]
    return markdown(["score", "encoder", "value", "95 %", "chance"], rows)


TABLES: dict[str, Callable[[Finished], str]] = {
    "covid scores": covid_scores,
    "covid subgroups": covid_subgroups,
    "covid gaps": covid_gaps,
    "covid confounding": covid_confounding,
    "covid association": covid_association,
    "covid identity": covid_identity,
    "ham leak": ham_leak,
    "ham splits": ham_splits,
    "retina grades": retina_grades,
}
