import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
from tests.toy_encoders import Brightness

from medretrieval import run
from medretrieval.checks import check
from medretrieval.datasets.base import Dataset
from medretrieval.encoders.card import Card
from medretrieval.errors import UserError
from medretrieval.evaluate import score_table
from medretrieval.evaluate.score_table import Score
from medretrieval.instantiate import instantiate
from medretrieval.runs import warnings
from medretrieval.runs.report import Objective

BASE = ("dataset=breastmnist", "encoder=random", "evaluation.resamples=200", "audit.enabled=false")


def notes(config, *overrides):
    return run(config(*BASE, *overrides)).report.notes


def test_a_k_beyond_the_relevant_images_is_told(config, write_npz):
    write_npz(n=20, train_labels=np.array([0] * 17 + [1] * 3, np.uint8)[:, None])
    told = [n for n in notes(config, "evaluation.ks=[1,5]") if "fewer than k=5 relevant images" in n]
    assert told == [
        "10 queries have fewer than k=5 relevant images to find (the fewest: 3): their precision_at_5 "
        "cannot reach 1."
    ]
    assert not any("fewer than k=" in n for n in notes(config, "evaluation.ks=[1,3]"))


def test_an_encoder_that_may_have_seen_the_data_is_told(config, write_npz):
    write_npz(n=20)
    seen = "encoder.card.overlap=It has seen the sources of MedMNIST."
    told = [n for n in notes(config, "evaluation.ks=[1]", seen) if "trained on" in n]
    assert told == [
        "random may have been trained on data of breastmnist: It has seen the sources of MedMNIST."
    ]


@pytest.mark.parametrize("overlap", [None, "It has seen ChestMNIST."])
@pytest.mark.parametrize("random_weights", [True, False])
def test_only_trained_weights_that_may_have_seen_this_data_are_told(config, overlap, random_weights):
    dataset, encoder = config("dataset=breastmnist").dataset, Brightness()
    encoder.card = Card("MIT", 2, "Images.", overlap or "All of MedMNIST." * random_weights, None, "x")
    encoder.random_weights = random_weights
    inputs = SimpleNamespace(dataset=instantiate(dict(dataset), Dataset, "dataset"), encoder=encoder)
    assert warnings._about_overlap(inputs) == []


RESNET = ("encoder=timm", "encoder.model=test_resnet", "encoder.pretrained=null", "encoder.runtime=torch")


@pytest.mark.parametrize("view", ["checkpoint", "whole"])
def test_what_a_checkpoint_cuts_off_is_told(config, write_npz, view):
    write_npz(n=20)
    told = [
        "The checkpoint's transform cuts the border off: the model does not see 9 % of the area of each "
        "image; encoder.view=whole shows it all."
    ] * (view == "checkpoint")
    for _ in range(2):  # the second takes it from the cache
        report = run(config(*BASE, *RESNET, f"encoder.view={view}", "force=true")).report
        assert [n for n in report.notes if "transform" in n] == told
        assert report.encoder.unseen == pytest.approx(1 - (160 / 168) ** 2 if told else 0, abs=0.003)
        assert (report.encoder.view, f"(view={view})" in report.title) == (view, True)


def test_what_an_encoder_without_a_view_cuts_off_is_told_without_a_way_out(config):
    settings = check(config("encoder=pixels"))
    (half,), (unknown,) = (warnings._about_view(settings, share) for share in (0.5, None))
    assert half.endswith("cuts the border off: the model does not see 50 % of the area of each image.")
    assert unknown.startswith("The encoder's preprocessing has unknown steps")
    assert warnings._about_view(settings, 0.0) == []


@pytest.mark.parametrize(("rate", "told"), [(1e12, False), (1.0, True)])
def test_exact_search_that_is_faster_is_told(config, write_npz, monkeypatch, rate, told):
    write_npz(n=60)
    monkeypatch.setattr("medretrieval.index.speed._rate", lambda *a: rate)  # of the index
    found = notes(config, "index=hnsw", "evaluation.ks=[1]")
    assert any("index=flat was not slower" in n for n in found) == told


@pytest.mark.parametrize(("name", "alone"), [("MainProcess", True), ("LokyProcess-2", False)])
def test_speeds_of_jobs_that_ran_at_once_are_not_compared(config, write_npz, monkeypatch, name, alone):
    write_npz(n=60)
    monkeypatch.setattr("medretrieval.index.speed._rate", lambda *a: 1.0)
    monkeypatch.setattr(multiprocessing.current_process(), "name", name)
    found = notes(config, "index=hnsw", "evaluation.ks=[1]")
    assert any("index=flat was not slower" in n for n in found) == alone
    assert any(n.startswith("Timed beside other jobs") for n in found) == (not alone)


def test_scores_that_chance_reaches_are_named(config, write_npz):
    write_npz(n=60)
    start = "Not shown to score better than a random ranking (chance lies within the interval): "
    told = notes(config, "evaluation.ks=[1,10]")
    (found,) = [n for n in told if n.startswith(start)]
    assert "precision_at_1, " in found
    (worse,) = [n for n in told if n.startswith("Scores worse than a random ranking")]
    assert "precision_at_10" in worse  # by chance: its interval ends below it
    plain = notes(config, "encoder=pixels", "metric=l2", "evaluation.ks=[1]")
    assert not any("a random ranking" in note for note in plain)


