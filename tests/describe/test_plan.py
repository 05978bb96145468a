"""The verb plan on finished runs and without one."""

import json

import numpy as np
import pytest
from pyarrow import parquet
from tests.conftest import painted

from medretrieval import run
from medretrieval.runs.folder import PER_QUERY, SCORES
from medretrieval.uncertainty.half_intervals import spread
from medretrieval.uncertainty.half_samples import HalfSamples

N = 40
RUN = ("dataset=breastmnist", "metric=l2", "evaluation.ks=[1,3]", "evaluation.resamples=100", "index=flat")
SIMULATED = ("plan", "dataset=breastmnist", "evaluation.ks=[1,3]", "score=precision_at_3")


@pytest.fixture
def noisy(write_npz):
    """A file whose classes overlap, so that queries differ in their scores."""
    arrays = {}
    for seed, split in enumerate(("train", "val", "test")):
        labels = np.arange(N) % 2
        arrays[f"{split}_images"] = painted(labels, spread=120, seed=seed)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
        flipped = np.random.default_rng(seed).random(N) < 0.3
        arrays[f"{split}_labels"][flipped] = 1 - arrays[f"{split}_labels"][flipped]
    return write_npz(n=N, **arrays)


@pytest.fixture
def groups(tmp_path):
    path = tmp_path / "groups.csv"
    rows = [f"{split},{i},p{i // 2}" for split in ("train", "val", "test") for i in range(N)]
    path.write_text("\n".join(["split,index,group", *rows]))
    return path


def finished(config, encoder, *words):
    return run(config(*RUN, f"encoder={encoder}", *words)).folder


def planned(say, *words):
    code, out, err = say("plan", *words, "--json")
    assert code == 0, err
    return json.loads(out)


def scores_of(folder, score="precision_at_3"):
    return parquet.read_table(folder / PER_QUERY)[score].to_numpy()


def test_two_runs_are_measured(say, noisy, config):
    one, other = finished(config, "pixels"), finished(config, "random")
    found = planned(say, one, f"versus={other}", "delta=0.1", "score=precision_at_3")
    (case,) = found["cases"]
    a, b = scores_of(one), scores_of(other)
    assert case["error"] == pytest.approx((a - b).std(ddof=1) / np.sqrt(N))
    assert case["correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert (found["run"], found["versus"], found["units"], found["kind"]) == (
        str(one),
        str(other),
        N,
        "queries",
    )
    assert (found["simulated"], case["measured"]) == (False, True)
    assert case["units_for_delta"] > N
    assert 0.05 < case["power_at_delta"] < 0.8 < found["power"] + 1e-9
    many = planned(say, one, f"versus={other}", "delta=0.1", "score=precision_at_3", "comparisons=10")
    assert many["cases"][0]["smallest"] > case["smallest"]
    surer = planned(say, one, f"versus={other}", "score=precision_at_3", "power=0.95")
    assert surer["cases"][0]["smallest"] > case["smallest"]
    assert surer["cases"][0]["power_at_delta"] is None


