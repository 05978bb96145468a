import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tasks import protocol, task_of

from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.ranking import own_positions

quick = settings(max_examples=100, deadline=None)


def drop_own(ids, distances, own):
    """Leave each query itself out of a gallery of ten."""
    out = Exclusions(((own, np.arange(10)),), np.zeros(10, bool))
    if not out.overfetch:  # nobody to leave out: results are as deep as wanted
        return ids[:, :-1], distances[:, :-1]
    return out.remove(ids, distances)


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


def split(rng, n, name, groups=4, pictures=6, classes=3):
    """Images of one pixel, so that many are equal, in groups that cross the splits."""
    images = rng.integers(0, pictures, (n, 1, 1)).astype(np.uint8)
    names = np.array([f"patient {g}" for g in rng.integers(0, groups, n)])
    return Split(name, images, rng.integers(0, classes, n), groups=names)


def may_find(queries, gallery, i, j, same_group, duplicates):
    """Image by image, from the definition."""
    if queries.ids[i] == gallery.ids[j]:
        return False
    if same_group and queries.groups[i] == gallery.groups[j]:
        return False
    if duplicates:
        twin = np.array_equal(queries.images[i], gallery.images[j])
        copy = any(np.array_equal(gallery.images[j], gallery.images[before]) for before in range(j))
        return not twin and not copy
    return True


@given(
    seed=st.integers(0, 10**6),
    same_group=st.booleans(),
    duplicates=st.booleans(),
    leave_one_out=st.booleans(),
    missing=st.booleans(),
)
@quick
def test_rankings_counts_and_scores_are_those_of_the_gallery_that_is_left(
    seed, same_group, duplicates, leave_one_out, missing
):
    rng = np.random.default_rng(seed)
    gallery = split(rng, 12, "train")
    queries = gallery if leave_one_out else split(rng, 5, "test")
    task = task_of(queries, gallery, exclude_same_group=same_group, drop_duplicates=duplicates)
    left = [
        [j for j in range(12) if may_find(queries, gallery, i, j, same_group, duplicates)]
        for i in range(len(queries))
    ]
    assert task.n_candidates.tolist() == [len(row) for row in left]
    relevant = [sum(gallery.labels[j] == queries.labels[i] for j in row) for i, row in enumerate(left)]
    assert task.n_relevant.tolist() == relevant
    if task.max_depth == 0 or not any(relevant):
        return
    full = rng.permuted(np.tile(np.arange(12), (len(queries), 1)), axis=1)
    if missing:
        full[:, 9:] = -1
    distances = np.where(full < 0, np.inf, np.arange(12)).astype(np.float32)
    config = EvaluationConfig(ks=[1], save_depth=None, vote_k=1)
    found = evaluate(
        lambda rows, depth: (full[rows, :depth], distances[rows, :depth]), task, task.max_depth, config
    )
    for i, row in enumerate(found.ranking.ids):
        wanted = [j for j in full[i] if j < 0 or j in left[i]]
        assert row.tolist() == wanted[: task.max_depth]


@given(seed=st.integers(0, 10**6), same_group=st.booleans(), duplicates=st.booleans())
@quick
def test_random_results_are_what_a_query_may_find_and_no_result_twice(seed, same_group, duplicates):
    rng = np.random.default_rng(seed)
    only = split(rng, 12, "test", groups=6, pictures=12)
    out = task_of(only, only, exclude_same_group=same_group, drop_duplicates=duplicates).exclusions
    depth = int(out.sizes(12).min())
    for i, row in enumerate(out.random_results(rng, 12, depth)):
        assert len(set(row.tolist())) == len(row) == depth
        assert all(may_find(only, only, i, j, same_group, duplicates) for j in row)


def test_every_image_is_drawn_equally_often_at_every_place():
    only = split(np.random.default_rng(0), 6, "test")
    out, rng = task_of(only, only).exclusions, np.random.default_rng(1)
    drawn = np.stack([out.random_results(rng, 6, 5) for _ in range(4000)])
    for place in range(5):
        counts = np.bincount(drawn[:, 0, place], minlength=6)
        assert counts[0] == 0
        # 4000 draws of one in five: a standard deviation of 25.
        assert np.abs(counts[1:] - 800).max() < 110


def test_an_image_that_finds_itself_cannot_leave_out_its_equals():
    only = split(np.random.default_rng(0), 6, "test")
    for key in ("exclude_same_group", "drop_duplicates"):
        with pytest.raises(UserError, match=rf"protocol\.{key}=true with protocol\.exclude_self=false"):
            Exclusions.from_protocol(only, only, protocol(exclude_self=False, **{key: True}))
    other = split(np.random.default_rng(1), 6, "train")
    assert (
        Exclusions.from_protocol(only, other, protocol(exclude_self=False, exclude_same_group=True)).overfetch
        > 0
    )


def test_groups_that_nobody_says_cannot_be_left_out():
    images = np.zeros((3, 1, 1), np.uint8)
    only = Split("test", images, np.arange(3))
    with pytest.raises(UserError, match=r"exclude_same_group=true: .* split 'test' .*dataset\.groups="):
        Exclusions.from_protocol(only, only, protocol(exclude_same_group=True))
    assert own_positions(only.ids, only.ids).tolist() == [0, 1, 2]
