import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medretrieval import ranking
from medretrieval.errors import UserError
from medretrieval.ranking import Ranking, drop_own, own_positions

quick = settings(max_examples=40, deadline=None)


def made(**changes):
    """Two queries over a gallery of three, changed where a test says so."""
    fields = {
        "query_ids": np.array(["test/0", "test/1"]),
        "gallery_ids": np.array(["train/0", "train/1", "train/2"]),
        "query_labels": np.array([0, 1]),
        "gallery_labels": np.array([0, 1, 1]),
        "ids": np.array([[2, 0, -1], [1, 2, 0]]),
        "distances": np.array([[0.5, 0.5, np.inf], [0.0, 1.0, 3.0]], np.float32),
    }
    return Ranking(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.array([2, 0])}, "ids"),
        ({"ids": np.array([[2, 0], [1, 2]])}, "distances"),
        ({"query_ids": np.array(["a", "b", "c"])}, "3 queries"),
        ({"query_labels": np.array([0])}, "labels"),
        ({"gallery_labels": np.array([0, 1])}, "labels"),
        ({"ids": np.array([[3, 0, -1], [1, 2, 0]])}, "between -1 and 2"),
        ({"ids": np.array([[2, 0, -2], [1, 2, 0]])}, "between -1 and 2"),
        ({"distances": np.array([[0, 1, 2], [1, 0.5, 2]], np.float32)}, "decrease"),
        ({"distances": np.array([[0, np.inf, 2], [0, 1, 2]], np.float32)}, "decrease"),
    ],
)
def test_a_ranking_that_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_a_ranking_with_a_distance_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="distances"):
        made(distances=np.array([[0, np.nan, 2], [0, 1, 2]], np.float32))


def test_a_ranking_that_fits_together_is_taken():
    assert made().depth == 3
    assert made(ids=np.empty((2, 0), np.int64), distances=np.empty((2, 0), np.float32)).depth == 0


@pytest.mark.parametrize("multi", [False, True])
def test_a_saved_ranking_is_read_back_as_it_was(tmp_path, multi):
    labels = {}
    if multi:
        labels = {"query_labels": np.eye(2, 4, dtype=bool), "gallery_labels": np.eye(3, 4, dtype=bool)}
    before = made(**labels)
    before.save(tmp_path / "ranking.npz")
    after = Ranking.load(tmp_path / "ranking.npz")
    for name in Ranking.__dataclass_fields__:
        left, right = getattr(before, name), getattr(after, name)
        assert left.dtype == right.dtype
        assert np.array_equal(left, right)


def test_a_damaged_file_is_checked_when_it_is_read(tmp_path):
    made().save(tmp_path / "ranking.npz")
    arrays = dict(np.load(tmp_path / "ranking.npz"))
    np.savez(tmp_path / "damaged.npz", **(arrays | {"ids": arrays["ids"] + 1}))
    with pytest.raises(ValueError, match="between"):
        Ranking.load(tmp_path / "damaged.npz")


@given(
    gallery=st.lists(st.text("ab/1", max_size=3), unique=True, min_size=1),
    queries=st.lists(st.text("ab/1", max_size=3)),
)
@quick
def test_own_positions_are_found_by_id_and_by_nothing_else(gallery, queries):
    found = own_positions(np.array(queries, dtype=np.str_), np.array(gallery))
    assert found.tolist() == [gallery.index(q) if q in gallery else -1 for q in queries]


def test_a_query_that_stands_second_behind_its_double_is_dropped():
    # Items 0 and 1 are the same bytes: both queries find [0, 1, 2].
    ids, distances = np.array([[0, 1, 2]] * 2), np.array([[0, 0, 1]] * 2, np.float32)
    kept, kept_distances = drop_own(ids, distances, own=np.array([0, 1]))
    assert kept.tolist() == [[1, 2], [0, 2]]
    assert kept_distances.tolist() == [[0, 1], [0, 1]]


def test_a_query_that_is_not_among_its_results_loses_the_last_one():
    ids, distances = np.array([[4, 3, 2], [4, 3, -1]]), np.array([[1, 2, 3], [1, 2, np.inf]], np.float32)
    kept, kept_distances = drop_own(ids, distances, own=np.array([0, -1]))
    assert kept.tolist() == [[4, 3], [4, 3]]
    assert kept_distances.tolist() == [[1, 2], [1, 2]]


