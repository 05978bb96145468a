from pathlib import Path

import numpy as np
import pytest
from faiss.contrib.evaluation import knn_intersection_measure
from tests.tasks import task_of

from medretrieval import compose, run
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.datasets.base import Split
from medretrieval.embed.images import Embeddings
from medretrieval.embed.sides import Sides
from medretrieval.evidence.ann_loss import measure
from medretrieval.index.autotune import ValidationSample, autotune
from medretrieval.index.distance import pair_distances
from medretrieval.index.exact_search import exact_search
from medretrieval.index.faiss_index import build
from medretrieval.index.recall import neighbor_recall
from medretrieval.index.speed import speed
from medretrieval.runs.tables import run_table

METRICS = ("cosine", "l2", "ip")


def alike(vectors):
    """Queries that are the gallery."""
    embeddings = Embeddings(vectors, Path("none.npy"), "v", False, 0.0)
    return Sides(embeddings, embeddings)


@pytest.fixture
def measured(tmp_path):
    """Measure an index over random vectors; the labels are random too."""

    def call(*overrides, n=600, q=80, d=16, leave_one_out=False):
        rng = np.random.default_rng(0)
        settings = check(compose("evaluation.ks=[1,10]", "evaluation.resamples=200", *overrides))
        sides = []
        for name, size in (("test", q), ("train", n)):
            vectors = rng.standard_normal((size, d)).astype(np.float32)
            images = np.zeros((size, 2, 2), np.uint8)
            sides.append((Split(name, images, rng.integers(0, 3, size)), vectors))
        if leave_one_out:
            sides = [sides[1], sides[1]]
        (queries, a), (gallery, b) = sides
        embedded = [Embeddings(v, tmp_path / "none.npy", f"{len(v)}", False, 0.0) for v in (a, b)]
        index = build(settings.index, settings.metric, embedded[1], 10, 0, Cache(tmp_path / "cache"))
        rate = speed(index, a, n, 10)
        return measure(settings, task_of(queries, gallery), index, Sides(*embedded)), rate

    return call


def test_an_exact_index_is_timed_and_not_compared(measured):
    loss, rate = measured("index=flat")
    assert loss is None
    assert rate.bytes_per_vector == pytest.approx(16 * 4, rel=0.01)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_ivf_that_probes_every_cell_loses_nothing(measured, metric, leave_one_out):
    found, _ = measured(
        "index=ivf", "index.nlist=8", "index.nprobe=8", f"metric={metric}", leave_one_out=leave_one_out
    )
    assert found.recall == {1: 1.0, 10: 1.0}
    names = [f"{name}_at_{k}" for k in (1, 10) for name in ("precision", "recall", "map")]
    assert found.changes.keys() == set(names)
    for change, low, high in found.changes.values():  # no query differs, which says little of other queries
        assert change == 0
        assert 0 < high == -low < 0.06
    assert found.missing == 0


def test_more_probes_lose_less(measured):
    recalls = [
        measured("index=ivf", "index.nlist=16", f"index.nprobe={p}")[0].recall[10] for p in (1, 4, 8, 16)
    ]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.7
    assert recalls[-1] == 1.0


def test_compressed_vectors_lose_neighbors(measured):
    found, rate = measured("index=ivfpq", "index.nlist=1", "index.pq_m=2", "index.pq_bits=4")
    assert 0.05 < found.recall[10] < 0.9
    assert rate.bytes_per_vector < 16 * 4


def test_results_that_an_index_does_not_give_are_counted(measured):
    # A cell holds some 12 vectors, so one probe leaves many of 40 results open.
    found, _ = measured("index=ivf", "index.nlist=50", "index.nprobe=1", "evaluation.ks=[1,40]")
    assert found.missing > 80 * 10
    assert found.changes["precision_at_40"][0] < -0.1
    assert found.changes["map_at_40"][2] < 0 > found.changes["recall_at_40"][2]


