"""Two linear maps into one space, fitted so that an image lies near its own caption."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
IMAGE, TEXT = SIDES = ("image", "text")
LEAST_LENGTH = 1e-5  # of a direction, as a share of the longest, below which it is rounding


@dataclass(frozen=True)
class Training:
    """How the maps are fitted.

    Attributes:
        dim: of the common space.
        temperature: that cosines are divided by, above 0.
        epochs: passes over train at most; how many are taken is chosen on folds of train.
        folds: that the number of passes is chosen on, 2 or more.
        learning_rate: of Adam, above 0.
        weight_decay: decoupled (AdamW), 0 or more.
        pair_batch: pairs a step, which are each other's negatives; 2 or more.
        seed: of the start, of the order and of the folds.

    Raises:
        UserError: a number out of its range.
    """

    dim: int
    temperature: float
    epochs: int
    folds: int
    learning_rate: float
    weight_decay: float
    pair_batch: int
    seed: int

    def __post_init__(self) -> None:
        least = {"dim": 1, "epochs": 1, "folds": 2, "weight_decay": 0, "pair_batch": 2}
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise UserError(f"encoder.{name}={getattr(self, name)}: must be {value} or more")
        for name in ("temperature", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"encoder.{name}={getattr(self, name)}: must be above 0")

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Pairs:
    """Images and their captions.

    Attributes:
        vectors: side -> float32 [n, d], d its own.
        same: int64 [n], the number of each pair's caption: pairs of the same words have the same.
        groups: int64 [n], the number of each pair's group (patient); of its own where no groups are known.
    """

    vectors: Mapping[str, Floats]
    same: Ints
    groups: Ints

    def __len__(self) -> int:
        return len(self.same)


def fit_projections(pairs: Pairs, training: Training) -> dict[str, NDArray[Any]]:
    """Two linear maps by the symmetric contrastive loss of CLIP.

    Radford et al. 2021, arXiv:2103.00020, section 2.3; van den Oord et al. 2018, arXiv:1807.03748. Each side
    is centered on its mean and divided by the root of its mean squared length, then mapped and scaled to
    length 1. The maps are of the directions in which the pairs vary; what lies outside of these is ignored.
    Pairs with the same words are not each other's negatives. The number of passes is that with the least loss
    on folds of train (whole groups), for each of which the maps are fitted to the other folds; then they are
    fitted to all pairs. With the same seed, library and number of threads the result is the same.

    Args:
        pairs: of train.
        training: how.

    Returns:
        "image.mean" float32 [d], "image.matrix" float32 [d, dim], "text.mean" and "text.matrix" likewise,
        and "losses" float32 [epochs], the loss on the pairs left out after each pass.

    Raises:
        UserError: a dim above that of a side, fewer groups than folds, or a side that does not vary.
    """
    least = min(side.shape[1] for side in pairs.vectors.values())
    if training.dim > least:
        raise UserError(
            f"encoder.dim={training.dim}: the vectors of images have {pairs.vectors[IMAGE].shape[1]} numbers "
            f"and those of sentences {pairs.vectors[TEXT].shape[1]}; at most {least}"
        )
    if (count := len(np.unique(pairs.groups))) < training.folds:
        raise UserError(
            f"encoder.folds={training.folds}: split train has {count} groups with a caption; at most {count}"
        )
    axes = {side: _axes(vectors, side) for side, vectors in pairs.vectors.items()}
    ready: dict[str, Floats] = {
        s: np.asarray((pairs.vectors[s] - mean) @ along, np.float32) for s, (mean, along) in axes.items()
    }
    centered = Pairs(ready, pairs.same, pairs.groups)
    rows = np.arange(len(pairs))
    losses = np.zeros(training.epochs)
    for left_out in folds_of(pairs.groups, training.folds, training.seed):
        kept = np.setdiff1d(rows, left_out)
        losses += _train(centered, kept, training, training.epochs, left_out)[1] * len(left_out) / len(rows)
    maps, _ = _train(centered, rows, training, int(losses.argmin()) + 1, None)
    fitted: dict[str, NDArray[Any]] = {"losses": losses.astype(np.float32)}
    for side, (mean, along) in axes.items():
        fitted |= {f"{side}.mean": mean, f"{side}.matrix": np.ascontiguousarray(along @ maps[side])}
    return fitted


def folds_of(groups: Ints, folds: int, seed: int) -> list[Ints]:
    """Rows of each fold: whole groups, dealt out in a random order.

    >>> sorted(fold.tolist() for fold in folds_of(np.array([0, 0, 1]), 2, 0))
    [[0, 1], [2]]
    """
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    return [np.flatnonzero(np.isin(groups, names[number::folds])) for number in range(folds)]


def _axes(vectors: Floats, side: str) -> tuple[Floats, Floats]:
    """The mean [d], and the directions in which the vectors vary, by their scale [d, directions]."""
    mean = np.mean(vectors, axis=0, dtype=np.float64)
    centered = vectors - mean
    scale = float(np.sqrt(np.mean(np.square(centered).sum(axis=1))))
    if not scale > 0:
        what = "images" if side == IMAGE else "captions"
        raise UserError(f"encoder: all {what} of split train have the same vector, so nothing can be fitted")
    if len(centered) < centered.shape[1]:
        _, lengths, rows = np.linalg.svd(centered, full_matrices=False)
        along = rows.T
    else:  # as many directions as numbers at most, however many pairs
        squares, along = np.linalg.eigh(centered.T @ centered)
        lengths = np.sqrt(np.maximum(squares, 0))
    kept = along[:, lengths > LEAST_LENGTH * lengths.max()]
    return np.asarray(mean, np.float32), np.asarray(kept / scale, np.float32)


def _train(
    pairs: Pairs, rows: Ints, training: Training, epochs: int, left_out: Ints | None
) -> tuple[dict[str, Floats], NDArray[np.float64]]:
    """The maps after so many passes over some rows, and the loss of those left out after each pass."""
    import torch

    rng = np.random.default_rng(training.seed)
    sides = {side: torch.from_numpy(np.ascontiguousarray(v)) for side, v in pairs.vectors.items()}
    same = torch.from_numpy(pairs.same)
    maps = {}
    for side, vectors in sides.items():
        start = rng.normal(size=(vectors.shape[1], training.dim)) / np.sqrt(training.dim)
        maps[side] = torch.from_numpy(start.astype(np.float32)).requires_grad_()
    adam = torch.optim.AdamW(maps.values(), lr=training.learning_rate, weight_decay=training.weight_decay)

    def loss_of(batch: Ints) -> "torch.Tensor":
        chosen = torch.from_numpy(batch)
        image, text = (torch.nn.functional.normalize(sides[s][chosen] @ maps[s], dim=1) for s in SIDES)
        return contrastive(image @ text.T / training.temperature, same[chosen])

    losses = np.zeros(epochs)
    for epoch in range(epochs):
        order = rng.permutation(rows)
        for batch in np.array_split(order, max(1, round(len(order) / training.pair_batch))):
            adam.zero_grad()
            loss_of(batch).backward()  # type: ignore[no-untyped-call]
            adam.step()
        if left_out is not None:
            with torch.no_grad():
                losses[epoch] = float(loss_of(left_out))
    return {side: found.detach().numpy() for side, found in maps.items()}, losses


def contrastive(logits: "torch.Tensor", same: "torch.Tensor") -> "torch.Tensor":
    """The mean of both cross-entropies: each image among captions, each caption among images.

    Args:
        logits: [n, n], row i of image i, column j of caption j; pair i is on the diagonal.
        same: int64 [n], pairs of one number have the same words, and are no negatives of each other.
    """
    import torch

    own = torch.eye(len(same), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill((same[:, None] == same[None, :]) & ~own, float("-inf"))
    target = torch.arange(len(same), device=logits.device)
    entropy = torch.nn.functional.cross_entropy
    return (entropy(logits, target) + entropy(logits.T, target)) / 2
