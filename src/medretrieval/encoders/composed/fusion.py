"""Several encoders side by side: one vector of all their vectors, or one distance of all their distances."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import Described, Floats, JoinedEncoder, Tensors
from medretrieval.errors import UserError, choices
from medretrieval.instantiate import instantiate
from medretrieval.vectors import l2_normalize

VECTORS, DISTANCES = BY = ("vectors", "distances")


class FusionEncoder(JoinedEncoder):
    """The vectors of several encoders, each made comparable on train, as one.

    by=vectors (early fusion): the train mean is subtracted from each part's vectors and they are divided by
    the root of their mean squared length on train; each then has the same share in Euclidean distances.
    by=distances (late fusion): the train mean is subtracted and each vector is scaled to length 1, so that
    the cosine distance of the whole is the weighted mean of the parts' cosine distances.

    Args:
        name: short name.
        parts: names of the parts, from conf/encoder.
        nodes: their configurations, one a part.
        weights: of the parts' squared distances, above 0; None for equal ones.
        by: "vectors" or "distances".
        batch_size: images at a time.

    Raises:
        UserError: fewer than two parts, a part that is fitted itself, or weights that do not fit.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[str],
        nodes: Sequence[dict[str, Any]],
        weights: Sequence[float] | None,
        by: str,
        batch_size: int,
    ) -> None:
        if by not in BY:
            raise UserError(f"encoder.by={by}: {choices(BY)}")
        if len(parts) < 2 or len(set(parts)) < len(parts):
            raise UserError(f"encoder.parts={list(parts)}: give two or more different encoders")
        built = [instantiate(node, Encoder, "encoder") for node in nodes]  # type: ignore[type-abstract]
        if inner := [part.name for part in built if isinstance(part, JoinedEncoder)]:
            raise UserError(f"encoder.parts: {inner[0]} is made of others itself; name its parts instead")
        super().__init__(name, built, batch_size)
        shares = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
        if len(shares) != len(parts) or not all(np.isfinite(w) and w > 0 for w in shares):
            raise UserError(f"encoder.weights={weights}: give {len(parts)} numbers above 0, one a part")
        self.weights = [weight / sum(shares) for weight in shares]
        self.by = by

    def settings(self) -> dict[str, Any]:
        """How the parts are fused, and what was fitted."""
        return {"kind": "fusion", "by": self.by, "weights": self.weights, "fitted": self.digest}

    def fit(self, vectors: Sequence[Floats], described: Described) -> Tensors:
        """Mean and scale of each part on train ("0.mean" float32 [d], "0.scale" float32 [], ...).

        Raises:
            UserError: a part whose vectors are all the same.
        """
        fitted: dict[str, Any] = {}
        for i, part in enumerate(vectors):
            mean = np.mean(part, axis=0, dtype=np.float64)
            scale = np.sqrt(np.mean(np.square(part - mean).sum(axis=1, dtype=np.float64)))
            if not scale > 0:
                raise UserError(f"encoder.parts: {self.parts[i].name} gives all train images the same vector")
            fitted |= {f"{i}.mean": mean.astype(np.float32), f"{i}.scale": np.float32(scale).reshape(1)}
        return fitted

    def combine(self, vectors: Sequence[Floats]) -> Floats:
        """Each part centered, scaled and weighted, side by side (float32 [n, sum of d])."""
        fitted, sides = self.require_fitted(), []
        for i, (part, weight) in enumerate(zip(vectors, self.weights, strict=True)):
            centered = part - fitted[f"{i}.mean"]
            equal = l2_normalize(centered) if self.by == DISTANCES else centered / fitted[f"{i}.scale"]
            sides.append(equal * np.float32(np.sqrt(weight)))
        return np.ascontiguousarray(np.concatenate(sides, axis=1), dtype=np.float32)
