"""Closed forms against definitions and against scikit-learn, on vectors that are drawn."""

import numpy as np
import pytest
from sklearn import decomposition
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from medretrieval.adapt.base import FitData
from medretrieval.adapt.linear import LDA, PCA, Center, Whiten, WithinClass, covariance
from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.datasets.base import Split
from medretrieval.encoders.baselines import PixelEncoder
from medretrieval.errors import UserError

CLASSES = ("a", "b", "c")
COSINE = MetricConfig("cosine", FaissMetric.inner_product, True)


def data_of(n=300, d=6, seed=0, labels=None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n) if labels is None else labels
    scale = np.linspace(0.2, 3, d)
    vectors = (rng.normal(size=(n, d)) * scale + np.eye(3, d)[labels] * 2 + 5).astype(np.float32)
    split = Split("train", np.zeros((n, 1, 1), np.uint8), labels)
    return FitData(split, vectors, PixelEncoder("pixels", 1, False, 8), CLASSES, lambda tensors: 0.0)


def adapted(adaptation, data, **choice):
    fitted = adaptation.fit(data, choice or adaptation.choices()[0], 0)
    return adaptation.apply(fitted, data.vectors)


def test_center_takes_the_mean_of_train_away_and_nothing_else():
    data = data_of()
    out = adapted(Center("center", 0, 0), data)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(out, data.vectors - data.vectors.mean(axis=0), atol=1e-5)


def test_pca_is_that_of_scikit_learn_up_to_the_signs():
    data = data_of()
    out = adapted(PCA("pca", 3, 0, 0), data)
    other = decomposition.PCA(3).fit_transform(data.vectors.astype(np.float64))
    signs = np.sign((out * other).sum(axis=0))
    np.testing.assert_allclose(out * signs, other, atol=1e-4)


def test_little_shrinkage_whitens_and_whole_shrinkage_only_centers():
    data = data_of(n=2000)
    white = adapted(Whiten("whiten", 1e-9, 0, 0), data)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-3)
    plain = adapted(Whiten("whiten", 1.0, 0, 0), data)
    centered = data.vectors - data.vectors.mean(axis=0)
    np.testing.assert_allclose(plain / plain.std(), centered / centered.std(), atol=1e-4)


def test_within_class_whitening_makes_the_classes_round():
    data = data_of(n=3000)
    out = adapted(WithinClass("within_class", 1e-9, 0, 0), data)
    labels = data.split.labels
    pooled = sum(np.cov(out[labels == c].T, bias=True) * (labels == c).mean() for c in range(3))
    np.testing.assert_allclose(pooled, np.eye(6), atol=1e-3)


def test_lda_spans_the_directions_of_scikit_learn():
    data = data_of(n=3000)
    out = adapted(LDA("lda", 1e-9, 0, 0), data)
    assert out.shape[1] == len(CLASSES) - 1
    other = LinearDiscriminantAnalysis(solver="eigen").fit(data.vectors, data.split.labels)
    theirs = other.transform(data.vectors)[:, :2]
    theirs, ours = theirs - theirs.mean(axis=0), out - out.mean(axis=0)
    # The same plane: each is a linear map of the other, without a rest.
    rest = theirs - ours @ np.linalg.lstsq(ours, theirs, rcond=None)[0]
    assert np.abs(rest).max() < 1e-2 * theirs.std()


def test_with_two_classes_lda_is_one_number():
    labels = np.arange(200) % 2
    data = data_of(n=200, labels=labels)
    out = adapted(LDA("lda", 0.1, 0, 0), data)
    assert out.shape == (200, 1)
    assert abs(out[labels == 0].mean() - out[labels == 1].mean()) > 2 * out[labels == 0].std()


def test_covariance_in_blocks_is_that_of_numpy(monkeypatch):
    monkeypatch.setattr("medretrieval.adapt.linear.BLOCK_VECTORS", 7)
    vectors = data_of(n=50).vectors
    mean = vectors.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(covariance(vectors, mean), np.cov(vectors.T, bias=True), rtol=1e-5)


def test_a_spectrum_is_of_the_data_that_is_given(monkeypatch):
    adaptation = Whiten("whiten", [0.1, 0.5], 0, 0)
    first, second = data_of(seed=1), data_of(seed=2)
    alone = Whiten("whiten", [0.1, 0.5], 0, 0).fit(second, {"shrinkage": 0.5}, 0)
    adaptation.fit(first, {"shrinkage": 0.1}, 0)
    np.testing.assert_array_equal(adaptation.fit(second, {"shrinkage": 0.5}, 0)["matrix"], alone["matrix"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PCA("pca", 0, 0, 0), "adapt.dim=0"),
        (lambda: PCA("pca", [4, 2.5], 0, 0), "adapt.dim=2.5"),
        (lambda: PCA("pca", [], 0, 0), "adapt.dim=[]"),
        (lambda: Whiten("whiten", 0, 0, 0), "adapt.shrinkage=0"),
        (lambda: Whiten("whiten", [0.1, 1.5], 0, 0), "adapt.shrinkage=1.5"),
        (lambda: Center("center", -1, 0), "adapt.refits=-1"),
        (lambda: adapted(PCA("pca", 7, 0, 0), data_of()), "at most 6"),
        (lambda: adapted(Whiten("whiten", 0.5, 0, 0), constant()), "do not differ"),
    ],
)
def test_values_that_cannot_be(make, said):
    with pytest.raises(UserError) as refused:
        make()
    assert said in str(refused.value)


def constant():
    data = data_of()
    return FitData(data.split, np.ones_like(data.vectors), data.encoder, CLASSES, data.judge)


def test_a_class_that_train_lacks_is_refused_by_name():
    split = Split("train", np.zeros((4, 1, 1), np.uint8), np.array([0, 0, 2, 2]))
    with pytest.raises(UserError, match="'b' has no image in split train"):
        LDA("lda", 0.1, 0, 0).require(split, CLASSES, COSINE)
    Whiten("whiten", 0.1, 0, 0).require(split, CLASSES, COSINE)


def test_one_number_is_not_compared_by_its_sign_alone():
    split = Split("train", np.zeros((4, 1, 1), np.uint8), np.array([0, 0, 1, 1]))
    with pytest.raises(UserError, match="nothing but the sign; use metric=l2"):
        LDA("lda", 0.1, 0, 0).require(split, CLASSES[:2], COSINE)
    LDA("lda", 0.1, 0, 0).require(split, CLASSES[:2], MetricConfig("l2", FaissMetric.l2, False))
