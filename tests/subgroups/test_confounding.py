"""The robustness index and the recognition of patients against naive loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tasks import task_of

from medretrieval import compose
from medretrieval.checks import check
from medretrieval.datasets.base import Split
from medretrieval.subgroups.columns import plain_column
from medretrieval.subgroups.confounding import (
    OS,
    SO,
    Sides,
    association,
    chance_index,
    confounding,
    cramers_v,
)
from medretrieval.subgroups.identity import own_candidates, recognition

SETTINGS = check(compose("evaluation.resamples=200"))
ALONE = check(compose("evaluation.resamples=200", "protocol=leave_one_out"))


def split(name, rng, n, patients=True, multi=False):
    labels = rng.random((n, 3)) < 0.5 if multi else rng.integers(0, 3, n)
    site = np.array(["", "north", "south"])[rng.integers(0, 3, n)]
    groups = np.array([f"p{i}" for i in rng.integers(0, max(2, n // 2), n)]) if patients else None
    images = np.zeros((n, 1, 1), np.uint8)
    return Split(name, images, labels, groups=groups, metadata={"site": site})


def world(seed, one_set, multi=False, same_group=False):
    rng = np.random.default_rng(seed)
    queries = split("test", rng, 14, multi=multi)
    gallery = queries if one_set else split("train", rng, 20, multi=multi)
    task = task_of(queries, gallery, exclude_same_group=same_group)
    everyone = [[j for j in range(len(gallery)) if _can(task, i, j)] for i in range(len(queries))]
    ids = np.array([rng.permutation(row)[: task.max_depth] for row in everyone])
    column = plain_column("site", np.concatenate([queries.metadata["site"], gallery.metadata["site"]]))
    return task, ids, Sides.from_column(column, len(queries)), everyone


def _can(task, i, j):
    rows, places = task.exclusions.pairs
    return not ((rows == i) & (places == j)).any()


def relevant(task, i, j):
    a, b = task.queries.labels[i], task.gallery.labels[j]
    return bool((a & b).any()) if task.queries.labels.ndim == 2 else a == b


@pytest.mark.parametrize(("one_set", "multi", "same_group"), list(itertools.product([False, True], repeat=3)))
def test_counts_are_those_of_a_loop(one_set, multi, same_group):
    task, ids, sides, everyone = world(int(one_set) + 2 * multi + 4 * same_group, one_set, multi, same_group)
    k = 3
    found = confounding(ALONE if one_set else SETTINGS, task, ids, sides, k, ("a", "b", "c"))
    sums, expected, unknown = np.zeros(4), np.zeros(4), 0
    for i, row in enumerate(ids):
        mine = np.zeros(4)
        for j in row[:k]:
            if sides.queries[i] < 0:
                continue
            if sides.gallery[j] < 0:
                unknown += 1
                continue
            mine[2 * (not relevant(task, i, j)) + (sides.queries[i] != sides.gallery[j])] += 1
        sums += [mine[0], mine[1], mine[2], mine[3]]
        if mine.sum():
            assert found.shares[i] == pytest.approx(mine / mine.sum())
        else:
            assert np.isnan(found.shares[i]).all()
        for j in everyone[i]:
            if sides.queries[i] >= 0 and sides.gallery[j] >= 0:
                kind = 2 * (not relevant(task, i, j)) + (sides.queries[i] != sides.gallery[j])
                expected[kind] += 1 / len(everyone[i])
    so, os = sums[SO], sums[OS]
    assert found.index.value == pytest.approx(so / (so + os))
    assert found.index.counted == so + os
    assert found.chance == pytest.approx(expected[SO] / (expected[SO] + expected[OS]))
    assert found.unknown_results == unknown
    assert (found.queries, found.unknown_queries) == (
        int((sides.queries >= 0).sum()),
        int((sides.queries < 0).sum()),
    )


def test_chance_is_the_index_of_many_random_rankings():
    task, _, sides, _ = world(9, one_set=False)
    rng = np.random.default_rng(0)
    sums = np.zeros(4)
    for _ in range(300):
        ids = task.exclusions.random_results(rng, len(task.queries), 4)
        for i, row in enumerate(ids):
            for j in row:
                if sides.queries[i] >= 0 and sides.gallery[j] >= 0:
                    sums[2 * (not relevant(task, i, j)) + (sides.queries[i] != sides.gallery[j])] += 1
    assert chance_index(task, sides) == pytest.approx(sums[SO] / (sums[SO] + sums[OS]), abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=2, max_size=4))
def test_cramers_v_is_scipys(rows):
    from scipy.stats.contingency import association as scipys

    table = np.array(rows)
    full = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(full.shape) < 2:
        assert cramers_v(table) is None
    else:
        assert cramers_v(table) == pytest.approx(scipys(full, "cramer"), abs=1e-12)


def test_of_several_findings_the_one_that_goes_with_the_value_most_is_told():
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=bool)
    found = association(labels, Sides(np.zeros(0, np.int64), np.array([0, 0, 1, 1]), ("n", "s")), ("a", "b"))
    assert found.counts.tolist() == [[2, 0], [1, 1]]
    assert found.cramers_v == pytest.approx(1.0)


@pytest.mark.parametrize("one_set", [False, True])
def test_own_patients_are_counted_as_a_loop_counts_them(one_set):
    task, ids, _, everyone = world(5, one_set)
    own = [sum(task.gallery.groups[j] == task.queries.groups[i] for j in everyone[i]) for i in range(14)]
    assert own_candidates(task).tolist() == own
    settings = ALONE if one_set else SETTINGS
    for k in (1, 3):
        found = recognition(settings, task, ids, k)
        marks = [
            task.gallery.groups[j] == task.queries.groups[i] for i in range(14) if own[i] for j in ids[i, :k]
        ]
        assert found.queries == sum(n > 0 for n in own)
        assert found.share.value == pytest.approx(np.mean(marks))
        assert found.chance == pytest.approx(
            np.mean([n / len(row) for n, row in zip(own, everyone, strict=True) if n])
        )


def test_intervals_hold_their_share_and_few_patients_have_none():
    rng = np.random.default_rng(0)
    few, many = (split("test", rng, n) for n in (8, 120))
    for only, given_one in ((few, False), (many, True)):
        task = task_of(only, only)
        ids = task.exclusions.random_results(rng, len(only), min(task.max_depth, 60))
        column = plain_column("site", np.tile(only.metadata["site"], 2))
        found = confounding(ALONE, task, ids, Sides.from_column(column, len(only)), 3, ("a", "b", "c")).index
        assert (found.interval is not None) == given_one
        if given_one:
            assert found.interval[0] < found.value < found.interval[1]
