"""Embeddings in a plane, against scikit-learn and for sets of few."""

import numpy as np
import pytest

from medretrieval.config import Projection
from medretrieval.evidence.projection import project, sample


def test_principal_components_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    plane, axes = project(vectors, Projection.pca, 0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    fitted = PCA(2).fit(unit)
    np.testing.assert_allclose(np.abs(plane), np.abs(fitted.transform(unit)), atol=1e-5)
    assert f"{100 * fitted.explained_variance_ratio_[0]:.1f} %" in axes[0]


@pytest.mark.parametrize("n", [1, 2, 9])
def test_a_plane_of_few_or_equal_vectors(n):
    for vectors in (np.ones((n, 3), np.float32), np.arange(1, n + 1, dtype=np.float32)[:, None]):
        assert project(vectors, Projection.pca, 0)[0].shape == (n, 2)


def test_tsne_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    centers = np.repeat(np.eye(3, 10), 20, axis=0)
    vectors = (centers + rng.normal(0, 0.05, (60, 10))).astype(np.float32)
    plane, _ = project(vectors, Projection.tsne, 0)
    apart = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (np.arange(60) // 20 == apart.argmin(axis=1) // 20).all()


def test_the_map_samples_both_sides_where_they_are_many():
    chosen = sample({"gallery": 100_000, "query": 600}, 2000, 0)
    assert {role: len(rows) for role, rows in chosen.items()} == {"gallery": 1400, "query": 600}
    chosen = sample({"gallery": 9_000, "query": 8_000}, 2000, 0)
    assert {role: len(set(rows.tolist())) for role, rows in chosen.items()} == {
        "gallery": 1000,
        "query": 1000,
    }
