"""What trained adaptations learn by: losses on vectors and labels, and batches with every class in them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

CROSS_ENTROPY, SUPCON, PROXY_ANCHOR, PROXY_NCA = LOSSES = (
    "cross_entropy",
    "supcon",
    "proxy_anchor",
    "proxy_nca",
)
PROXIES = "proxies"  # what a loss has learned beside the vectors


def criterion(loss: str, dim: int, classes: int) -> "torch.nn.Module":
    """A loss of vectors [n, dim] and labels [n], with what it learns itself.

    `cross_entropy` is that of a linear classifier, which is left away afterwards; `supcon` (Khosla et al.
    2020, arXiv:2004.11362), `proxy_anchor` (Kim et al. 2020, arXiv:2003.13911) and `proxy_nca`
    (Movshovitz-Attias et al. 2017, arXiv:1703.07464) are pytorch-metric-learning's.

    Args:
        loss: one of LOSSES.
        dim: numbers a vector.
        classes: how many there are.

    Raises:
        UserError: pytorch-metric-learning is wanted and not installed.
    """
    if loss == CROSS_ENTROPY:
        return _classifier(dim, classes)
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise UserError(
            f"adapt.loss={loss}: needs the package pytorch-metric-learning ({first_line(error)}); "
            "pip install 'medretrieval[adapt]', or adapt.loss=cross_entropy"
        ) from error
    made: torch.nn.Module = losses.SupConLoss()
    if loss == PROXY_ANCHOR:
        made = losses.ProxyAnchorLoss(classes, dim)
    if loss == PROXY_NCA:
        made = losses.ProxyNCALoss(classes, dim)
    return made


def _classifier(dim: int, classes: int) -> "torch.nn.Module":
    """Cross-entropy of a linear classifier."""
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = torch.nn.Linear(dim, classes)

        def forward(self, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.classes(vectors), labels)

    return Classifier()


def batches(
    labels: NDArray[np.int64], per_class: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Positions of one epoch: every batch has `per_class` images of each class, of a small class repeatedly.

    Args:
        labels: int64 [n].
        per_class: images of each class in a batch.
        rng: the source of chance.

    Yields:
        int64 [classes * per_class], as many batches as the whole of train fills.
    """
    members = [np.flatnonzero(labels == number) for number in np.unique(labels)]
    count = max(1, len(labels) // (per_class * len(members)))
    drawn = []
    for rows in members:
        wanted = count * per_class
        rounds = [rng.permutation(rows) for _ in range(-(-wanted // len(rows)))]
        drawn.append(np.concatenate(rounds)[:wanted].reshape(count, per_class))
    yield from np.concatenate(drawn, axis=1)
