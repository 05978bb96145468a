import math

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index.conftest import configured, index_config, normal

from medretrieval import compose
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import IndexConfig
from medretrieval.embed.images import Embeddings
from medretrieval.errors import UserError
from medretrieval.index.distance import order_ties, prepare
from medretrieval.index.faiss_index import build, search_depth
from medretrieval.index.parameters import fit, require_parameters

quick = settings(max_examples=100, deadline=None)
METRICS = ("cosine", "l2", "ip")
every_metric = pytest.mark.parametrize("metric", METRICS)


def measured(queries, gallery, metric):
    """Distances by definition, in double precision (float64 [q, n])."""
    queries, gallery = np.asarray(queries, np.float64), np.asarray(gallery, np.float64)
    if metric == "l2":
        return np.sqrt(((queries[:, None] - gallery[None]) ** 2).sum(axis=2))
    if metric == "ip":
        return -(queries @ gallery.T)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(gallery, axis=1)
    return 1 - queries @ gallery.T / lengths


def by_hand(queries, gallery, metric, depth):
    distances = measured(queries, gallery, metric)
    places = np.broadcast_to(np.arange(len(gallery)), distances.shape)
    ids = np.lexsort((places, distances), axis=1)[:, :depth]
    return ids, np.take_along_axis(distances, ids, axis=1)


def whole_numbers(n, seed=0):
    """Vectors with many doubles, whose lengths, products and distances float32 holds exactly."""
    rng = np.random.default_rng(seed)
    return (rng.choice([-1, 1], (n, 4)) * rng.choice([1, 2], (n, 1))).astype(np.float32)


def recall(found, queries, gallery, metric):
    wanted, _ = by_hand(queries, gallery, metric, found.shape[1])
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)])


# 10 queries are compared one by one, 30 by a matrix product.
@pytest.mark.parametrize("queries", [10, 30])
@every_metric
def test_flat_finds_what_comparing_with_everything_finds(built, metric, queries):
    gallery, asked = normal(100), normal(queries, seed=1)
    wanted, distances = by_hand(asked, gallery, metric, 100)
    # The data has no distances so alike that float32 could swap them.
    assert np.diff(distances, axis=1).min() > 1e-6
    ids, found = built(gallery, metric=metric).search(asked, 100)
    assert ids.dtype == np.int64
    assert found.dtype == np.float32
    assert np.array_equal(ids, wanted)
    np.testing.assert_allclose(found, distances, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("index", ["flat", "ivf"])
@every_metric
def test_equal_distances_stand_in_the_order_of_the_gallery(built, metric, index):
    gallery = whole_numbers(80)
    parameters = {"nlist": 4, "nprobe": 4} if index == "ivf" else {}
    for asked in (whole_numbers(10, seed=1), whole_numbers(30, seed=2), gallery):
        wanted, distances = by_hand(asked, gallery, metric, 80)
        assert (np.diff(distances, axis=1) == 0).mean() > 0.5
        ids, found = built(gallery, index, metric, **parameters).search(asked, 80)
        assert np.array_equal(ids, wanted)
        np.testing.assert_allclose(found, distances, rtol=1e-6)


@every_metric
def test_ivf_that_searches_all_its_cells_finds_what_flat_finds(built, metric):
    gallery, asked = normal(100), normal(30, seed=1)
    flat, ivf = built(gallery, metric=metric), built(gallery, "ivf", metric, nlist=6, nprobe=6)
    assert flat.exhaustive
    assert ivf.exhaustive
    (ids, distances), (wanted, exact) = ivf.search(asked, 100), flat.search(asked, 100)
    assert np.array_equal(ids, wanted)
    np.testing.assert_allclose(distances, exact, rtol=1e-4, atol=1e-5)


@every_metric
def test_hnsw_with_a_wide_search_finds_nearly_everything(built, metric):
    gallery, asked = normal(400), normal(30, seed=1)
    index = built(gallery, "hnsw", metric, ef_search=400)
    assert not index.exhaustive
    assert recall(index.search(asked, 10)[0], asked, gallery, metric) > 0.98


@pytest.mark.parametrize(
    ("index", "parameters", "least"),
    [
        ("ivfpq", {"nlist": 4, "nprobe": 4, "pq_m": 4, "pq_bits": 4}, 0.7),
        ("hnsw_sq8", {"ef_search": 400}, 0.9),
    ],
)
@every_metric
def test_compressed_vectors_are_found_again_for_the_most_part(built, metric, index, parameters, least):
    gallery, asked = normal(400, d=4), normal(30, d=4, seed=1)
    found = built(gallery, index, metric, **parameters)
    assert least < recall(found.search(asked, 10)[0], asked, gallery, metric) <= 1


@pytest.mark.parametrize("index", ["flat", "ivf", "ivfpq", "hnsw", "hnsw_sq8"])
@every_metric
def test_every_index_gives_growing_distances_of_the_documented_kind(built, metric, index):
    gallery, asked = normal(60), normal(25, seed=1)
    ids, distances = built(gallery, index, metric).search(asked, 20)
    assert (distances[:, 1:] >= distances[:, :-1]).all()
    found = ids >= 0
    assert np.isinf(distances[~found]).all()
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in ids)
    true = np.take_along_axis(measured(asked, gallery, metric), np.maximum(ids, 0), axis=1)
    error = np.abs(true - distances)[found]
    # Vectors in two bytes lie far from the true ones, but the kind of distance can still be told.
    assert np.median(error) < {"ivfpq": 0.8, "hnsw_sq8": 0.05}.get(index, 1e-6)
    assert error.max() < {"ivfpq": np.inf, "hnsw_sq8": 0.2}.get(index, 1e-4)