@pytest.mark.parametrize(
    ("name", "ends", "said"),
    [
        ("precision_at_1", (0.5, 0.7), None),
        ("precision_at_1", (0.3, 0.5), warnings.NOT_EXCLUDED),
        ("precision_at_1", (0.1, 0.3), warnings.BELOW_CHANCE),
        ("precision_at_1", None, warnings.NO_INTERVAL),
        ("vote_brier", (0.1, 0.3), None),
        ("vote_brier", (0.3, 0.5), warnings.NOT_EXCLUDED),
        ("vote_brier", (0.5, 0.7), warnings.BELOW_CHANCE),
    ],
)
def test_a_random_ranking_that_is_better_is_told_from_one_that_is_not_excluded(name, ends, said):
    evidence = SimpleNamespace(chance={name: 0.4}, intervals={name: ends} if ends else {})
    outputs = SimpleNamespace(evidence=evidence, evaluation=SimpleNamespace(scores={name: 0.4}))
    wanted = [] if said is None else [said.format(name)]
    assert warnings._about_chance(outputs) == wanted


def test_chance_reaches_no_perfect_score_of_which_less_is_better(config, write_npz, monkeypatch):
    error = Score(
        "error_at_{k}", "share of misses", "1 - sum(h_1..h_K) / K",
        of_query=lambda r, k: 1.0 - r.hits[:, :k].mean(axis=1), headline=True, less_is_better=True,
    )  # fmt: skip
    monkeypatch.setattr(score_table, "SCORES", (*score_table.SCORES, error))
    write_npz(n=60)
    perfect = notes(config, "encoder=pixels", "metric=l2", "evaluation.ks=[1]")
    assert not any("a random ranking" in note for note in perfect)
    (random,) = [note for note in notes(config, "evaluation.ks=[1]") if "a random ranking" in note]
    assert "precision_at_1" in random
    assert "error_at_1" in random


def test_a_run_without_intervals_says_so_once(config, write_npz):
    write_npz(n=8)
    found = [n for n in notes(config, "evaluation.ks=[1]") if "chance" in n]
    assert found == [
        "No score has an interval, so whether it is above a random ranking (chance) is not shown."
    ]


def test_few_queries_or_groups_are_told(config, write_npz, tmp_path):
    write_npz(n=24)
    (few,) = [n for n in notes(config, "evaluation.ks=[1]") if "unreliable" in n and "intervals" in n]
    assert few.startswith("Only 24 queries have something to find: intervals over fewer than 30")
    write_npz(n=60)
    assert not any("intervals over fewer" in n for n in notes(config, "evaluation.ks=[1]"))
    rows = "".join(f"{split},{i},p{i // 4}\n" for split in ("train", "test") for i in range(60))
    groups = tmp_path / "groups.csv"
    groups.write_text(f"split,index,group\n{rows}")
    grouped = notes(config, "evaluation.ks=[1]", f"dataset.groups={groups}")
    assert any("Only 15 groups have something to find: intervals over fewer than 20" in n for n in grouped)


def test_an_ordinal_set_is_scored_by_degrees(config, write_npz):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 60).astype(np.uint8)[:, None]
    images = np.broadcast_to(labels[:, None, None] * 40, (60, 28, 28, 3)).astype(np.uint8)
    arrays = {f"{s}_{what}": array for s in ("train", "val", "test")
              for what, array in (("images", images), ("labels", labels))}  # fmt: skip
    write_npz("retinamnist", n=60, **arrays)
    overrides = ("dataset=retinamnist", "encoder=pixels", "metric=l2", "evaluation.ks=[1,5]")
    report = run(config(*BASE, *overrides, "evaluation.objective=macro_graded_ndcg_at_5")).report
    assert report.objective == Objective("macro_graded_ndcg_at_5", pytest.approx(1.0))
    assert 0.4 < report.chance["graded_ndcg_at_5"] < 0.8  # neighboring grades count in part
    assert report.chance["ndcg_at_5"] == pytest.approx(0.2, abs=0.05)
    assert report.lift["graded_ndcg_at_5"] == pytest.approx(1 / report.chance["graded_ndcg_at_5"])
    ends = report.intervals["macro_graded_ndcg_at_5"]
    assert 0.9 < ends.low < ends.high == 1


def test_findings_that_must_overlap_more_are_relevant_less_often(config, write_npz):
    labels = (np.random.default_rng(0).random((60, 14)) < 0.3).astype(np.uint8)
    write_npz("chestmnist", n=60, **{f"{s}_labels": labels for s in ("train", "val", "test")})
    base = ("dataset=chestmnist", "evaluation.ks=[5]")
    loose = run(config(*BASE, *base)).report
    strict = run(config(*BASE, *base, "evaluation.min_jaccard=0.5")).report
    assert strict.scores["precision_at_5"] < loose.scores["precision_at_5"] / 2
    assert strict.chance["precision_at_5"] < loose.chance["precision_at_5"] / 2
    assert strict.scores["graded_ndcg_at_5"] == pytest.approx(loose.scores["graded_ndcg_at_5"], abs=0.1)


def test_an_overlap_is_refused_where_an_image_has_one_class_and_beyond_its_range(config, write_npz):
    write_npz(n=20)
    with pytest.raises(UserError, match=r"min_jaccard=0\.5: dataset=breastmnist has one class an image"):
        run(config(*BASE, "evaluation.min_jaccard=0.5"))
    for wrong in (0, 1.1, -1):
        with pytest.raises(UserError, match=r"evaluation\.min_jaccard=.*: above 0 and at most 1"):
            run(config(*BASE, f"evaluation.min_jaccard={wrong}"))
