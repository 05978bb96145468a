"""What every method must keep: a query's results are its own, and nothing that is left out has a say."""

import numpy as np
import pytest
from tests.rerank.worlds import METRICS, asked, clustered, methods, opened, sides

from medretrieval.rerank.search import as_search

DEPTH = 60
INDEXES = {
    "flat": (),
    "ivf": ("index=ivf", "index.nlist=4", "index.nprobe=3"),
    "hnsw": ("index=hnsw", "index.ef_search=80"),
}


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("metric", METRICS)
def test_a_query_gets_the_same_alone_in_another_order_and_beside_others(tmp_path, name, metric):
    gallery, queries = clustered(150), clustered(24, seed=1)
    method, out = opened(tmp_path, methods()[name], gallery, metric), sides(24, 150)
    ids, distances = asked(method, queries, out, DEPTH)
    order = np.random.default_rng(0).permutation(24)
    moved = asked(method, queries[order], out.for_rows(order), DEPTH)
    np.testing.assert_array_equal(moved[0], ids[order])
    np.testing.assert_allclose(moved[1], distances[order], rtol=1e-5, atol=1e-5)
    others = np.concatenate([queries[:3], clustered(9, seed=2)])
    beside = asked(method, others, sides(12, 150), DEPTH)
    np.testing.assert_array_equal(beside[0][:3], ids[:3])
    for i in range(5):
        one = asked(method, queries[i : i + 1], out.for_rows(np.array([i])), DEPTH)
        np.testing.assert_array_equal(one[0][0], ids[i])
        np.testing.assert_allclose(one[1][0], distances[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index", INDEXES)
def test_a_ranking_is_whole_and_ascends_whatever_metric_and_index(tmp_path, name, metric, index):
    gallery, queries = clustered(150), clustered(12, seed=1)
    method = opened(tmp_path, methods()[name], gallery, metric, overrides=INDEXES[index])
    ids, distances = asked(method, queries, sides(12, 150), DEPTH)
    assert (np.diff(distances, axis=1)[np.isfinite(distances[:, 1:])] >= 0).all()
    for row in ids:
        found = row[row >= 0]
        assert len(np.unique(found)) == len(found) >= 30
    if index == "flat":
        whole, _ = asked(method, queries, sides(12, 150), 150)
        np.testing.assert_array_equal(np.sort(whole, axis=1), np.broadcast_to(np.arange(150), (12, 150)))
        np.testing.assert_array_equal(whole[:, :DEPTH], ids)


@pytest.mark.parametrize("name", methods())
def test_what_is_left_out_is_no_result(tmp_path, name):
    gallery = clustered(90)
    groups = np.array([f"p{i // 3}" for i in range(90)])
    method = opened(tmp_path, methods()[name], gallery)
    out = sides(90, 90, same=True, groups=groups, exclude_same_group=True)
    search = as_search(method, gallery, out)
    ids, _ = out.remove(*search(slice(30, 60), 87 + out.overfetch), slice(30, 60))
    assert ids.shape == (30, 87)
    for row, found in zip(range(30, 60), ids, strict=True):
        np.testing.assert_array_equal(np.sort(found), np.flatnonzero(groups != groups[row]))


@pytest.mark.parametrize("name", ["alpha_qe", "diffusion"])
def test_what_is_left_out_has_no_say_in_a_querys_neighbors(tmp_path, name):
    """A picture in the gallery that only this query leaves out may as well not be there."""
    gallery, query = clustered(90), clustered(1, seed=3)
    groups = np.array(["none"] * 90 + ["own"])
    with_it = np.concatenate([gallery, query])
    out = sides(91, 91, same=True, groups=groups).for_rows(np.array([90]))
    method = methods()[name]
    if name == "diffusion":  # but for the degrees of its neighbors: none in a graph without it
        method.options = type(method.options)(10, 4, 3.0, 0.0, 40)
    inside = asked(opened(tmp_path, method, with_it), query, out, 40)
    without = asked(opened(tmp_path, method, gallery), query, sides(1, 90), 40)
    np.testing.assert_array_equal(inside[0], without[0])
    np.testing.assert_allclose(inside[1], without[1], atol=1e-5)