@every_metric
def test_ivf_that_runs_out_of_vectors_gives_minus_one_at_infinite_distance(built, metric):
    gallery, asked = normal(60), normal(8, seed=1)
    index = built(gallery, "ivf", metric, nlist=6, nprobe=1)
    assert not index.exhaustive
    ids, distances = index.search(asked, 60)
    assert (ids[:, 0] >= 0).all()
    assert (ids[:, -1] < 0).all()
    assert np.array_equal(ids < 0, np.isinf(distances))
    assert (np.diff((ids < 0).astype(int), axis=1) >= 0).all()  # found ones first


@every_metric
def test_the_callers_vectors_are_left_as_they_were(built, metric):
    gallery, asked = normal(50), normal(5, seed=1)
    before = gallery.copy(), asked.copy()
    for vectors in (gallery, asked):
        vectors.setflags(write=False)  # as a memory map is
    built(gallery, "ivf", metric, nlist=2).search(asked, 5)
    assert np.array_equal(gallery, before[0])
    assert np.array_equal(asked, before[1])


def test_vectors_are_normalized_for_cosine_alone():
    vectors = np.array([[3, 4], [0, 2]], np.float32)
    assert prepare(vectors, configured("flat", "cosine")[1], "gallery").tolist() == [
        pytest.approx([0.6, 0.8]),
        [0, 1],
    ]
    for metric in ("l2", "ip"):
        assert np.array_equal(prepare(vectors, configured("flat", metric)[1], "gallery"), vectors)


def test_vectors_are_handed_to_faiss_contiguous():
    for metric in METRICS:
        prepared = prepare(normal(8)[::2, ::2], configured("flat", metric)[1], "gallery")
        assert prepared.flags.c_contiguous
        assert prepared.dtype == np.float32


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("what", ["gallery", "queries"])
def test_a_zero_vector_has_no_direction_and_is_refused(built, metric, what):
    zero = normal(20)
    zero[[7, 11]] = 0
    message = rf"metric={metric}: 2 embeddings of the {what} .*row 7\)"
    with pytest.raises(UserError, match=message):
        built(zero if what == "gallery" else normal(20), metric=metric).search(zero, 3)


