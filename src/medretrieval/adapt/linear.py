"""Adaptations in closed form: a mean that is subtracted, and a matrix."""

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.base import Adaptation, Choice, FitData, VectorAdaptation
from medretrieval.config import MetricConfig
from medretrieval.datasets.base import Split
from medretrieval.encoders.composed.composed import Tensors
from medretrieval.errors import UserError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
BLOCK_VECTORS = 16_384  # in float64 at a time


class LinearAdaptation(VectorAdaptation):
    """Vectors minus a mean, times a matrix: (x - mean) @ matrix."""

    def fit(self, data: FitData, choice: Choice, seed: int) -> Tensors:
        """The mean float32 [d] and, but for `Center`, the matrix float32 [d, m]."""
        vectors = data.vectors
        mean = np.asarray(np.mean(vectors, axis=0, dtype=np.float64))
        matrix = self.matrix(data, mean, choice)
        fitted = {"mean": mean.astype(np.float32)}
        return (
            fitted if matrix is None else fitted | {"matrix": np.ascontiguousarray(matrix, dtype=np.float32)}
        )

    @abstractmethod
    def matrix(self, data: FitData, mean: Doubles, choice: Choice) -> Doubles | None:
        """What centered vectors are multiplied with, float64 [d, m]; None for nothing."""

    def apply(self, fitted: Tensors, vectors: Floats) -> Floats:
        """As VectorAdaptation.apply."""
        centered = vectors - fitted["mean"]
        return centered if "matrix" not in fitted else np.ascontiguousarray(centered @ fitted["matrix"])


class Center(LinearAdaptation):
    """The mean of train is subtracted. Euclidean distances stay as they are; cosine distances change.

    Args:
        name: short name.
        refits: fits on other samples of train, for the spread.
        seed: of these samples.
    """

    def __init__(self, name: str, refits: int, seed: int) -> None:
        super().__init__(name, refits, seed)

    def matrix(self, data: FitData, mean: Doubles, choice: Choice) -> None:
        """No matrix."""
        return None


class PCA(LinearAdaptation):
    """The directions in which the vectors of train vary most (Pearson 1901; Jolliffe 2002), lengths kept.

    Args:
        name: short name.
        dim: directions that are kept; of a list val chooses one.
        refits: fits on other samples of train, for the spread.
        seed: of these samples.
    """

    def __init__(self, name: str, dim: int | list[int], refits: int, seed: int) -> None:
        super().__init__(name, refits, seed, dim=dim)
        _require_dims(self.options["dim"])

    def matrix(self, data: FitData, mean: Doubles, choice: Choice) -> Doubles:
        """The first `dim` eigenvectors of the covariance."""
        dim = _require_fit(choice["dim"], data.vectors)
        _, directions = np.linalg.eigh(covariance(data.vectors, mean))
        return directions[:, ::-1][:, :dim]


class Whiten(LinearAdaptation):
    """All directions scaled to the same variance on train, without labels (ZCA; Kessy et al. 2018).

    The covariance is shrunk towards a multiple of the identity: (1 - s) C + s tr(C) / d I (Ledoit and Wolf
    2004); with s = 1 only the mean is subtracted.

    Args:
        name: short name.
        shrinkage: s, above 0 and at most 1; of a list val chooses one.
        refits: fits on other samples of train, for the spread.
        seed: of these samples.
    """

    def __init__(self, name: str, shrinkage: float | list[float], refits: int, seed: int) -> None:
        super().__init__(name, refits, seed, shrinkage=shrinkage)
        _require_shrinkages(self.options["shrinkage"])
        self._last: tuple[FitData, tuple[Doubles, Doubles]] | None = None

    def matrix(self, data: FitData, mean: Doubles, choice: Choice) -> Doubles:
        """The inverse root of the shrunk covariance."""
        return inverse_root(*self.spectrum(data, mean), choice["shrinkage"])

    def spectrum(self, data: FitData, mean: Doubles) -> tuple[Doubles, Doubles]:
        """Eigenvalues and eigenvectors of `scatter`; once for all choices on the same data."""
        if self._last is None or self._last[0] is not data:
            values, directions = np.linalg.eigh(self.scatter(data, mean))
            self._last = data, (values, directions)
        return self._last[1]

    def scatter(self, data: FitData, mean: Doubles) -> Doubles:
        """The covariance that is made white, float64 [d, d]."""
        return covariance(data.vectors, mean)


