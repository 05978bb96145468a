import numpy as np
import pytest
from faiss.contrib.evaluation import knn_intersection_measure

from medretrieval import compose, run
from medretrieval.approximation import exact_distances, measure, neighbour_recall
from medretrieval.cache import Cache
from medretrieval.config import check
from medretrieval.datasets.base import Split
from medretrieval.embed import Embeddings
from medretrieval.evaluate import Task
from medretrieval.index import build
from medretrieval.summary import run_table

METRICS = ("cosine", "l2", "ip")


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
        task, cache = Task.of(queries, gallery, exclude_self=True), Cache(tmp_path / "cache")
        index = build(settings.index, settings.metric, embedded[1], 10, 0, cache)
        return measure(settings, task, index, *embedded, cache)

    return call


def test_an_exact_index_is_not_measured(measured):
    assert measured("index=flat") is None


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_ivf_that_probes_every_cell_loses_nothing(measured, metric, leave_one_out):
    found = measured(
        "index=ivf", "index.nlist=8", "index.nprobe=8", f"metric={metric}", leave_one_out=leave_one_out
    )
    assert found.recall == {1: 1.0, 10: 1.0}
    assert found.precision == {1: (0, 0, 0), 10: (0, 0, 0)}


def test_more_probes_lose_less(measured):
    recalls = [measured("index=ivf", "index.nlist=16", f"index.nprobe={p}").recall[10] for p in (1, 4, 8, 16)]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.7
    assert recalls[-1] == 1.0


def test_compressed_vectors_lose_neighbours(measured):
    found = measured("index=ivfpq", "index.nlist=1", "index.pq_m=2", "index.pq_bits=4")
    assert 0.05 < found.recall[10] < 0.9
    assert found.bytes_per_vector < 16 * 4


def test_speed_and_size_are_plausible(measured):
    found = measured("index=hnsw")
    assert found.queries == 80
    assert 0 < found.latency_ms["p50"] <= found.latency_ms["p95"] <= found.latency_ms["p99"] < 1000
    assert found.queries_per_s_single > 1
    assert found.bytes_per_vector > 16 * 4


def test_many_queries_are_sampled_alike_for_one_seed(measured, monkeypatch):
    monkeypatch.setattr("medretrieval.approximation.SAMPLE", 30)
    a, b = (measured("index=ivf", "index.nlist=16", "index.nprobe=1") for _ in range(2))
    assert a.queries == 30
    assert (a.recall, a.precision) == (b.recall, b.precision)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_recall_agrees_with_faiss_where_there_are_no_ties(k):
    rng = np.random.default_rng(k)
    queries, gallery = rng.standard_normal((20, 8)), rng.standard_normal((100, 8))
    distances = np.linalg.norm(queries[:, None] - gallery, axis=2)
    exact = np.argsort(distances, axis=1)[:, :20]
    found = np.stack([rng.permutation(40)[:20] for _ in range(20)])
    theirs = knn_intersection_measure(found[:, :k], exact[:, :k])
    ours = neighbour_recall(
        np.take_along_axis(distances, found, 1), np.take_along_axis(distances, exact, 1).astype(np.float32), k
    )
    assert ours == pytest.approx(theirs)


def test_ties_count_and_missing_results_do_not():
    exact = np.array([[0.0, 1.0, 1.0]], np.float32)
    assert neighbour_recall(np.array([[0.0, 1.0, 1.0]]), exact, 2) == 1.0
    assert neighbour_recall(np.array([[1.0, 1.0, 1.0]]), exact, 2) == 1.0
    assert neighbour_recall(np.array([[0.0, np.inf, np.inf]]), exact, 2) == 0.5


@pytest.mark.parametrize("metric", METRICS)
def test_exact_distances_are_those_of_exact_search(tmp_path, metric):
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((n, 8)).astype(np.float32) for n in (5, 40))
    settings = check(compose(f"metric={metric}"))
    embedded = Embeddings(b, tmp_path / "none.npy", "b", False, 0.0)
    ids, distances = build(settings.index, settings.metric, embedded, 7, 0, Cache(tmp_path)).search(a, 7)
    ids[0, 3] = -1
    again = exact_distances(a, b, ids, settings.metric)
    assert again[0, 3] == np.inf
    distances[0, 3] = np.inf
    assert np.allclose(again, distances, atol=1e-5)


def test_a_run_says_what_its_index_loses(config, write_npz):
    write_npz(n=60)
    base = ("dataset=breastmnist", "encoder=random", "evaluation.ks=[1,3]", "evaluation.resamples=200")
    report = run(config(*base, "index=hnsw")).report
    assert report["approximation"]["recall"]["3"] > 0.9
    assert "against exact search: recall@3" in run_table(report, write_npz)
    flat = run(config(*base)).report
    assert flat["approximation"] is None
    assert "against exact search" not in run_table(flat, write_npz)
