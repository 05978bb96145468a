"""Scores of subgroups against naive means, in whole runs over patients with metadata."""

import numpy as np
import pytest
from pyarrow import parquet
from tests.refusals import refusal

from medretrieval import run
from medretrieval.figures.per_class import subgroup_picture
from medretrieval.runs.folder import IMAGES, PER_QUERY
from medretrieval.runs.report import read_report
from medretrieval.runs.tables import run_table
from medretrieval.subgroups.by_value import Subgroup, Subgroups
from medretrieval.track.run_metrics import run_metrics

PATIENTS = (
    "dataset=chest_phantom", "dataset._target_=tests.toy_datasets.Patients", "dataset.size=32",
    "dataset.n_train=60", "dataset.n_test=80", "encoder=pixels", "evaluation.ks=[1,3]",
    "evaluation.resamples=200", "evaluation.vote_k=3", "audit.enabled=false",
)  # fmt: skip


def columns(folder):
    """Of the queries: metadata, and the table of scores."""
    images = parquet.read_table(folder / IMAGES).to_pandas()
    images = images[images.role == "query"].reset_index(drop=True)
    return images, parquet.read_table(folder / PER_QUERY).to_pandas()


def require_means(folder):
    """Each subgroup of a run has the mean of its queries' scores, their number and their patients."""
    report = read_report(folder)
    images, queries = columns(folder)
    counted = queries.n_relevant > 0
    for row in report.subgroups.values:
        if row.column == "age":
            continue  # bins
        members = (images[f"metadata.{row.column}"] == row.value) & counted
        assert row.queries == members.sum()
        assert row.patients == images.group[members].nunique()
        assert row.too_small == (row.patients < 10)
        for name, value in row.scores.items():
            assert value == pytest.approx(queries[name][members].mean())
            low, high = (
                (row.intervals[name].low, row.intervals[name].high) if name in row.intervals else (0, 1)
            )
            assert low <= value <= high
            if name in row.lift:
                assert row.lift[name] == pytest.approx(value / row.chance[name])
    return report


def test_subgroups_of_a_run_are_means_of_its_queries(config):
    report = require_means(run(config(*PATIENTS, "evaluation.subgroups=[sex,age,view]")).folder)
    found = report.subgroups
    assert [(r.column, r.said) for r in found.values] == [
        ("sex", "F"), ("sex", "M"), ("sex", "unknown"),
        ("age", "under 30"), ("age", "30 to under 40"), ("age", "40 to under 50"), ("age", "50 or more"),
        ("view", "AP"), ("view", "PA"),
    ]  # fmt: skip
    assert sum(r.queries for r in found.values if r.column == "age") == 80
    assert [r.too_small for r in found.values if r.value == ""] == [True]
    assert found.score == "precision_at_3"
    for gap in found.gaps:
        means = {
            r.value: r.scores[found.score] for r in found.values if r.column == gap.column and not r.too_small
        }
        means.pop("", None)
        assert gap.difference == pytest.approx(max(means.values()) - min(means.values()))
        assert 0 < gap.p <= 1
        assert gap.why == ""
    metrics = run_metrics(report)
    assert metrics["subgroups/worst_gap"] == max(gap.difference for gap in found.gaps)
    assert metrics["subgroups/worst_gap_p"] == min(gap.p for gap in found.gaps)


def test_where_queries_are_the_gallery_intervals_and_p_come_from_halves(config):
    overrides = ("protocol=leave_one_group_out", "evaluation.subgroups=[sex,age]")
    edges = "evaluation.subgroup_edges={age:[30,58]}"
    report = require_means(run(config(*PATIENTS, *overrides, edges)).folder)
    assert report.protocol.name == "leave_one_group_out"
    assert report.left_out.options == ["exclude_same_group"]
    ages = [row for row in report.subgroups.values if row.column == "age"]
    assert [(row.value, row.patients, row.too_small) for row in ages] == [
        ("under 30", 10, False), ("30 to under 58", 28, False), ("58 or more", 2, True),
    ]  # fmt: skip
    assert ages[0].intervals == {}  # halves need 20
    assert ages[1].intervals
    sex, age = report.subgroups.gaps
    assert sex.p is None or 0 < sex.p <= 1
    assert age.p is None
    assert "fewer than 20 patients" in age.why