class WithinClass(Whiten):
    """As `Whiten`, by the covariance within classes: what differs between images of one class is made small.

    Hatch et al. 2006, "Within-class covariance normalization for SVM-based speaker recognition".
    """

    uses_labels = True

    def scatter(self, data: FitData, mean: Doubles) -> Doubles:
        """The covariance within classes."""
        return within_class(data)

    def without_labels(self) -> Adaptation | None:
        """Whitening by the whole covariance."""
        return Whiten("whiten", self.options["shrinkage"], self.refits, self.seed)


class LDA(WithinClass):
    """The directions that separate the classes most (Fisher 1936, Rao 1948): at most classes - 1.

    Args:
        name: short name.
        shrinkage: of the covariance within classes, as `Whiten`; of a list val chooses one.
        refits: fits on other samples of train, for the spread.
        seed: of these samples.
    """

    def require(self, train: Split, classes: tuple[str, ...], metric: MetricConfig) -> None:
        """As Adaptation.require.

        Raises:
            UserError: two classes make one number of each image, of which the metric sees the sign alone.
        """
        super().require(train, classes, metric)
        if len(classes) == 2 and metric.normalize:
            raise UserError(
                f"adapt={self.name} and metric={metric.name}: with two classes each image becomes one "
                "number, of "
                f"which metric={metric.name} compares nothing but the sign; use metric=l2"
            )

    def matrix(self, data: FitData, mean: Doubles, choice: Choice) -> Doubles:
        """The class means' principal directions in the space that is white within classes."""
        white = inverse_root(*self.spectrum(data, mean), choice["shrinkage"])
        labels = data.split.labels
        numbers, counts = np.unique(labels, return_counts=True)
        centers = np.stack([_mean(data.vectors[labels == number]) for number in numbers]) - mean
        weighted = (centers @ white) * np.sqrt(counts / counts.sum())[:, None]
        _, _, directions = np.linalg.svd(weighted, full_matrices=False)
        return np.asarray(white @ directions[: len(numbers) - 1].T)

    def without_labels(self) -> None:
        """None: without labels there are no directions to choose."""
        return None


def covariance(vectors: Floats, mean: Doubles) -> Doubles:
    """Mean of (x - mean)(x - mean)^T, float64 [d, d]."""
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for begin in range(0, len(vectors), BLOCK_VECTORS):
        block = vectors[begin : begin + BLOCK_VECTORS] - mean
        total += block.T @ block
    return np.asarray(total / len(vectors))


def within_class(data: FitData) -> Doubles:
    """Covariance around the mean of each class, classes weighted by their images (float64 [d, d])."""
    vectors, labels = data.vectors, data.split.labels
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for number in np.unique(labels):
        members = vectors[labels == number]
        total += len(members) * covariance(members, _mean(members))
    return np.asarray(total / len(vectors))


def inverse_root(values: Doubles, directions: Doubles, shrinkage: float) -> Doubles:
    """The symmetric inverse root of a shrunk covariance (float64 [d, d]).

    Args:
        values: its eigenvalues before it is shrunk, float64 [d].
        directions: its eigenvectors, float64 [d, d], one a column.
        shrinkage: towards the mean of the eigenvalues, above 0 and at most 1.

    Raises:
        UserError: all vectors are the same.
    """
    mean = values.mean()
    if not mean > 0:
        raise UserError("adapt: the vectors of split train do not differ; nothing can be fitted to them")
    shrunk = (1 - shrinkage) * np.maximum(values, 0) + shrinkage * mean
    return np.asarray((directions / np.sqrt(shrunk)) @ directions.T)


def _mean(vectors: Floats) -> Doubles:
    return np.asarray(np.mean(vectors, axis=0, dtype=np.float64))


def _require_dims(dims: list[Any]) -> None:
    for dim in dims:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise UserError(f"adapt.dim={dim}: must be a whole number, 1 or more")


def _require_fit(dim: int, vectors: Floats) -> int:
    most = min(vectors.shape[1], len(vectors) - 1)
    if dim > most:
        raise UserError(
            f"adapt.dim={dim}: larger than the vectors of split train allow ({len(vectors)} vectors of "
            f"{vectors.shape[1]} numbers); at most {most}"
        )
    return dim


def _require_shrinkages(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise UserError(f"adapt.shrinkage={value}: must be above 0 and at most 1")
