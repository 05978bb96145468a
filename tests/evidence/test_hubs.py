"""Directions and hubs of vectors whose answer is known."""

import numpy as np
import pytest
from scipy.stats import skew

from medretrieval.evidence.stages.hubs import effective_dimension, hub_skewness


def test_directions_that_vary_alike_are_counted():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20_000, 8)).astype(np.float32)
    assert effective_dimension(vectors) == pytest.approx(8, rel=0.01)
    assert effective_dimension(vectors[:, :1]) == pytest.approx(1)
    assert effective_dimension(np.outer(vectors[:, 0], np.ones(5)).astype(np.float32)) == pytest.approx(1)


def test_more_dimensions_than_vectors_give_the_same_number():
    vectors = np.random.default_rng(1).normal(size=(30, 200)).astype(np.float32)
    values = np.linalg.eigvalsh(np.cov(vectors.T, bias=True))
    assert effective_dimension(vectors) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-4)


def test_vectors_that_are_all_the_same_use_no_direction():
    assert effective_dimension(np.ones((5, 3), np.float32)) == 0


def test_skewness_is_that_of_scipy():
    ids = np.array([[0, 1], [0, 2], [0, -1], [3, 0]])
    assert hub_skewness(ids, 6) == pytest.approx(skew([4, 1, 1, 1, 0, 0]))
    assert hub_skewness(np.arange(6).reshape(6, 1), 6) == 0
