import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tasks import task_of

from medretrieval.datasets.base import Split
from medretrieval.evaluate.scores import graded_ndcg_at
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.relevance import Relevance

quick = settings(max_examples=100, deadline=None)


def counts(queries, gallery, own):
    n = len(gallery)
    return Relevance().counts(queries, gallery, Exclusions(((own, np.arange(n)),), np.zeros(n, bool)))


@given(seed=st.integers(0, 10**6), multi=st.booleans())
@quick
def test_a_hit_is_the_same_class_or_a_shared_finding(seed, multi):
    rng = np.random.default_rng(seed)
    labels = rng.random((11, 4)) < 0.3 if multi else rng.integers(0, 3, 11)
    queries, gallery = labels[:4], labels[4:]
    ids = rng.integers(-1, len(gallery), (4, 6))
    found = Relevance().hits(ids, queries, gallery)
    for row, query, hits in zip(ids, queries, found, strict=True):
        for i, hit in zip(row, hits, strict=True):
            same = (query & gallery[i]).any() if multi else query == gallery[i]
            assert hit == (i >= 0 and same)


@pytest.mark.parametrize("label", range(3))
def test_a_missing_result_is_a_miss_whatever_class_the_last_image_has(label):
    # -1 as a Python index would be the last image of the gallery.
    gallery = np.array([0, 1, label])
    assert Relevance().hits(np.array([[2, -1]]), np.array([label]), gallery).tolist() == [[True, False]]
    findings = np.eye(3, dtype=bool)
    hits = Relevance().hits(np.array([[2, -1]]), findings[[label]], findings[gallery])
    assert hits.tolist() == [[True, False]]


def test_a_query_without_any_finding_has_nothing_relevant():
    none, gallery = np.zeros((1, 3), bool), np.array([[0, 0, 0], [1, 1, 1]], bool)
    assert not Relevance().hits(np.array([[0, 1, -1]]), none, gallery).any()
    for own in (-1, 0):
        assert counts(none, gallery, np.array([own])).tolist() == [0]


@pytest.mark.parametrize("findings", [63, 64])
def test_every_one_of_up_to_64_findings_counts(findings):
    labels = np.eye(findings, dtype=bool)
    everything = np.broadcast_to(np.arange(findings), (findings, findings))
    assert np.array_equal(Relevance().hits(everything, labels, labels), labels)


def test_more_findings_than_bits_are_refused():
    with pytest.raises(ValueError, match="65 findings"):
        Relevance().hits(np.array([[0]]), np.ones((1, 65), bool), np.ones((1, 65), bool))


@given(seed=st.integers(0, 10**6), multi=st.booleans(), inside=st.booleans())
@quick
def test_relevant_counts_equal_counting_one_by_one(seed, multi, inside):
    rng = np.random.default_rng(seed)
    gallery = rng.random((9, 3)) < 0.4 if multi else rng.integers(0, 4, 9)
    positions = rng.integers(0, 9, 5)
    # Queries from the gallery are left out of their own counts; others, maybe of unseen classes, are not.
    own = positions if inside else np.full(5, -1)
    queries = gallery[positions] if inside else (rng.random((5, 3)) < 0.4 if multi else rng.integers(0, 6, 5))
    wanted = [
        sum(bool((q & g).any() if multi else q == g) for i, g in enumerate(gallery) if i != o)
        for q, o in zip(queries, own, strict=True)
    ]
    assert counts(queries, gallery, own).tolist() == wanted


def overlap(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.2, 1 / 3, 0.5, 2 / 3, 1.0]))
@quick
def test_from_a_jaccard_index_on_findings_are_relevant(seed, threshold):
    rng = np.random.default_rng(seed)
    labels = rng.random((14, 4)) < 0.5
    queries, gallery = labels[:4], labels[4:]
    ids = np.tile(np.arange(10), (4, 1))
    strict = Relevance(min_jaccard=threshold)
    wanted = [[overlap(q, g) >= threshold - 1e-12 for g in gallery] for q in queries]
    assert strict.hits(ids, queries, gallery).tolist() == wanted
    none = Exclusions((), np.zeros(10, bool))
    assert strict.counts(queries, gallery, none).tolist() == [sum(row) for row in wanted]


def split(labels, name="test"):
    return Split(name, np.arange(len(labels), dtype=np.uint8)[:, None, None], labels)


def gain_of(kind, a, b):
    return overlap(a, b) if kind == "multi" else 1 - abs(int(a) - int(b)) / 4


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["multi", "ordinal"]), inside=st.booleans())
@quick
def test_graded_ndcg_agrees_with_scikit_learn(seed, kind, inside):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = rng.random((16, 3)) < 0.4 if kind == "multi" else rng.integers(0, 5, 16)
    gallery = split(labels[4:], "train")
    queries = gallery if inside else split(labels[:4])
    task = task_of(queries, gallery, Relevance(grades=5 if kind == "ordinal" else None))
    n = len(gallery) - inside
    places = [np.delete(np.arange(12), i) if inside else np.arange(12) for i in range(len(queries))]
    ids = np.stack([rng.permutation(p) for p in places])
    gains = task.relevance.gains(ids, queries.labels, gallery.labels)
    for k in (1, 3, n):
        ideal = task.ideal([k])[:, 0]
        ours = graded_ndcg_at(gains, ideal, k)
        for i, row in enumerate(ids):
            truth = np.array([gain_of(kind, queries.labels[i], gallery.labels[j]) for j in row])
            assert gains[i] == pytest.approx(truth, abs=1e-12)
            theirs = sklearn.ndcg_score(truth[None], np.arange(n, 0, -1.0)[None], k=k) if truth.any() else 0
            assert ours[i] == pytest.approx(theirs, abs=1e-9)


def test_the_gain_of_a_missing_result_is_nothing():
    gains = Relevance(grades=2).gains(np.array([[0, -1]]), np.array([1]), np.array([1, 1]))
    assert gains.tolist() == [[1.0, 0.0]]
    assert Relevance().gains(np.array([[-1]]), np.ones((1, 2), bool), np.ones((1, 2), bool)).tolist() == [
        [0.0]
    ]


def test_chunks_of_queries_change_no_ideal(monkeypatch):
    labels = np.random.default_rng(0).random((30, 4)) < 0.4
    task = task_of(split(labels), split(labels))
    whole = task.ideal([1, 5]), task.relevance.mean_gain(labels, labels, task.exclusions)
    monkeypatch.setattr("medretrieval.protocol.relevance.CELLS", 20)
    assert np.array_equal(task.ideal([1, 5]), whole[0])
    assert np.array_equal(task.relevance.mean_gain(labels, labels, task.exclusions), whole[1])