def test_missing_results_are_not_taken_for_a_query_that_is_not_in_the_gallery():
    kept, _ = drop_own(np.array([[3, -1, -1]]), np.array([[0, np.inf, np.inf]], np.float32), np.array([-1]))
    assert kept.tolist() == [[3, -1]]


@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), q=st.integers(1, 5), data=st.data())
@quick
def test_dropping_keeps_depth_and_order_and_never_leaves_the_query(seed, n, q, data):
    rng = np.random.default_rng(seed)
    deep = data.draw(st.integers(1, n))
    ids = rng.permuted(np.tile(np.arange(n), (q, 1)), axis=1)[:, :deep]
    ids[:, data.draw(st.integers(1, deep)) :] = -1
    distances = np.where(ids < 0, np.inf, np.arange(deep)).astype(np.float32)
    own = rng.integers(-1, n, q)
    kept, kept_distances = drop_own(ids.copy(), distances.copy(), own)
    assert kept.shape == kept_distances.shape == (q, deep - 1)
    for i in range(q):
        wanted = [(x, d) for x, d in zip(ids[i], distances[i], strict=True) if x != own[i] or x < 0]
        assert list(zip(kept[i], kept_distances[i], strict=True)) == wanted[: deep - 1]


@given(seed=st.integers(0, 10**6), multi=st.booleans())
@quick
def test_a_hit_is_the_same_class_or_a_shared_finding(seed, multi):
    rng = np.random.default_rng(seed)
    labels = rng.random((11, 4)) < 0.3 if multi else rng.integers(0, 3, 11)
    queries, gallery = labels[:4], labels[4:]
    ids = rng.integers(-1, len(gallery), (4, 6))
    found = ranking.hits(ids, queries, gallery)
    for row, query, hits in zip(ids, queries, found, strict=True):
        for i, hit in zip(row, hits, strict=True):
            same = (query & gallery[i]).any() if multi else query == gallery[i]
            assert hit == (i >= 0 and same)


@pytest.mark.parametrize("label", range(3))
def test_a_missing_result_is_a_miss_whatever_class_the_last_image_has(label):
    # -1 as a Python index would be the last image of the gallery.
    gallery = np.array([0, 1, label])
    assert ranking.hits(np.array([[2, -1]]), np.array([label]), gallery).tolist() == [[True, False]]
    findings = np.eye(3, dtype=bool)
    hits = ranking.hits(np.array([[2, -1]]), findings[[label]], findings[gallery])
    assert hits.tolist() == [[True, False]]


def test_a_query_without_any_finding_has_nothing_relevant():
    none, gallery = np.zeros((1, 3), bool), np.array([[0, 0, 0], [1, 1, 1]], bool)
    assert not ranking.hits(np.array([[0, 1, -1]]), none, gallery).any()
    for own in (-1, 0):
        assert ranking.relevant_counts(none, gallery, np.array([own])).tolist() == [0]


@pytest.mark.parametrize("findings", [63, 64])
def test_every_one_of_up_to_64_findings_counts(findings):
    labels = np.eye(findings, dtype=bool)
    everything = np.broadcast_to(np.arange(findings), (findings, findings))
    assert np.array_equal(ranking.hits(everything, labels, labels), labels)


def test_more_findings_than_bits_are_refused():
    with pytest.raises(ValueError, match="65 findings"):
        ranking.hits(np.array([[0]]), np.ones((1, 65), bool), np.ones((1, 65), bool))


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
    assert ranking.relevant_counts(queries, gallery, own).tolist() == wanted


def test_classes_of_one_image_are_refused_by_name():
    with pytest.raises(UserError, match="'b', 'd'") as error:
        ranking.require_companions(np.array([0, 0, 1, 3]), ("a", "b", "c", "d"), "split 'test'")
    assert "split 'test'" in str(error.value)


def test_classes_of_two_images_or_none_are_accepted_and_so_are_findings():
    for labels in (np.array([0, 0, 2, 2]), np.eye(3, dtype=bool)):
        assert ranking.require_companions(labels, ("a", "b", "c"), "split 'test'") is None