def test_a_zero_vector_is_as_good_as_any_for_l2(built):
    zero = normal(20)
    zero[7] = 0
    ids, distances = built(zero, metric="l2").search(np.zeros((1, 16), np.float32), 3)
    assert (ids[0, 0], distances[0, 0]) == (7, 0)


@given(n=st.integers(1, 200_000), d=st.integers(1, 2048), depth=st.integers(1, 300_000))
@quick
def test_fitted_ivf_parameters_fit_any_gallery(n, d, depth):
    parameters = fit(configured("ivf")[0], n, d, depth).parameters
    assert 1 <= parameters["nprobe"] <= parameters["nlist"] <= n
    # k-means wants 39 vectors a cell, and the cells searched hold the ranking four times over or are all.
    assert parameters["nlist"] == 1 or parameters["nlist"] * 39 <= n
    share = parameters["nprobe"] / parameters["nlist"]
    assert share >= min(1, 4 * depth / n)
    assert share >= 1 / 8


@given(n=st.integers(1, 200_000), depth=st.integers(1, 300_000))
@quick
def test_a_fitted_graph_search_is_as_wide_as_the_ranking_is_deep(n, depth):
    ef = fit(configured("hnsw")[0], n, 64, depth).parameters["ef_search"]
    assert min(depth, n) <= ef <= n
    assert ef >= min(n, 2 * depth, 16 * math.log2(n))


@given(n=st.integers(2, 5000), d=st.integers(1, 2048))
@quick
def test_fitted_product_quantization_fits_any_gallery(n, d):
    parameters = fit(configured("ivfpq")[0], n, d, 10).parameters
    assert d % parameters["pq_m"] == 0
    assert parameters["pq_m"] == 1 or d // parameters["pq_m"] >= 8
    assert 1 <= parameters["pq_bits"] <= 8
    assert 2 ** parameters["pq_bits"] <= n
    assert parameters["pq_bits"] == 8 or 2 ** (parameters["pq_bits"] + 1) > n


def test_fitted_parameters_grow_with_the_gallery():
    cells = [fit(configured("ivf")[0], n, 64, 10).parameters["nlist"] for n in (30, 624, 4708, 100_000)]
    assert cells == [1, 16, 120, 1265]  # n / 39, then 4 sqrt(n)
    widths = [fit(configured("hnsw")[0], n, 64, 10).parameters["ef_search"] for n in (30, 624, 4708)]
    assert widths == [30, 149, 196]


def test_given_parameters_are_kept_and_the_open_ones_fitted_to_them():
    spec = fit(index_config("ivf", nlist=32), n=1000, d=8, depth=10)
    assert spec.parameters == {"nlist": 32, "nprobe": 4}
    assert (spec.factory, spec.build, spec.search) == ("IVF32,Flat", "", "nprobe=4")
    spec = fit(index_config("hnsw", m=16, ef_search=7), n=1000, d=8, depth=10)
    assert (spec.factory, spec.build, spec.search) == ("HNSW16,Flat", "efConstruction=200", "efSearch=7")


