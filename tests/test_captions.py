"""Runs whose queries are the captions of the searched images, with an encoder whose vectors are known."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file
from tests.refusals import refusal
from tests.tasks import protocol
from tests.tiny_models import TINY_READER, clip_state, write_clip_config
from tests.toy_datasets import Captioned

from medretrieval import compose, run
from medretrieval.checks import check
from medretrieval.config import EvaluationConfig, Hit, PromptsConfig, PromptSource
from medretrieval.evaluate import chance
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.evaluate.scores import reciprocal_rank
from medretrieval.protocol.captions import captions_of
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.ranking import Ranking
from medretrieval.protocol.task import RetrievalTask
from medretrieval.track.run_description import describe_run
from medretrieval.uncertainty.bootstrap import Resampling, intervals
from medretrieval.verify import again, verify

N = 40
CAPTIONS = ("protocol=text_to_image", "prompts=captions")
ASK = (
    *CAPTIONS,
    "dataset._target_=tests.toy_datasets.Captioned",
    "dataset.size=16",
    f"dataset.n_train={N}",
    f"dataset.n_test={N}",
    "encoder=random",
    "encoder._target_=tests.toy_encoders.Described",
    "~encoder.dim",
    "~encoder.normalize",
    "~encoder.seed",
    "encoder.name=described",
    f"+encoder.count={N}",
    "evaluation.ks=[1,2,10]",
    "evaluation.resamples=100",
)
OF_GROUPS = ("+dataset.patients=4", "prompts.hit=group")


def test_captions_that_name_their_image_find_it_first(config):
    result = run(config(*ASK))
    report, scores = result.report, result.report.scores
    assert scores["recall_at_1"] == scores["hit_rate_at_1"] == scores["mrr"] == scores["map"] == 1
    assert scores["median_rank"] == 1
    assert report.chance["median_rank"] == (N + 1) / 2
    assert report.chance["recall_at_10"] == pytest.approx(10 / N)
    assert report.objective.name == "recall_at_2"
    assert (report.protocol.prompts, report.protocol.hit) == ("captions", "image")
    assert "(captions, hit: image, queries test)" in report.title
    assert (report.resampled, report.counts.queries) == ("queries", N)
    assert "recall_at_1" in report.intervals
    assert "median_rank" not in report.intervals
    said = json.loads((result.folder / "prompts.json").read_text())
    names = compose().dataset  # the phantoms' classes, which are those of the toy
    assert names.name == "chest_phantom"
    assert said[3] == {"id": "prompt/test/3", "class": said[3]["class"], "texts": ["a scan, 3"]}
    assert len(said) == N


def test_what_belongs_to_classes_is_left_out(config):
    report = run(config(*ASK)).report
    assert not [name for name in report.scores if "vote" in name or "graded" in name]
    assert report.zero_shot is None
    assert report.vote.abstention is None
    assert report.baseline is None
    assert report.modality_gap is not None
    notes = " ".join(report.notes)
    assert "zero_shot" not in notes
    assert "not independent queries" not in notes
    assert "left out, because more of the ranking" not in notes


def test_a_hit_does_not_depend_on_the_class_and_the_class_is_the_image_s_own(config):
    result = run(config(*ASK))
    labels = np.random.default_rng(0).integers(0, 5, N)
    table = pd.read_parquet(result.folder / "per_query.parquet")
    assert table["label"].tolist() == labels.tolist()
    assert (table["n_relevant"] == 1).all()
    assert {row.scores["recall_at_1"] for row in result.report.per_class.values()} == {1}
    assert sum(row.queries for row in result.report.per_class.values()) == N


def test_captions_of_other_images_score_chance(config):
    """Each finds the image it names, and its own somewhere: all others are as far, in their own order."""
    report = run(config(*ASK, "+encoder.shift=7")).report
    assert report.scores["recall_at_1"] == 0
    assert report.scores["recall_at_10"] == pytest.approx(10 / N, abs=0.05)
    assert report.scores["median_rank"] == pytest.approx((N + 1) / 2, abs=1)


@pytest.mark.parametrize("more", [(), OF_GROUPS, ("index=hnsw", "+encoder.shift=3"), ("+dataset.silent=4",)])
def test_an_untouched_run_is_as_saved_and_comes_out_again(config, more):
    result = run(config(*ASK, *more))
    assert verify(result.folder) == []
    new = again(result.folder)
    assert (new.results, new.surroundings) == ([], [])
    assert run(config(*ASK, *more)).skipped


def test_a_saved_ranking_that_was_changed_is_noticed(config):
    folder = run(config(*ASK)).folder
    ranking = Ranking.load(folder / "ranking.npz")
    ids = ranking.ids.copy()
    ids[0, :2] = ids[0, 1::-1]
    replace(ranking, ids=ids).save(folder / "ranking.npz")
    assert any(line.startswith("ranking.npz: precision_at_1") for line in verify(folder))


def test_images_without_a_caption_are_searched_and_do_not_ask(config):
    report = run(config(*ASK, "+dataset.silent=4")).report
    assert (report.counts.queries, report.counts.gallery) == (30, 40)
    assert report.scores["recall_at_1"] == 1
    assert any(note.startswith("10 images have no caption") for note in report.notes)


def test_one_caption_of_several_images_is_a_query_of_each_and_none_can_do_better(config):
    report = run(config(*ASK, "+dataset.alike=2")).report
    assert report.counts.queries == N
    assert report.scores["recall_at_1"] == 0.5
    line = f"40 of 40 captions are worded like another image's: the same words .* more than {N // 2} of them"
    assert any(pd.Series([note]).str.match(line)[0] for note in report.notes)


def test_where_any_image_of_the_patient_counts_their_shared_words_do_no_harm(config):
    report = run(config(*ASK, *OF_GROUPS, "+dataset.alike=2")).report
    assert report.scores["hit_rate_at_1"] == 1
    assert not any("worded like" in note for note in report.notes)
    assert report.resampled == "groups"


def test_any_image_of_the_patient_is_a_hit(config):
    result = run(config(*ASK, *OF_GROUPS))
    assert result.report.scores["recall_at_1"] == 1 / 4
    assert result.report.scores["median_rank"] == 1
    assert result.report.protocol.hit == "group"
    assert result.report.chance_errors["median_rank"] > 0
    assert "hit: group" in result.report.title
    ranking = Ranking.load(result.folder / "ranking.npz")
    hits = ranking.ids // 4 == np.arange(N)[:, None] // 4
    assert result.report.scores["map"] == pytest.approx(
        np.mean([(np.arange(1, 5) / (np.flatnonzero(row) + 1)).mean() for row in hits])
    )


def test_centering_takes_the_mean_of_the_train_captions_and_never_of_those_that_ask(config):
    more = ("+dataset.silent=4", "dataset.n_train=8")
    plain = run(config(*ASK, *more)).folder
    done = run(config(*ASK, *more, "protocol.center=train"))
    query, gallery = (np.load(plain / f"embeddings_{role}.npy") for role in ("query", "gallery"))
    axes = np.eye(N, dtype=np.float32)
    texts = axes[[0, 1, 2, 4, 5, 6]].mean(axis=0)  # the captions of eight images, of which two have none

    def centered(vectors, mean):
        moved = vectors - mean
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    found = [np.load(done.folder / f"embeddings_{role}.npy") for role in ("query", "gallery")]
    np.testing.assert_allclose(found[0], centered(query, texts), atol=1e-5)
    np.testing.assert_allclose(found[1], centered(gallery, axes[:8].mean(axis=0)), atol=1e-5)
    assert "captions, hit: image, queries test, centered on train" in done.report.title


def test_a_warm_run_takes_the_vectors_of_the_captions_from_the_cache(config, monkeypatch):
    run(config(*ASK))
    monkeypatch.setattr("tests.toy_encoders.Described.encode_text", None)
    assert run(config(*ASK, "force=true")).report.scores["recall_at_1"] == 1


def test_a_clip_reads_the_captions_of_the_phantoms(config, tmp_path):
    """The whole way with a real text tower; its weights are random, so it scores no more than chance."""
    folder = tmp_path / "clip"
    folder.mkdir()
    write_clip_config(folder, config=TINY_READER)
    save_file(clip_state(folder), folder / "open_clip_model.safetensors")
    overrides = (
        *CAPTIONS, "dataset.size=32", "dataset.n_test=60", "encoder=open_clip", "encoder.name=tiny",
        "encoder.runtime=torch", f"encoder.model=local-dir:{folder}", "evaluation.resamples=100",
        f"encoder.checkpoint={folder}/open_clip_model.safetensors", "figures.enabled=true",
    )  # fmt: skip
    assert "longer than the 12 tokens" in refusal(run, config(*overrides))
    result = run(config(*overrides, "prompts.max_words=4"))
    assert any("longer than prompts.max_words and cut to it" in note for note in result.report.notes)
    assert result.report.scores["recall_at_10"] < 0.45
    assert result.report.chance["recall_at_10"] == pytest.approx(1 / 6)
    assert any("are worded like another image's" in note for note in result.report.notes)
    shown = json.loads((result.folder / "figures" / "examples.json").read_text())
    classes = compose_classes()
    for row in shown["retrieval"]:
        position = int(row["id"].rpartition("/")[2])
        assert row["class"] == classes[position]
        assert [r["relevant"] for r in row["results"]] == [
            r["id"] == f"test/{position}" for r in row["results"]
        ]
    assert shown["confusion"]["classes"] == sorted(set(classes), key=shown["classes"].index)
    assert not (result.folder / "figures" / "vote.png").exists()


def compose_classes():
    """The class of each of the first 60 test phantoms."""
    from medretrieval.datasets.base import Dataset
    from medretrieval.instantiate import instantiate

    dataset = instantiate(check(compose("dataset.size=32", "dataset.n_test=60")).dataset, Dataset, "dataset")
    return [dataset.classes[i] for i in dataset.load("test").labels]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("protocol=query_gallery",), "protocol=query_gallery: its queries are images"),
        (("protocol.prompts=ensemble",), "protocol.prompts=ensemble: each caption is a query of its own"),
        (("prompts.templates=['a {}']",), "templates and classes: are words for classes"),
        (("prompts.max_words=0",), "prompts.max_words=0: must be 1 or more"),
        (("prompts.hit=null",), "prompts.hit=null: say what a caption has to find"),
        (("evaluation.min_jaccard=0.5",), "evaluation.min_jaccard=0.5: has no effect"),
        (("evaluation.resample=both",), "evaluation.resample=both: a caption and its image are one draw"),
        (("index=ivf", "index.autotune=0.9"), "index.autotune=0.9: tunes on images"),
        (("explain.enabled=true",), "explain.enabled=true: draws maps of image queries"),
        (("protocol.exclude_same_group=true",), "protocol.exclude_same_group=true: has no effect"),
    ],
)
def test_what_makes_no_sense_beside_captions_is_refused(more, line):
    assert line in refusal(check, compose(*CAPTIONS, *more))


def test_a_hit_is_a_matter_of_captions_alone():
    for option in ("prompts.hit=image", "prompts.max_words=9"):
        line = refusal(check, compose("protocol=text_to_image", option))
        assert "prompts.source=classes asks for classes" in line


def test_datasets_without_captions_or_groups_and_encoders_without_words_are_refused(config, write_npz):
    write_npz(n=12)
    words = (*CAPTIONS, "dataset=breastmnist", f"+encoder.count={N}")
    toy = [o for o in ASK if o.startswith(("encoder", "~encoder"))]
    line = refusal(run, config(*words, *toy))
    assert line.startswith("prompts=captions: dataset=breastmnist has no captions of split 'test'")
    assert refusal(run, config(*ASK, "prompts.hit=group")).startswith(
        "prompts.hit=group: dataset=chest_phantom"
    )
    assert "has no text tower" in refusal(run, config(*CAPTIONS, "encoder=random"))


def test_trackers_are_told_what_asks():
    params = describe_run(check(compose(*CAPTIONS)), None).params
    assert (params["prompts"], params["prompts.hit"]) == ("captions", "image")
    assert "prompts" not in describe_run(check(compose("protocol=text_to_image")), None).params


OPTIONS = EvaluationConfig(ks=[1, 3], save_depth=None, vote_k=3)


def task_of_captions(n, patients=0, hit=Hit.image):
    toy = Captioned(
        name="toy", size=16, n_train=0, n_val=0, n_test=n, difficulty=0, seed=0, patients=patients
    )
    gallery = toy.load("test")
    wanted = PromptsConfig([], {}, PromptSource.captions, hit)
    queries = captions_of(gallery, toy.classes, wanted, "dataset=toy")
    options = protocol()
    return RetrievalTask.from_sides(queries, gallery, Exclusions.from_protocol(queries, gallery, options))


def evaluated(task, depth, seed=0):
    """A random ranking of every query, and what is scored of its first `depth` results."""
    n, rng = len(task.gallery), np.random.default_rng(seed)
    ids = rng.permuted(np.tile(np.arange(n), (len(task.queries), 1)), axis=1)
    distances = np.sort(rng.random(ids.shape).astype(np.float32), axis=1)
    found = evaluate(lambda rows, k: (ids[rows, :k], distances[rows, :k]), task, depth, OPTIONS)
    return ids, found


@pytest.mark.parametrize(("n", "patients", "hit"), [(9, 0, "image"), (12, 0, "image"), (12, 3, "group")])
def test_the_median_rank_is_that_of_the_first_hits(n, patients, hit):
    task = task_of_captions(n, patients, Hit(hit))
    ids, found = evaluated(task, n)
    ranks = []
    for query, row in enumerate(ids):
        own = {query} if hit == "image" else {i for i in range(n) if i // patients == query // patients}
        ranks.append(1 + next(place for place, item in enumerate(row) if item in own))
    middle = sorted(ranks)[(n - 1) // 2 : n // 2 + 1]
    assert found.scores["median_rank"] == sum(middle) / len(middle)
    assert "macro_median_rank" not in found.scores


def test_a_ranking_that_holds_less_than_half_of_the_hits_has_no_median_rank():
    task = task_of_captions(12)
    whole = evaluated(task, 12)[1].scores["median_rank"]
    for depth in range(3, 12):
        ids, found = evaluated(task, depth)
        hits = (ids[:, :depth] == np.arange(12)[:, None]).any(axis=1)
        assert found.scores.get("median_rank") == (whole if hits.sum() > 6 else None)


@pytest.mark.parametrize(("n", "patients", "hit"), [(9, 0, "image"), (12, 0, "image"), (12, 3, "group")])
def test_chance_of_the_median_rank_is_what_random_rankings_have(n, patients, hit):
    task = task_of_captions(n, patients, Hit(hit))
    distances = np.zeros((n, 3), np.float32)
    told = chance.without_closed_form(task, distances, OPTIONS, 0)["median_rank"]
    drawn = [evaluated(task, n, seed)[1].scores["median_rank"] for seed in range(300)]
    error = np.hypot(np.std(drawn) / np.sqrt(len(drawn)), told.error)
    assert told.value == pytest.approx(np.mean(drawn), abs=4 * error)
    assert (told.error == 0) == (hit == "image")


def test_counts_of_relevant_images_do_not_grow_with_the_square_of_the_gallery():
    """A table of queries and images of this size would be 40 GB."""
    from medretrieval.protocol.relevance import Relevance

    n = 70_000
    out = Exclusions((), np.zeros(n, np.bool_))
    numbers = np.arange(n)
    assert (Relevance().counts(numbers, numbers, out) == 1).all()
    assert (Relevance().counts(numbers + n, numbers, out) == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "each", "noise"), [(120, 2, 1.5), (240, 3, 2.5)])
def test_intervals_over_captions_of_patients_cover_the_mean_of_other_patients_too(n, each, noise):
    """Patients drawn anew, whose images (`each`) and captions are alike; whole patients are drawn again."""
    rng, d, found = np.random.default_rng(0), 8, []
    patients = np.arange(n) // each
    for _ in range(300):
        shared = rng.normal(size=(n // each, d))[patients]
        images = shared + rng.normal(size=(n, d))
        said = images + noise * (rng.normal(size=(n // each, d))[patients] + rng.normal(size=(n, d)))
        unit = images / np.linalg.norm(images, axis=1, keepdims=True)
        order = np.argsort(-said @ unit.T, axis=1)
        own, of_patient = order == np.arange(n)[:, None], patients[order] == patients[:, None]
        values = {
            "recall_at_10": own[:, :10].any(axis=1) * 1.0,
            "mrr": reciprocal_rank(own),
            "hit_rate_at_10": of_patient[:, :10].any(axis=1) * 1.0,
        }
        ends = intervals(values, Resampling(1000, 0.95, 0), patients, None, np.ones(n, np.int64))
        found.append([(values[name].mean(), *ends[name]) for name in values])
    table = np.array(found)  # [datasets, scores, (mean, low, high)]
    truth = table[:, :, 0].mean(axis=0)
    covered = ((table[:, :, 1] <= truth) & (truth <= table[:, :, 2])).mean(axis=0)
    assert (covered > 0.9).all()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "noise", "sentences"), [(100, 0.7, None), (240, 1.0, None), (100, 0.5, 25)])
def test_intervals_over_captions_cover_the_mean_of_other_images_too(n, noise, sentences):
    """Images and captions drawn anew; `sentences`: so few different captions, which images share.

    Shared captions have hits at different ranks of one ranking, so their mean varies less than is said.
    """
    rng, d, found = np.random.default_rng(0), 8, []
    topics = rng.normal(size=(sentences or 1, d))
    for _ in range(300):
        if sentences is None:
            images = rng.normal(size=(n, d))
            said = images + noise * rng.normal(size=(n, d))
        else:
            said = topics[rng.integers(0, sentences, n)]
            images = said + noise * rng.normal(size=(n, d))
        unit = images / np.linalg.norm(images, axis=1, keepdims=True)
        hits = np.argsort(-said @ unit.T, axis=1) == np.arange(n)[:, None]
        values = {"recall_at_5": hits[:, :5].any(axis=1) * 1.0, "mrr": reciprocal_rank(hits)}
        ends = intervals(values, Resampling(1000, 0.95, 0), None, None, np.ones(n, np.int64))
        found.append([(values[name].mean(), *ends[name]) for name in values])
    table = np.array(found)  # [datasets, scores, (mean, low, high)]
    truth = table[:, :, 0].mean(axis=0)
    covered = ((table[:, :, 1] <= truth) & (truth <= table[:, :, 2])).mean(axis=0)
    assert (covered > 0.9).all()
