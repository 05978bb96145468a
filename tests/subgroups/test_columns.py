"""Columns of metadata as sets of queries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.refusals import refusal
from tests.tasks import task_of

from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.subgroups.columns import UNKNOWN, columns_of, members_of, plain_column


def task(**metadata):
    n = len(next(iter(metadata.values()))) if metadata else 4
    found = {name: np.array(values, dtype=np.str_) for name, values in metadata.items()} or None
    only = Split("test", np.zeros((n, 1, 1), np.uint8), np.zeros(n, np.int64), metadata=found)
    return task_of(only, only)


def config(names, bins=4, edges=None):
    return EvaluationConfig(subgroups=names, subgroup_bins=bins, subgroup_edges=edges)


def test_values_stand_in_order_and_the_unknown_ones_last():
    (column,) = columns_of(config(["v"]), task(v=["b", "", "a", "b"]))
    assert column.named == ("a", "b", UNKNOWN)
    assert column.members.astype(int).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert members_of([column, column]).shape == (4, 6)
    assert members_of([]) is None


@given(st.lists(st.integers(0, 99), min_size=6, max_size=60), st.integers(2, 5))
def test_bins_divide_all_known_numbers(numbers, bins):
    values = [str(n) for n in numbers] + [""]
    (column,) = columns_of(config(["age"], bins), task(age=values))
    assert (column.members.sum(axis=1) == 1).all()
    assert column.codes[-1] == -1
    assert len(column.values) <= bins or len(set(numbers)) <= bins
    pairs = list(zip(numbers, column.codes, strict=False))
    highest = [max(n for n, c in pairs if c == i) for i in sorted({c for _, c in pairs})]
    assert highest == sorted(highest)


def test_edges_begin_bins_and_few_numbers_are_values():
    numbers = ["17", "18", "39.5", "40", "80"]
    (column,) = columns_of(config(["age"], edges={"age": [18, 40]}), task(age=numbers))
    assert column.values == ("under 18", "18 to under 40", "40 or more")
    assert column.codes.tolist() == [0, 1, 1, 2, 2]
    (column,) = columns_of(config(["age"]), task(age=["10", "9", "9", "100"]))
    assert column.values == ("9", "10", "100")


def test_a_value_that_only_python_calls_a_number_is_a_word():
    assert plain_column("c", np.array(["nan", "1_0", "2", "10"])).values == ("2", "10", "1_0", "nan")


@pytest.mark.parametrize(
    ("names", "edges", "metadata", "said"),
    [
        (["sexx"], None, {"sex": ["a"] * 4}, "no column 'sexx'; did you mean sex? choose from: sex"),
        (["sex"], None, {}, "the dataset has no metadata"),
        (["sex"], {"sex": [3]}, {"sex": ["a", "1", "2", "b"]}, "'a' of column 'sex' is no number"),
        (["id"], None, {"id": [f"n{i}" for i in range(60)]}, "column 'id' has 60 values, too many"),
    ],
)
def test_what_cannot_be_meant_is_refused(names, edges, metadata, said):
    assert said in refusal(columns_of, config(names, edges=edges), task(**metadata))
