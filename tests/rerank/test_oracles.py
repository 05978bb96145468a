"""Each method against its definition, written plainly."""

import numpy as np
import pytest
from tests.rerank.worlds import METRICS, asked, clustered, indexed, opened, sides

from medretrieval.rerank.augmentation import DatabaseAugmentation
from medretrieval.rerank.diffusion import Diffusion, transitions
from medretrieval.rerank.k_reciprocal import KReciprocal
from medretrieval.rerank.neighbor_lists import neighbor_lists, searched
from medretrieval.rerank.query_expansion import AlphaQueryExpansion
from medretrieval.rerank.reciprocal_sets import Nodes


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def naive_mean(own, near, alpha, metric):
    """One vector drawn toward others."""
    if metric == "cosine":
        own, near = unit(own), unit(near)
    total, weights = own.astype(np.float64), 1.0
    for other in near.astype(np.float64):
        weight = max(float(unit(own) @ unit(other)), 0.0) ** alpha
        total, weights = total + weight * other, weights + weight
    return total / weights


def naive_distances(queries, gallery, metric):
    q, g = queries.astype(np.float64), gallery.astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(q[:, None] - g[None], axis=2)
    return 1 - unit(q) @ unit(g).T if metric == "cosine" else -q @ g.T


@pytest.mark.parametrize("metric", METRICS)
def test_query_expansion_without_neighbors_changes_nothing(tmp_path, metric):
    gallery, queries, out = clustered(80), clustered(9, seed=1), sides(9, 80)
    found = asked(opened(tmp_path, AlphaQueryExpansion("a", 0, 3.0), gallery, metric), queries, out, 80)
    plain = indexed(tmp_path, gallery, metric).search(queries, 80)
    np.testing.assert_array_equal(found[0], plain[0])
    np.testing.assert_array_equal(found[1], plain[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_query_expansion_is_a_second_search_with_the_weighted_mean(tmp_path, metric, alpha):
    gallery, queries, out = clustered(80), clustered(9, seed=1), sides(9, 80)
    found = asked(opened(tmp_path, AlphaQueryExpansion("a", 5, alpha), gallery, metric), queries, out, 80)
    first = np.argsort(naive_distances(queries, gallery, metric), axis=1)[:, :5]
    means = [naive_mean(q, gallery[i], alpha, metric) for q, i in zip(queries, first, strict=True)]
    wanted = naive_distances(np.stack(means), gallery, metric)
    np.testing.assert_array_equal(found[0], np.argsort(wanted, axis=1))
    np.testing.assert_allclose(found[1], np.sort(wanted, axis=1), atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_augmentation_is_a_loop_over_the_gallery(tmp_path, metric):
    gallery, queries = clustered(60), clustered(9, seed=1)
    apart = naive_distances(gallery, gallery, metric)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1)[:, :4]
    changed = np.stack([naive_mean(v, gallery[i], 3.0, metric) for v, i in zip(gallery, near, strict=True)])
    method = opened(tmp_path, DatabaseAugmentation("d", 4, 3.0), gallery, metric)
    np.testing.assert_allclose(method.gallery.vectors, changed, atol=1e-5)
    found = asked(method, queries, sides(9, 60), 60)
    wanted = naive_distances(queries, changed, metric)
    np.testing.assert_array_equal(found[0], np.argsort(wanted, axis=1))


def test_augmented_items_forget_the_query_that_asks(tmp_path):
    """Leave-one-out: each query is compared with vectors that are means without its own picture."""
    gallery = clustered(40)
    method = opened(tmp_path, DatabaseAugmentation("d", 4, 3.0), gallery)
    ids, distances = asked(method, gallery, sides(40, 40, same=True), 39)
    apart = naive_distances(gallery, gallery, "cosine")
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1)[:, :4]
    assert any(q in near[g] for q in range(40) for g in range(40))
    for q in range(40):
        means = [naive_mean(v, gallery[i[i != q]], 3.0, "cosine") for v, i in zip(gallery, near, strict=True)]
        wanted = naive_distances(gallery[q : q + 1], np.stack(means), "cosine")[0]
        wanted[q] = np.inf
        np.testing.assert_array_equal(ids[q], np.argsort(wanted)[:39])
        np.testing.assert_allclose(distances[q], np.sort(wanted)[:39], atol=1e-5)


def zhong(original, k1, k2, weight, queries):
    """The published dense program (re_ranking.py of Zhong et al.), but for the scale of the distances.

    `original` holds the distances of all images to all, divided by one number; theirs are divided by the
    largest of each row. Rows and columns of queries come first there and here.
    """
    rank = np.argsort(original, axis=1)
    n = len(original)
    v = np.zeros((n, n))

    def reciprocal(i, k):
        forward = rank[i, : k + 1]
        backward = rank[forward, : k + 1]
        return forward[np.where(backward == i)[0]]

    for i in range(n):
        own = reciprocal(i, k1)
        expansion = own
        for candidate in own:
            theirs = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
                expansion = np.append(expansion, theirs)
        expansion = np.unique(expansion)
        weights = np.exp(-original[i, expansion])
        v[i, expansion] = weights / weights.sum()
    if k2 != 1:
        v = np.stack([v[rank[i, :k2]].mean(axis=0) for i in range(n)])
    jaccard = np.zeros((queries, n))
    for i in range(queries):
        least = np.minimum(v[i], v).sum(axis=1)
        jaccard[i] = 1 - least / (2 - least)
    return (jaccard * (1 - weight) + original[:queries] * weight)[:, queries:]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("k2", [1, 4])
def test_k_reciprocal_in_one_graph_is_the_published_program(tmp_path, metric, k2):
    gallery, queries, weight = clustered(120), clustered(15, seed=1), 0.3
    method = KReciprocal("k", 10, k2, weight, 120, transductive=True)
    found = asked(opened(tmp_path, method, gallery, metric, queries=queries), queries, sides(15, 120), 120)
    everything = np.concatenate([queries, gallery])
    scale = Nodes.measured(np.concatenate([gallery, queries]), indexed(tmp_path, gallery, metric).metric)
    apart = naive_distances(everything, everything, metric)
    np.fill_diagonal(apart, 0)
    kernel = apart**2 if metric == "l2" else apart
    jaccard = zhong(kernel / scale.scale, 10, k2, 0.0, 15)
    wanted = (1 - weight) * scale.unit * jaccard + weight * apart[:15, 15:]
    np.testing.assert_allclose(found[1], np.sort(wanted, axis=1), atol=1e-4)
    np.testing.assert_array_equal(found[0][:, :20], np.argsort(wanted, axis=1)[:, :20])


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_k_reciprocal_with_the_metrics_distance_alone_changes_nothing(tmp_path, metric, transductive):
    gallery, queries = clustered(80), clustered(9, seed=1)
    method = KReciprocal("k", 8, 3, 1.0, 40, transductive)
    nodes = queries if transductive else None
    found = asked(opened(tmp_path, method, gallery, metric, queries=nodes), queries, sides(9, 80), 80)
    plain = indexed(tmp_path, gallery, metric).search(queries, 80)
    np.testing.assert_array_equal(found[0], plain[0])
    np.testing.assert_array_equal(found[1], plain[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k2", [1, 3])
def test_k_reciprocal_of_a_query_that_meets_the_gallery_alone(tmp_path, metric, k2):
    """The same definitions for one query: its lists from the gallery, and the gallery's as they are."""
    gallery, queries, k1, weight = clustered(120), clustered(8, seed=1), 8, 0.3
    found = asked(
        opened(tmp_path, KReciprocal("k", k1, k2, weight, 30, False), gallery, metric), queries,
        sides(8, 120), 120,
    )  # fmt: skip
    scale = Nodes.measured(gallery, indexed(tmp_path, gallery, metric).metric)
    apart, own = naive_distances(queries, gallery, metric), naive_distances(gallery, gallery, metric)
    shift = np.diag(own).copy() if metric == "ip" else np.zeros(120)
    others = own.copy()
    np.fill_diagonal(others, np.inf)
    rank = np.argsort(others, axis=1)

    def members(i, k):
        return [i, *(j for j in rank[i, :k] if i in rank[j, :k])]

    def encoded(items, distances):
        kernel = distances**2 if metric == "l2" else distances
        weights = np.exp(-(kernel[items] - kernel[items].min()) / scale.scale)
        vector = np.zeros(120)
        vector[items] = weights / weights.sum()
        return vector

    def expanded(start):
        taken = set(start)
        for j in start:
            theirs = members(j, k1 // 2)
            if len(set(theirs) & set(start)) > 2 / 3 * len(theirs):
                taken |= set(theirs)
        return sorted(taken)

    np.fill_diagonal(own, shift if metric == "ip" else 0)
    v = np.stack([encoded(expanded(members(i, k1)), own[i]) for i in range(120)])
    averaged = np.stack([v[[i, *rank[i, : k2 - 1]]].mean(axis=0) for i in range(120)])
    for q in range(8):
        near = np.argsort(apart[q])
        start = [g for g in near[:k1] if apart[q, g] <= np.sort(others[g])[k1 - 1]]
        vector = encoded(expanded(start), apart[q]) if start else np.zeros(120)
        vector = (vector + v[near[: k2 - 1]].sum(axis=0)) / k2
        least = np.minimum(vector, averaged).sum(axis=1)
        first = near[:30]
        mixed = (1 - weight) * scale.unit * (1 - least / (2 - least)) + weight * apart[q]
        np.testing.assert_allclose(found[1][q, :30], np.sort(mixed[first]), atol=1e-4)
        np.testing.assert_array_equal(found[0][q, :10], first[np.argsort(mixed[first])][:10])
        np.testing.assert_array_equal(found[0][q, 30:], near[30:])


@pytest.mark.parametrize("metric", METRICS)
def test_diffusion_is_the_solution_of_the_dense_system(tmp_path, metric):
    gallery, queries, k, alpha = clustered(70), clustered(9, seed=1), 8, 0.95
    method = Diffusion("d", k, 4, 3.0, alpha, 70)
    found = asked(opened(tmp_path, method, gallery, metric), queries, sides(9, 70), 70)
    others = naive_distances(gallery, gallery, metric)
    np.fill_diagonal(others, np.inf)
    near = np.argsort(others, axis=1)[:, :k]
    a = np.zeros((70, 70))
    for i in range(70):
        for j in near[i]:
            if i in near[j]:
                a[i, j] = max(float(unit(gallery[i]) @ unit(gallery[j])), 0) ** 3
    degrees = a.sum(axis=1)
    root = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0)
    s = root[:, None] * a * root[None]
    for q, vector in enumerate(queries):
        seeds = np.argsort(naive_distances(vector[None], gallery, metric)[0])[:4]
        y = np.zeros(70)
        y[seeds] = np.maximum(unit(gallery[seeds]) @ unit(vector), 0) ** 3
        f = np.linalg.solve(np.eye(70) - alpha * s, (1 - alpha) * y)
        np.testing.assert_allclose(found[1][q], np.sort(1 - f / f.max()), atol=1e-4)
        reached = int((f > 1e-6 * f.max()).sum())
        np.testing.assert_array_equal(found[0][q][:reached], np.argsort(-f)[:reached])


def test_the_graph_of_diffusion_is_symmetric_and_has_no_eigenvalue_above_one():
    gallery = clustered(70)
    lists = neighbor_lists(gallery, 6, searched(gallery, _metric()), "")
    made = transitions(gallery, lists, 6, 3.0)
    s = np.zeros((70, 70))
    s[np.repeat(np.arange(70), np.diff(made["starts"])), made["columns"]] = made["values"]
    np.testing.assert_allclose(s, s.T, atol=1e-6)
    assert np.linalg.eigvalsh(s).max() <= 1 + 1e-5


def _metric():
    from tests.rerank.worlds import composed

    return composed("metric=cosine").metric