def test_a_run_of_other_metadata_is_another_run(config, monkeypatch):
    from tests import toy_datasets

    cfg = config(*PATIENTS, "evaluation.subgroups=[sex]")
    first = run(cfg)
    assert run(cfg).skipped
    plain = toy_datasets.Patients.load

    def swapped(self, split):
        found = plain(self, split)
        found.metadata["sex"][:] = np.where(found.metadata["sex"] == "F", "M", "F")
        return found

    monkeypatch.setattr(toy_datasets.Patients, "load", swapped)
    again = run(cfg)
    assert not again.skipped
    assert again.folder != first.folder


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["evaluation.subgroups=[sec]"],
            "no column 'sec'; did you mean sex? choose from: age, sex, site, view",
        ),
        (["evaluation.subgroups=[sex,sex]"], "sex is named twice"),
        (
            ["evaluation.subgroups=[sex]", "evaluation.subgroup_bins=1"],
            "evaluation.subgroup_bins=1: must be 2",
        ),
        (["evaluation.subgroup_bins=3"], "has no effect while evaluation.subgroups is empty"),
        (["evaluation.subgroup_edges={age:[3]}"], "'age' is not among evaluation.subgroups=[]"),
        (["evaluation.subgroups=[age]", "evaluation.subgroup_edges={age:[3,2]}"], "age=[3, 2]: give a list"),
        (["evaluation.subgroups=[age]", "evaluation.subgroup_edges={age:[]}"], "age=[]: give a list"),
        (["evaluation.subgroups=[age]", "evaluation.subgroup_edges=[3]"], "give the edges by column"),
        (["evaluation.subgroups=[sex]", "protocol=text_to_image"], "sentences, which have no metadata"),
        (
            ["evaluation.subgroups=[sex]", "dataset._target_=medretrieval.datasets.phantom.ChestPhantom"],
            "the dataset has no metadata",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(config, overrides, said):
    assert said in refusal(run, config(*PATIENTS, *overrides))


def test_people_read_subgroups_in_the_table_and_in_the_report(config, say, tmp_path):
    folder = run(config(*PATIENTS, "evaluation.subgroups=[sex]")).folder
    report = read_report(folder)
    text = run_table(report, folder)
    (line,) = [line for line in text.splitlines() if line.startswith("sex     F")]
    assert f"{report.subgroups.values[0].scores['precision_at_3']:.4f}" in line
    assert "too small" in text
    (gap,) = report.subgroups.gaps
    said = f"worst gap by sex: {gap.higher} over {gap.lower} by {gap.difference:.4f}, corrected p {gap.p:.4f}"
    assert said in text
    code, _, err = say("report", folder, f"out={tmp_path / 'r.html'}")
    assert code == 0, err
    page = (tmp_path / "r.html").read_text()
    assert said in page
    assert "too small" in page


def test_the_picture_shows_the_subgroups_that_are_large_enough():
    ends = {"precision_at_3": (0.4, 0.7)}
    rows = [
        Subgroup("sex", "F", 40, 20, False, {"precision_at_3": 0.6}, ends, {"precision_at_3": 0.5}, {}),
        Subgroup("sex", "", 30, 15, False, {"precision_at_3": 0.5}, {}, {}, {}),
        Subgroup("sex", "M", 3, 2, True, {}, {}, {}, {}),
    ]
    found = Subgroups("precision_at_3", rows, [], "")
    smaller = Subgroups("precision_at_3", rows[:1], [], "")
    shown, less = (subgroup_picture(one, 0.95, "a run") for one in (found, smaller))
    assert shown.startswith(b"\x89PNG")
    assert shown != less
    assert shown == subgroup_picture(Subgroups("precision_at_3", rows[:2], [], ""), 0.95, "a run")