def test_what_is_left_out_is_left_out_of_both_searches(tmp_path):
    rng = np.random.default_rng(1)
    labels, vectors = rng.integers(0, 3, 90), rng.standard_normal((90, 8)).astype(np.float32)
    images = np.zeros((90, 2, 2), np.uint8)
    split = Split("test", images, labels, groups=(np.arange(90) // 3).astype(np.str_))
    settings = check(compose("index=ivf", "index.nlist=4", "index.nprobe=4", "evaluation.ks=[5]"))
    embedded = Embeddings(vectors, tmp_path / "none.npy", "v", False, 0.0)
    index = build(settings.index, settings.metric, embedded, 10, 0, Cache(tmp_path / "cache"))
    asked = []
    task = task_of(split, split, exclude_same_group=True)
    object.__setattr__(index, "index", Spy(index.index, asked))
    assert measure(settings, task, index, alike(vectors)).recall == {5: 1.0}
    assert asked == [5 + 3]


class Spy:
    """A FAISS index that notes how deep it is searched."""

    def __init__(self, index, asked):
        self.inner, self.asked = index, asked

    def search(self, vectors, depth):
        self.asked.append(depth)
        return self.inner.search(vectors, depth)


def test_speed_and_size_are_plausible(measured):
    found, rate = measured("index=hnsw")
    assert found.queries == 80
    assert 0 < rate.latency_ms["p50"] <= rate.latency_ms["p95"] <= rate.latency_ms["p99"] < 1000
    assert min(rate.queries_per_s_single, rate.queries_per_s_batched, found.exact_queries_per_s) > 1
    assert rate.bytes_per_vector > 16 * 4


def test_results_that_are_there_are_not_searched_again(measured, tmp_path):
    rng = np.random.default_rng(1)
    split = Split("test", np.zeros((90, 2, 2), np.uint8), rng.integers(0, 3, 90))
    vectors = rng.standard_normal((90, 8)).astype(np.float32)
    settings = check(compose("index=ivf", "index.nlist=4", "index.nprobe=1", "evaluation.ks=[1,5]"))
    embedded = Embeddings(vectors, tmp_path / "none.npy", "v", False, 0.0)
    index, task = (
        build(settings.index, settings.metric, embedded, 10, 0, Cache(tmp_path)),
        task_of(split, split),
    )
    ids = task.exclusions.remove(*index.search(vectors, 8))[0]
    searched = measure(settings, task, index, alike(vectors))
    asked = []
    object.__setattr__(index, "index", Spy(index.index, asked))
    given = measure(settings, task, index, alike(vectors), ids)
    assert asked == []
    assert (given.recall, given.changes, given.missing) == (
        searched.recall,
        searched.changes,
        searched.missing,
    )
    measure(settings, task, index, alike(vectors), ids[:, :4])
    assert asked == [6]


def test_timing_stops_when_its_time_is_up(measured, monkeypatch):
    monkeypatch.setattr("medretrieval.index.speed.TIMING_BUDGET_S", 0.0)
    _, rate = measured("index=hnsw")
    assert rate.latency_ms["p50"] > 0


def test_many_queries_are_sampled_alike_for_one_seed(measured, monkeypatch):
    monkeypatch.setattr("medretrieval.evidence.ann_loss.MAX_SAMPLED_QUERIES", 30)
    a, b = (measured("index=ivf", "index.nlist=16", "index.nprobe=1")[0] for _ in range(2))
    assert a.queries == 30
    assert (a.recall, a.changes) == (b.recall, b.changes)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_recall_agrees_with_faiss_where_there_are_no_ties(k):
    rng = np.random.default_rng(k)
    queries, gallery = rng.standard_normal((20, 8)), rng.standard_normal((100, 8))
    distances = np.linalg.norm(queries[:, None] - gallery, axis=2)
    exact = np.argsort(distances, axis=1)[:, :20]
    found = np.stack([rng.permutation(40)[:20] for _ in range(20)])
    theirs = knn_intersection_measure(found[:, :k], exact[:, :k])
    ours = neighbor_recall(
        np.take_along_axis(distances, found, 1), np.take_along_axis(distances, exact, 1), k
    )
    assert ours == pytest.approx(theirs)


def test_long_vectors_close_together_lose_no_neighbor_to_float32(tmp_path):
    """Like raw pixels under l2: far from the origin, near each other."""
    rng = np.random.default_rng(0)
    vectors = (100 + rng.standard_normal((300, 64)) * 0.2).astype(np.float32)
    a, b = vectors[:100], vectors[100:]
    split = [Split(name, np.zeros((len(v), 2, 2), np.uint8), np.arange(len(v)) % 2)
             for name, v in (("test", a), ("train", b))]  # fmt: skip
    settings = check(compose("index=hnsw", "metric=l2", "evaluation.ks=[1,10]", "evaluation.resamples=200"))
    sides = Sides(*(Embeddings(v, tmp_path / "none.npy", f"{len(v)}", False, 0.0) for v in (a, b)))
    index = build(settings.index, settings.metric, sides.gallery, 100, 0, Cache(tmp_path / "cache"))
    ids = index.search(a, 10)[0]
    true = np.argsort(np.linalg.norm(a[:, None].astype(np.float64) - b, axis=2), axis=1)[:, :10]
    assert (np.sort(ids) == np.sort(true)).all(axis=1).mean() > 0.95  # the graph finds what there is
    assert measure(settings, task_of(*split), index, sides).recall == {1: 1.0, 10: 1.0}
    tuned = autotune(index, b, ValidationSample(a, np.full(len(a), -1)), 10, 1.0)
    assert tuned.recall == 1.0


def test_ties_count_and_missing_results_do_not():
    exact = np.array([[0.0, 1.0, 1.0]])
    assert neighbor_recall(np.array([[0.0, 1.0, 1.0]]), exact, 2) == 1.0
    assert neighbor_recall(np.array([[1.0, 1.0, 1.0]]), exact, 2) == 1.0
    assert neighbor_recall(np.array([[0.0, np.inf, np.inf]]), exact, 2) == 0.5


@pytest.mark.parametrize("metric", METRICS)
def test_pair_distances_are_those_of_exact_search(tmp_path, metric):
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((n, 8)).astype(np.float32) for n in (5, 40))
    settings = check(compose(f"metric={metric}"))
    embedded = Embeddings(b, tmp_path / "none.npy", "b", False, 0.0)
    ids, distances = build(settings.index, settings.metric, embedded, 7, 0, Cache(tmp_path)).search(a, 7)
    ids[0, 3] = -1
    again = pair_distances(a, b, ids, settings.metric)
    assert again[0, 3] == np.inf
    distances[0, 3] = np.inf
    assert np.allclose(again, distances, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block", [7, 64, 1000])
def test_exact_search_in_blocks_finds_what_a_flat_index_finds(tmp_path, monkeypatch, metric, block):
    monkeypatch.setattr("medretrieval.index.exact_search.BLOCK_VECTORS", block)
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal((n, 8)).astype(np.float32) for n in (5, 64))
    b[40] = b[3]  # a tie across blocks
    settings = check(compose(f"metric={metric}"))
    embedded = Embeddings(b, tmp_path / "none.npy", "b", False, 0.0)
    wanted = build(settings.index, settings.metric, embedded, 7, 0, Cache(tmp_path)).search(a, 7)
    ids, distances = exact_search(a, b, settings.metric, 7)
    assert np.array_equal(ids, wanted[0])
    assert np.allclose(distances, wanted[1], atol=1e-6)


def test_ties_beyond_the_last_place_cost_no_recall(tmp_path):
    # Each vector five times: an index may give any of the equals.
    vectors = np.repeat(np.random.default_rng(0).standard_normal((40, 8)), 5, axis=0).astype(np.float32)
    split = Split("test", np.zeros((200, 2, 2), np.uint8), np.arange(200) % 2)
    settings = check(compose("index=hnsw", "evaluation.ks=[2]", "evaluation.resamples=200"))
    embedded = Embeddings(vectors, tmp_path / "none.npy", "v", False, 0.0)
    index = build(settings.index, settings.metric, embedded, 200, 0, Cache(tmp_path / "cache"))
    assert measure(settings, task_of(split, split), index, alike(vectors)).recall == {2: 1.0}


def test_a_run_says_what_its_index_loses(config, write_npz):
    write_npz(n=60)
    base = ("dataset=breastmnist", "encoder=random", "evaluation.ks=[1,3]", "evaluation.resamples=200")
    report = run(config(*base, "index=hnsw")).report
    assert report.ann_loss.recall[3] > 0.9
    assert "against exact search: recall@3" in run_table(report, write_npz)
    flat = run(config(*base)).report
    assert flat.ann_loss is None
    assert "against exact search" not in run_table(flat, write_npz)