@pytest.mark.parametrize(
    ("index", "parameters", "message"),
    [
        ("ivf", {"nlist": 101}, r"index\.nlist=101: .*\(100\).*better 2 "),
        ("ivf", {"nlist": 4, "nprobe": 5}, r"index\.nprobe=5: more than the 4 cells"),
        ("ivf", {"nprobe": 101}, r"index\.nprobe=101: more than"),
        ("ivf", {"nprobe": 50}, r"index\.nprobe=50: more than the 2 cells"),  # fitted: 2 cells
        ("ivfpq", {"pq_bits": 7}, r"index\.pq_bits=7: .*128 vectors.*100"),
        ("ivfpq", {"pq_m": 5}, r"index\.pq_m=5: must divide .* 16"),
        ("flat", {"nprobe": 8}, r"index\.nprobe=8: index=flat .*it has: none"),
        ("hnsw", {"nlist": 8}, r"index\.nlist=8: index=hnsw .*ef_construction, ef_search, m"),
        ("ivf", {"ef_search": 8}, r"index\.ef_search=8: index=ivf .*nlist, nprobe"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused_by_name(index, parameters, message):
    with pytest.raises(UserError, match=message):
        fit(index_config(index, **parameters), n=100, d=16, depth=10)


def test_too_many_cells_to_probe_are_refused_with_the_number_of_cells_there_are():
    with pytest.raises(UserError, match=r"index\.nprobe=2000: more than the 25 cells"):
        fit(index_config("ivf", nprobe=2000), n=1000, d=16, depth=10)


def test_what_does_not_fit_the_gallery_is_refused_before_any_vector_is_made():
    for index, parameters in (("ivf", {"nlist": 101}), ("flat", {"m": 8}), ("ivfpq", {"pq_bits": 8})):
        with pytest.raises(UserError, match=f"index.{next(iter(parameters))}="):
            require_parameters(index_config(index, **parameters), 100)
    used, given_ = require_parameters(index_config("ivf", nlist=100), 100)
    assert used == {"nlist", "nprobe"}
    assert (given_["nlist"], given_["nprobe"]) == (100, None)


def test_a_template_whose_parameter_cannot_be_fitted_wants_a_value():
    with pytest.raises(UserError, match="index=own: m in its templates needs a value"):
        fit(IndexConfig(name="own", factory="HNSW{m},Flat"), 100, 16, 10)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"factory": "Nonsense"}, r"index\.factory=Nonsense: FAISS refuses it"),
        ({"factory": "Flat", "search": "wings=2"}, r"index\.search=wings=2: FAISS refuses it"),
        ({"factory": "Flat", "build": "wings=2"}, r"index\.build=wings=2: FAISS refuses it"),
    ],
)
def test_what_faiss_refuses_is_a_mistake_of_the_configuration(built, parameters, message):
    with pytest.raises(UserError, match=message):
        built(normal(10), **parameters)


def test_a_product_quantized_index_is_built_without_polysemous_training(built):
    # It takes half a million steps a part whatever the data: 0.4 s instead of 0.01 s here.
    index = built(normal(100), "ivfpq", nlist=2, pq_m=2, pq_bits=5).index
    assert not faiss.downcast_index(index).do_polysemous_training


def test_one_build_serves_every_setting_of_the_search(built):
    gallery, asked = normal(200), normal(10, seed=1)
    narrow = built(gallery, "ivf", nlist=8, nprobe=1)
    wide = built(gallery, "ivf", nlist=8, nprobe=8)
    assert (narrow.cached, wide.cached) == (False, True)
    assert (narrow.path, narrow.build_s) == (wide.path, wide.build_s)
    assert (narrow.index.nprobe, wide.index.nprobe) == (1, 8)
    assert (narrow.search(asked, 150)[0] < 0).any()
    assert (wide.search(asked, 150)[0] >= 0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"nlist": 5},
        {"metric": "l2"},
        {"metric": "ip"},
        {"seed": 1},
        {"vectors": normal(60, seed=9)},
        {"index": "flat"},
    ],
)
def test_whatever_changes_the_index_is_built_anew(built, change):
    first = {"vectors": normal(60), "index": "ivf", "nlist": 4}
    assert not built(**first).cached
    assert built(**first).cached
    if change.get("index") == "flat":
        first.pop("nlist")
    assert not built(**(first | change)).cached


