import csv

import numpy as np
import pytest
from tests.mlflow_store import only_run
from tests.test_text_to_image import ASK

from medretrieval import compose, run
from medretrieval.evaluate.score_table import is_headline
from medretrieval.runs.report import read_report
from medretrieval.track.run_metrics import MAX_METRICS, MAX_SCORES, logged_scores, run_metrics

SMALL = ("encoder=random", "metric=l2", "evaluation.resamples=100")
PHANTOM = (
    "dataset=chest_phantom", "dataset.size=32", "dataset.n_train=60", "dataset.n_val=20", "dataset.n_test=30",
)  # fmt: skip
MANY_KS = "evaluation.ks=[1,2,3,4,5,6,7,8,9,10]"
CASES = {
    "single": ("dataset=breastmnist",),
    "many depths": ("dataset=breastmnist", MANY_KS),
    "ivf": (*PHANTOM, "index=ivf", "index.nlist=4"),
    "hnsw, leave one out": (*PHANTOM, "index=hnsw", "protocol=leave_one_out"),
    "autotune": ("dataset=breastmnist", "index=ivf", "index.autotune=0.9", MANY_KS),
    "multi-label": ("dataset=chestmnist", MANY_KS),
    "ordinal": ("dataset=retinamnist", "index=hnsw", MANY_KS),
    "groups": (
        "dataset=breastmnist", "protocol.exclude_same_group=true", "protocol.drop_duplicates=true",
        "index=ivf", "index.nlist=2",
    ),
    "sentences": (*ASK, MANY_KS),
    "sentences, hnsw": (*ASK, "index=hnsw"),
    "no baseline": ("dataset=breastmnist", "evaluation.baseline=none", "audit.enabled=false"),
}  # fmt: skip


@pytest.fixture
def datasets(write_npz, tmp_path):
    """Files of the three kinds of labels, and the groups of one of them."""
    rng = np.random.default_rng(0)
    splits = ("train", "val", "test")
    write_npz(n=40)
    write_npz("chestmnist", n=20, **{f"{s}_labels": rng.integers(0, 2, (20, 14)) for s in splits})
    color = rng.integers(0, 256, (20, 28, 28, 3), dtype=np.uint8)
    grades = {"images": color, "labels": (np.arange(20) % 5).astype(np.uint8)[:, None]}
    write_npz("retinamnist", n=20, **{f"{s}_{what}": array for s in splits for what, array in grades.items()})
    path = tmp_path / "groups.csv"
    with path.open("w", newline="") as file:
        rows = [(split, i, f"p{i // 2}") for split in splits for i in range(40)]
        csv.writer(file).writerows([("split", "index", "group"), *rows])
    return path


@pytest.mark.parametrize("case", CASES)
def test_a_run_of_any_kind_has_at_most_60_numbers_the_objective_first(case, config, datasets):
    groups = [f"dataset.groups={datasets}"] if case == "groups" else []
    own = () if "sentences" in case else SMALL
    report = run(config(*own, *CASES[case], *groups)).report
    values = run_metrics(report)
    assert len(values) + 2 * (report.autotune is not None) <= MAX_METRICS
    assert next(iter(values)) == "objective"
    name = report.objective.name
    assert values["objective"] == values[name] == report.scores[name]
    assert values["map_at_100"] == report.scores["map_at_100"]
    scores = values.keys() & report.scores.keys()
    headline = {key for key in report.scores if is_headline(key)}
    if len(headline) < MAX_SCORES:
        assert headline <= scores
    else:
        assert len(scores) == MAX_SCORES
        assert scores <= headline  # as many as fit, and nothing else before them
    assert {"precision_at_1", "recall_at_1"} <= scores


def test_runs_of_one_task_have_the_same_scores_whatever_their_index(config, datasets):
    """But `map`, which needs the whole ranking."""
    flat, hnsw = (
        set(logged_scores(run(config(*SMALL, *PHANTOM, f"index={index}", MANY_KS)).report))
        for index in ("flat", "hnsw")
    )
    assert "map_at_100" in flat & hnsw
    assert len(flat ^ hnsw) <= 2


def test_what_is_left_out_is_in_scores_json(config, datasets):
    result = run(config(*SMALL, "dataset=breastmnist", MANY_KS))
    left_out = result.report.scores.keys() - run_metrics(result.report).keys()
    assert left_out
    assert left_out <= read_report(result.folder).scores.keys()


def test_mlflow_itself_has_no_more_than_these(datasets, tmp_path, database):
    places = (f"paths.outputs={tmp_path / 'outputs'}", f"tracking.uri={database}")
    autotuned = ("dataset=breastmnist", "index=ivf", "index.autotune=0.9", "figures.enabled=false")
    report = run(compose(*SMALL, *autotuned, MANY_KS, *places)).report
    metrics = only_run(database)[1].data.metrics
    assert metrics.keys() == run_metrics(report).keys() | {"autotune/recall", "autotune/ms"}
    assert len(metrics) <= MAX_METRICS