def test_patients_are_the_units_where_they_are_known(say, noisy, config, groups):
    words = (f"dataset.groups={groups}", "evaluation.objective=precision_at_3")
    folder = finished(config, "random", *words)
    found = planned(say, folder)
    assert (found["units"], found["kind"], found["varies"]) == (N // 2, "groups", "groups")
    values = scores_of(folder)
    sums = values.reshape(-1, 2).sum(axis=1)
    alone = np.sqrt(((sums - 2 * values.mean()) ** 2).sum() * 20 / 19) / N
    half = next(case for case in found["cases"] if case["correlation"] == 0.5)
    assert half["error"] == pytest.approx(alone)  # twice the variance, half of it shared


def test_one_run_gives_a_range_and_what_its_baseline_measured(say, noisy, config):
    folder = finished(config, "random")
    found = planned(say, folder)
    measured, *assumed = found["cases"]
    assert (measured["measured"], measured["about"]) == (True, "the run against pixels, measured")
    ends = json.loads((folder / SCORES).read_text())["baseline"]["difference"]
    assert measured["error"] == pytest.approx((ends["high"] - ends["low"]) / (2 * 1.959964), rel=1e-5)
    assert [case["correlation"] for case in assumed] == [0.3, 0.5, 0.7]
    smallest = [case["smallest"] for case in assumed]
    assert smallest == sorted(smallest, reverse=True)


def test_leave_one_out_is_planned_by_halves(say, noisy, config):
    one, other = (finished(config, e, "protocol=leave_one_out") for e in ("pixels", "random"))
    found = planned(say, one, f"versus={other}", "delta=0.2")
    a, b = (HalfSamples.load(folder / "halves.npz") for folder in (one, other))
    error, _ = spread(a.scores[found["score"]] - b.scores[found["score"]], a.sides)
    assert found["cases"][0]["error"] == pytest.approx(error)
    assert (found["kind"], found["units"]) == ("images", N)


def test_without_a_run_the_labels_are_simulated(say, noisy):
    found = planned(say, *SIMULATED[1:], "delta=0.1")
    assert found["simulated"]
    assert (found["run"], found["units"]) == (None, N)
    assert [case["measured"] for case in found["cases"]] == [False] * 3
    labels = np.load(noisy)["test_labels"]
    of_class = np.bincount(np.load(noisy)["train_labels"].ravel()) / N
    chance = of_class[labels.ravel()].mean()
    assert found["value"] == pytest.approx((1 + chance) / 2)
    near_one = planned(say, *SIMULATED[1:], "assumed=0.99")
    assert near_one["cases"][0]["error"] < found["cases"][0]["error"]
    assert planned(say, *SIMULATED[1:], "delta=0.1") == found


def test_the_table_says_whether_delta_can_be_shown(say, noisy, config):
    folder = finished(config, "random")
    _, out, _ = say("plan", folder, "delta=0.01")
    assert "delta=0.01 cannot be shown so surely: it needs " in out
    assert "queries for 0.01" in out
    _, out, _ = say("plan", folder, "delta=0.9")
    assert "delta=0.9 can be shown; " in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("delta=0",), "plan: delta=0: give a number above 0 and below 1, such as 0.02"),
        (("delta=1",), "plan: delta=1: give a number above 0 and below 1, such as 0.02"),
        (("delta=1.5",), "plan: delta=1.5: give a number, 0 to 1"),
        (("versus=x",), "plan: versus=x: is compared with a run; give run=<run> too"),
        (("x", "assumed=0.5"), "plan: assumed=0.5: is of a simulation"),
        (("score=map", "dataset=chest_phantom"), "plan: map is not simulated without a run"),
        (("protocol=leave_one_out",), "plan: protocol=leave_one_out: what varies are images in both roles"),
        (("evaluation.resample=both",), "plan: protocol=query_gallery: what varies are queries and gallery"),
        (("assumed=0.1",), "plan: assumed=0.1: a random ranking scores 0.2000 on these queries"),
        (("protocol=text_to_image", "score=precision_at_5"), "plan: protocol=text_to_image: "),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(refused, words, line):
    assert refused("plan", *words).startswith(line)


def test_runs_of_another_task_are_refused(refused, noisy, config):
    one, loo = finished(config, "random"), finished(config, "random", "protocol=leave_one_out")
    assert refused("plan", one, f"versus={loo}").startswith("plan: protocol.gallery is train in ")
    assert "is the only run given" in refused("plan", one, f"versus={one}")
    assert refused("plan", one, "score=nothing").startswith("plan: score=nothing: ")
    line = refused("plan", one, *RUN, "protocol=leave_one_out", "encoder=random")
    assert line.startswith("plan: protocol.name is leave_one_out here and query_gallery in ")
    line = refused("plan", one, "dataset=pneumoniamnist")
    assert line.startswith("plan: dataset.name is pneumoniamnist here and breastmnist in ")


def test_the_words_of_the_run_may_stand_beside_it(say, noisy, config):
    folder = finished(config, "random")
    assert planned(say, folder, "dataset=breastmnist") == planned(say, folder)
    other = planned(say, folder, "dataset=breastmnist", "evaluation.objective=map_at_100")
    assert other["score"] == "map_at_100"
