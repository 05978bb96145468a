"""The permutation test of subgroups against naive loops, and p where nothing differs."""

import itertools

import numpy as np
import pytest

from medretrieval.subgroups.permutations import Labeled, corrected_p, shuffled


def world(seed, patients=25, most=4, values=3, mixed=False):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
    codes = rng.integers(0, values, len(who)) if mixed else rng.integers(0, values, patients)[who]
    scores = np.round(rng.normal(size=patients)[who] + rng.normal(size=len(who)), 1)
    return Labeled(scores, who, codes, list(itertools.combinations(range(values), 2)))


def naive(column, values, a, b):
    """The difference of two means in standard errors, patient by patient."""
    scores, sides = column.scores, (values == a, values == b)
    means = [scores[side].mean() for side in sides]
    parts = []
    for side, mean in zip(sides, means, strict=True):
        there = set(column.patients[side])
        scale = np.sqrt(len(there) / (len(there) - 1))
        parts.append(
            [
                scale * (scores[side & (column.patients == p)] - mean).sum() / side.sum()
                for p in range(column.count)
            ]
        )
    error = np.sqrt(((np.array(parts[0]) - np.array(parts[1])) ** 2).sum())
    return abs(means[0] - means[1]) / error


@pytest.mark.parametrize("mixed", [False, True])
def test_statistics_are_those_of_a_loop(mixed):
    column = world(1, mixed=mixed)
    orders = shuffled(column, np.random.default_rng(0), 3)
    for values, found in zip(orders, column.statistics(orders), strict=True):
        wanted = [naive(column, values, a, b) for a, b in column.pairs]
        assert found == pytest.approx(wanted)


def test_whole_patients_change_values():
    column = world(2)
    assert not column.mixed
    for values in shuffled(column, np.random.default_rng(0), 20):
        firsts = values[column.firsts]
        assert (firsts[column.patients] == values).all()
        assert sorted(firsts) == sorted(column.values[column.firsts])


def test_where_patients_have_several_values_these_go_to_patients_with_as_many_images():
    column = world(3, mixed=True)
    assert column.mixed
    sizes = np.bincount(column.patients)

    def held(values):
        """Sets of values, by how many images their patient has."""
        return sorted((sizes[p], *sorted(values[column.patients == p])) for p in range(column.count))

    seen = set()
    for values in shuffled(column, np.random.default_rng(0), 50):
        assert held(values) == held(column.values)
        seen.add(tuple(values))
    assert len(seen) == 50


def test_a_difference_that_all_patients_have_is_found_and_none_is_not():
    column = world(4, patients=60)
    apart = Labeled(column.scores + 5.0 * (column.values == 2), column.patients, column.values, column.pairs)
    (p,) = corrected_p([apart], 999, 0)
    assert p[0] > 0.01
    assert p[1] == p[2] == 0.001
    same = Labeled(np.ones(len(column.scores)), column.patients, column.values, column.pairs)
    assert (corrected_p([same], 999, 0)[0] == 1).all()


@pytest.mark.parametrize("mixed", [False, True])
def test_p_is_uniform_where_the_values_say_nothing(mixed):
    found = [corrected_p([world(seed, mixed=mixed, values=2)], 199, seed)[0][0] for seed in range(200)]
    shares = [np.mean(np.array(found) <= level) for level in (0.1, 0.3, 0.5, 0.8)]
    assert shares == pytest.approx([0.1, 0.3, 0.5, 0.8], abs=0.11)


def test_more_columns_make_a_p_larger():
    columns = [world(seed, values=2) for seed in range(5)]
    alone = corrected_p(columns[:1], 499, 0)[0][0]
    assert corrected_p(columns, 499, 0)[0][0] >= alone