def test_a_build_depends_on_the_seed_and_on_nothing_else_random(built):
    gallery = normal(200)
    files = [
        built(gallery, "ivf", nlist=8, seed=seed, store=store).path.read_bytes()
        for seed, store in ((3, "a"), (3, "b"), (4, "a"))
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_two_deterministic_builds_of_a_graph_are_the_same_bytes(built):
    gallery = normal(2000)
    first, again = (built(gallery, "hnsw", deterministic=True, store=store) for store in "ab")
    assert not again.cached
    assert first.path.read_bytes() == again.path.read_bytes()


def test_a_deterministic_build_is_kept_apart_and_an_ordinary_one_stays_where_it_was(built):
    gallery = normal(60)
    assert not built(gallery, "hnsw").cached
    assert not built(gallery, "hnsw", deterministic=True).cached
    assert built(gallery, "hnsw", deterministic=False).cached
    assert built(gallery, "hnsw", deterministic=True).cached


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_a_deterministic_build_uses_one_thread_and_gives_the_others_back(built, monkeypatch, index):
    before, during = faiss.omp_get_max_threads(), []
    cls = type(faiss.index_factory(16, {"hnsw": "HNSW8,Flat", "ivf": "IVF4,Flat"}[index]))
    add = cls.add

    def watched(self, vectors):
        during.append(faiss.omp_get_max_threads())
        return add(self, vectors)

    faiss.omp_set_num_threads(3)
    try:
        monkeypatch.setattr(cls, "add", watched)
        built(normal(200), index, deterministic=True)
        assert (during, faiss.omp_get_max_threads()) == ([1], 3)
        built(normal(200), index)
        assert (during, faiss.omp_get_max_threads()) == ([1, 3], 3)
    finally:
        faiss.omp_set_num_threads(before)


def test_the_threads_come_back_when_a_build_fails(built):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        with pytest.raises(UserError):
            built(normal(10), factory="IDMap,Flat", deterministic=True)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_a_deterministic_build_has_a_key_of_its_own(built):
    assert not built(normal(60), "hnsw", deterministic=True).cached
    assert not built(normal(60), "hnsw", deterministic=False).cached
    assert built(normal(60), "hnsw", deterministic=True).cached


@given(seed=st.integers(0, 10**6), depth=st.integers(0, 8))
@quick
def test_ties_are_put_in_the_order_of_the_gallery_and_nothing_else_moves(seed, depth):
    rng = np.random.default_rng(seed)
    distances = np.sort(rng.integers(0, 4, (5, depth)), axis=1).astype(np.float32)
    ids = rng.permuted(np.tile(np.arange(10), (5, 1)), axis=1)[:, :depth]
    missing = distances == 3
    distances[missing], ids[missing] = np.inf, -1
    pairs = [sorted(zip(d, i, strict=True)) for d, i in zip(distances, ids, strict=True)]
    found, found_distances = order_ties(ids.copy(), distances.copy())
    assert [list(zip(d, i, strict=True)) for d, i in zip(found_distances, found, strict=True)] == pairs


def test_an_exhaustive_index_is_asked_for_the_whole_gallery(built):
    gallery = normal(100)
    assert search_depth(built(gallery), 99, [1, 5], wanted=10) == 99
    assert search_depth(built(gallery, "ivf", nlist=4, nprobe=4), 99, [1, 5], wanted=10) == 99


@pytest.mark.parametrize(("wanted", "depth"), [(10, 10), (99, 99), (200, 99)])
def test_an_index_that_skips_cells_is_asked_for_what_is_wanted(built, wanted, depth):
    index = built(normal(100), "ivf", nlist=4, nprobe=1)
    assert search_depth(index, 99, [1, 5], wanted) == depth


@pytest.mark.parametrize(("ef_search", "depth"), [(60, 50), (20, 20), (2, 5)])
def test_a_graph_is_asked_no_deeper_than_it_searches_unless_a_score_wants_it(built, ef_search, depth):
    index = built(normal(100), "hnsw", ef_search=ef_search)
    assert search_depth(index, 99, [1, 5], wanted=50) == depth


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("seed", range(3))
def test_a_whole_ranking_is_that_of_float64_arithmetic_with_ties_in_gallery_order(tmp_path, metric, seed):
    rng = np.random.default_rng(seed)
    # Small whole numbers: products are exact, and ties are many.
    gallery = rng.integers(-2, 3, (60, 4)).astype(np.float32)
    gallery[~gallery.any(axis=1)] = 1
    queries = gallery[rng.permutation(60)[:9]]
    settings = check(compose(f"metric={metric}"))
    embedded = Embeddings(gallery, tmp_path / "none.npy", "g", False, 0.0)
    index = build(settings.index, settings.metric, embedded, 60, 0, Cache(tmp_path))
    a, b = queries.astype(np.float64), gallery.astype(np.float64)
    if metric == "cosine":
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    wanted = np.linalg.norm(a[:, None] - b, axis=2) if metric == "l2" else (metric == "cosine") - a @ b.T
    for depth in (60, 30, 3):  # the last asks FAISS, the others sort
        ids, distances = index.search(queries, depth)
        assert np.allclose(distances, np.sort(wanted, axis=1)[:, :depth], atol=2e-3)
        if metric != "cosine":
            order = np.argsort(wanted.round(9), axis=1, kind="stable")[:, :depth]
            if depth > 3:
                assert np.array_equal(ids, order)
        assert (np.diff(distances, axis=1) >= 0).all()


@given(
    rows=st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_ties_come_in_the_order_of_the_gallery_and_nothing_else_moves(rows, seed):
    rng = np.random.default_rng(seed)
    distances = np.sort(np.array(rows, np.float32), axis=1)
    distances[distances == 3] = np.inf
    ids = np.stack([rng.permutation(20)[:6] for _ in rows])
    ids[np.isinf(distances)] = -1
    found, same = order_ties(ids.copy(), distances.copy())
    assert np.array_equal(same, distances)
    for before, after, row in zip(ids, found, distances, strict=True):
        pairs = sorted(zip(row, np.where(before < 0, 99, before), strict=True))
        assert after.tolist() == [-1 if i == 99 else i for _, i in pairs]


@pytest.mark.parametrize("index", ["flat", "ivf", "ivfpq", "hnsw"])
def test_a_gallery_added_in_blocks_is_found_whole(tmp_path, monkeypatch, index):
    monkeypatch.setattr("medretrieval.index.faiss_index.BLOCK_VECTORS", 70)
    vectors = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    settings = check(compose(f"index={index}", "metric=cosine"))
    embedded = Embeddings(vectors, tmp_path / "none.npy", "g", False, 0.0)
    found = build(settings.index, settings.metric, embedded, 300, 0, Cache(tmp_path))
    assert found.index.ntotal == 300
    ids, distances = found.search(vectors, 1)
    assert (ids[:, 0] == np.arange(300)).mean() > (0.5 if index == "ivfpq" else 0.999)
    if index != "ivfpq":
        assert np.abs(distances).max() < 1e-5


def test_a_zero_vector_in_a_later_block_is_named_by_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr("medretrieval.index.faiss_index.BLOCK_VECTORS", 70)
    vectors = np.ones((300, 4), np.float32)
    vectors[215] = 0
    settings = check(compose("metric=cosine"))
    embedded = Embeddings(vectors, tmp_path / "none.npy", "g", False, 0.0)
    with pytest.raises(UserError, match=r"first at row 215"):
        build(settings.index, settings.metric, embedded, 10, 0, Cache(tmp_path))


def test_a_large_gallery_is_trained_on_a_seeded_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("medretrieval.index.faiss_index.MAX_TRAINING_VECTORS", 200)
    vectors = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    settings = check(compose("index=ivf", "index.nlist=4"))
    embedded = Embeddings(vectors, tmp_path / "none.npy", "g", False, 0.0)

    def cells(folder, seed):
        found = build(settings.index, settings.metric, embedded, 10, seed, Cache(tmp_path / folder))
        return faiss.downcast_index(found.index.quantizer).reconstruct_n(0, 4)

    assert np.array_equal(cells("a", 0), cells("b", 0))
    monkeypatch.setattr("medretrieval.index.faiss_index.MAX_TRAINING_VECTORS", 600)
    assert not np.array_equal(cells("c", 0), cells("a", 0))
