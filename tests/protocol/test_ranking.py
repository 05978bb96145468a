import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medretrieval.errors import UserError
from medretrieval.protocol import ranking
from medretrieval.protocol.ranking import Ranking, own_positions

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


def test_classes_of_one_image_are_refused_by_name():
    with pytest.raises(UserError, match="'b', 'd'") as error:
        ranking.require_companions(np.array([0, 0, 1, 3]), ("a", "b", "c", "d"), "split 'test'")
    assert "split 'test'" in str(error.value)


def test_classes_of_two_images_or_none_are_accepted_and_so_are_findings():
    for labels in (np.array([0, 0, 2, 2]), np.eye(3, dtype=bool)):
        assert ranking.require_companions(labels, ("a", "b", "c"), "split 'test'") is None
