from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medretrieval import run
from medretrieval.runs.tables import run_table
from medretrieval.track.mlflow.notes import run_note

RANDOM = (
    "dataset=breastmnist",
    "encoder=random",
    "metric=l2",
    "evaluation.ks=[1,3]",
    "evaluation.resamples=500",
)


@pytest.fixture
def noisy_file(write_npz):
    """Labels that pixels find in about four of five cases."""
    rng = np.random.default_rng(0)
    labels = {f"{s}_labels": np.where(rng.random(60) < 0.8, np.arange(60) % 2, 1 - np.arange(60) % 2)
              for s in ("train", "val", "test")}  # fmt: skip
    return write_npz(n=60, **labels)


@pytest.mark.parametrize("protocol", ["query_gallery", "leave_one_out"])
def test_the_baseline_is_what_a_run_of_pixels_scores(config, noisy_file, protocol):
    report = run(config(*RANDOM, f"protocol={protocol}")).report
    pixels = run(config(*RANDOM, f"protocol={protocol}", "encoder=pixels")).report
    assert report.baseline.encoder == "pixels"
    assert {"precision_at_3", "map", "mrr"} <= report.baseline.scores.keys()
    for name, value in report.baseline.scores.items():
        assert value == pixels.scores[name]
    difference, name = report.baseline.difference, report.objective.name
    assert difference.value == pytest.approx(report.scores[name] - pixels.scores[name])
    assert difference.low < difference.value < difference.high


