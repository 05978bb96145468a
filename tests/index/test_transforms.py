"""Indexes that change vectors: what they compare, and whether that is another metric."""

from dataclasses import replace

import faiss
import numpy as np
import pytest
from tests.tasks import task_of

from medretrieval import compose, run
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import IndexConfig
from medretrieval.datasets.base import Split
from medretrieval.embed.images import Embeddings
from medretrieval.embed.sides import Sides
from medretrieval.evidence.ann_loss import measure
from medretrieval.index.distance import FAISS_METRIC, prepare
from medretrieval.index.faiss_index import build
from medretrieval.index.transforms import as_compared, changes_metric

D = 16
METRICS = ("cosine", "l2", "ip")


def metric_of(name):
    return check(compose(f"metric={name}")).metric


def skewed(n, seed):
    """Directions of very different lengths, off the origin: what PCA and whitening change."""
    vectors = np.random.default_rng(seed).standard_normal((n, D)) * np.geomspace(1, 50, D) + 5
    return vectors.astype(np.float32)


def trained(factory, metric):
    index = faiss.index_factory(D, factory, FAISS_METRIC[metric.faiss])
    vectors = prepare(skewed(300, 0), metric, "gallery")
    index.train(vectors)
    index.add(vectors)
    return index


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "factory", ["PCA4,Flat", "PCAW16,Flat", "L2norm,Flat", "RR16,Flat", "RR16,PCA8,Flat"]
)
def test_exact_search_of_the_changed_vectors_finds_what_the_index_finds(factory, name):
    metric = metric_of(name)
    index, queries = trained(factory, metric), skewed(20, 1)
    a, changed = as_compared(queries, index, metric)
    b, _ = as_compared(skewed(300, 0), index, metric)
    assert changed == replace(metric, normalize=False)
    raw, ids = index.search(prepare(queries, metric, "queries"), 5)
    wanted = ((a[:, None] - b) ** 2).sum(axis=2) if name == "l2" else -(a @ b.T)
    best = np.sort(wanted, axis=1)[:, :5]
    np.testing.assert_allclose(np.take_along_axis(wanted, ids, 1), best, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(raw if name == "l2" else -raw, best, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW8"])
def test_an_index_that_changes_nothing_is_compared_as_before(factory, name):
    metric, vectors = metric_of(name), skewed(20, 1)
    index = trained(factory, metric)
    assert as_compared(vectors, index, metric)[0] is vectors
    assert as_compared(vectors, index, metric)[1] == metric
    assert not changes_metric(index, metric)


@pytest.mark.parametrize(
    ("factory", "of_l2", "of_ip"),
    [
        ("RR16,Flat", False, False),
        ("OPQ4_16,Flat", False, False),
        ("PCA16,Flat", False, True),  # centered, which products feel
        ("PCA8,Flat", True, True),
        ("PCAW16,Flat", True, True),
        ("L2norm,Flat", True, True),
    ],
)
def test_a_rotation_keeps_the_metric_and_all_else_changes_it(factory, of_l2, of_ip):
    assert changes_metric(trained(factory, metric_of("l2")), metric_of("l2")) == of_l2
    assert changes_metric(trained(factory, metric_of("ip")), metric_of("ip")) == of_ip


@pytest.mark.parametrize("name", METRICS)
def test_what_exact_search_of_changed_vectors_finds_is_no_loss(tmp_path, name):
    settings = check(compose(f"metric={name}", "evaluation.ks=[1,10]", "evaluation.resamples=200"))
    config = IndexConfig(name="pca", factory="PCAW4,Flat")
    a, b = skewed(50, 1), skewed(300, 0)
    splits = [
        Split(role, np.zeros((len(v), 2, 2), np.uint8), np.arange(len(v)) % 2)
        for role, v in (("test", a), ("train", b))
    ]
    sides = Sides(*(Embeddings(v, tmp_path / "none.npy", f"{len(v)}", False, 0.0) for v in (a, b)))
    index = build(config, settings.metric, sides.gallery, 10, 0, Cache(tmp_path / "cache"))
    found = measure(settings, task_of(*splits), index, sides)
    assert found.recall == {1: 1.0, 10: 1.0}
    assert {change for change, _, _ in found.changes.values()} == {0.0}
    assert found.exact_queries_per_s is None


def test_a_run_says_that_its_index_changes_the_metric(config, write_npz):
    write_npz(n=60)
    base = ("dataset=breastmnist", "encoder=random", "evaluation.ks=[1,3]", "evaluation.resamples=200")
    for factory, told in (("PCAW8,Flat", True), ("HNSW8", False)):
        report = run(config(*base, f"index.factory='{factory}'", "index.name=own")).report
        assert any("changes the vectors" in note for note in report.notes) == told