def test_the_baseline_under_inner_products_is_pixels_by_cosine_and_says_so(config, write_npz):
    """Images whose brightness varies more than what is on them: the product finds the brightest."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = {
        f"{split}_images": (
            np.where(np.arange(28) < 14, labels[:, None] * 60 + 60, 180 - labels[:, None] * 60)[:, None, :]
            * rng.uniform(0.2, 1, 60)[:, None, None]
            * np.ones((60, 28, 1))
        ).astype(np.uint8)
        for split in ("train", "val", "test")
    }
    write_npz(n=60, **images)
    reports = {
        (encoder, metric): run(config(*RANDOM, f"encoder={encoder}", f"metric={metric}")).report
        for encoder in ("random", "pixels")
        for metric in ("ip", "cosine")
    }
    own, straw = reports["pixels", "cosine"], reports["pixels", "ip"]
    assert own.scores["precision_at_3"] > straw.scores["precision_at_3"] + 0.2
    for report in (reports["random", "ip"], straw):
        assert report.baseline.encoder == "pixels (cosine)"
        assert report.baseline.scores == {name: own.scores[name] for name in report.baseline.scores}
        assert "pixels (cosine)" in run_table(report, Path("any")).splitlines()[3]
        assert "Raw pixels (cosine) score" in run_note(report)
    assert any("lower than pixels (cosine)" in note for note in straw.notes)
    assert reports["random", "cosine"].baseline.encoder == "pixels"
    assert own.baseline is None


def test_the_baseline_of_the_baseline_is_left_out(config, noisy_file):
    report = run(config(*RANDOM, "encoder=pixels")).report
    assert report.baseline is None
    assert "pixels " not in run_table(report, noisy_file).splitlines()[3]


def test_the_baseline_is_scored_once_for_all_encoders(config, noisy_file, monkeypatch):
    run(config(*RANDOM))
    monkeypatch.setattr(
        "medretrieval.evidence.pixel_baseline._evaluated", lambda *a: pytest.fail("scored again")
    )
    assert run(config(*RANDOM, "encoder.seed=1")).report.baseline.encoder == "pixels"


def test_where_whole_rankings_would_take_long_the_baseline_is_as_deep_as_the_run(
    config, write_npz, monkeypatch
):
    write_npz(n=120)
    monkeypatch.setattr("medretrieval.evidence.pixel_baseline.MAX_WHOLE_CELLS", 100)
    overrides = ("index=hnsw", "index.ef_search=10", "evaluation.vote_k=5")
    scores = run(config(*RANDOM, *overrides)).report.baseline.scores
    assert "precision_at_3" in scores
    assert "map" not in scores
    assert "map" in run(config(*RANDOM, "index=flat")).report.baseline.scores


@pytest.mark.parametrize("change", ["metric=cosine", "evaluation.ks=[1,2]", "protocol=leave_one_out"])
def test_another_task_has_its_own_baseline(config, noisy_file, change):
    first = run(config(*RANDOM)).report.baseline.scores
    assert run(config(*RANDOM, change)).report.baseline.scores != first


def test_no_baseline_where_none_is_wanted(config, noisy_file):
    report = run(config(*RANDOM, "evaluation.baseline=none")).report
    assert report.baseline is None
    assert not any("pixels" in note for note in report.notes)


def test_every_headline_score_has_an_interval_around_it(config, noisy_file):
    report = run(config(*RANDOM)).report
    assert {"precision_at_3", "map", "mrr", "r_precision", "ndcg_at_3"} <= report.intervals.keys()
    for name, ends in report.intervals.items():
        assert 0 <= ends.low <= report.scores[name] <= ends.high <= 1
    ends = report.intervals["precision_at_3"]
    # Half the width of a normal interval is 1.96 s / sqrt(60).
    assert 0.03 < ends.high - ends.low < 0.25


def test_a_wider_confidence_gives_wider_intervals(config, noisy_file):
    def width(confidence):
        report = run(config(*RANDOM, f"evaluation.confidence={confidence}")).report
        return report.intervals["map"].high - report.intervals["map"].low

    assert width(0.5) < width(0.95) < width(0.999)


def test_an_encoder_that_pixels_reach_is_told_so(config, noisy_file):
    report = run(config(*RANDOM)).report
    assert any(
        note.startswith("This encoder scores lower than pixels: difference -") for note in report.notes
    )
    assert "pixels" in run_table(report, noisy_file).splitlines()[3]


def test_few_queries_of_a_class_are_told(config, write_npz):
    write_npz(n=20)
    report = run(config(*RANDOM)).report
    assert any("2 classes have fewer than 30 queries (the smallest 10)" in note for note in report.notes)


@pytest.mark.parametrize(
    "change", ["evaluation.confidence=1", "evaluation.resamples=10", "evaluation.baseline=x"]
)
def test_impossible_settings_are_refused_by_name(config, noisy_file, change):
    with pytest.raises(Exception, match=change.split("=")[0]):
        run(config(*RANDOM, change))


@pytest.mark.realdata
def test_pixels_beat_a_small_imagenet_network_on_pneumoniamnist(config, real_root):
    overrides = (
        "dataset=pneumoniamnist",
        "protocol=leave_one_out",
        "encoder=random",
        f"paths.data={real_root}",
    )
    report = run(config(*overrides)).report
    assert report.baseline.scores["precision_at_5"] == pytest.approx(0.8404, abs=2e-4)
    assert report.baseline.difference.high < -0.25


def test_the_table_of_classes_holds_the_means_of_their_queries(config, noisy_file):
    result = run(config(*RANDOM))
    frame = pd.read_parquet(result.folder / "per_query.parquet")
    names = ["malignant", "normal, benign"]
    assert list(result.report.per_class) == names
    for number, name in enumerate(names):
        mine, row = frame[frame["label"] == number], result.report.per_class[name]
        assert row.queries == len(mine)
        for score in ("precision_at_3", "map", "mrr", "vote_accuracy"):
            assert row.scores[score] == pytest.approx(mine[score].mean())


def test_findings_count_for_each_of_their_classes(config, write_npz):
    labels = np.zeros((20, 14), np.uint8)
    labels[:10, 2] = labels[5:15, 4] = 1
    write_npz("chestmnist", n=20, **{f"{s}_labels": labels for s in ("train", "val", "test")})
    overrides = ("dataset=chestmnist", "encoder=random", "evaluation.ks=[1]", "evaluation.resamples=100")
    table = run(config(*overrides)).report.per_class
    assert {name: row.queries for name, row in table.items()} == {"effusion": 10, "mass": 10}
