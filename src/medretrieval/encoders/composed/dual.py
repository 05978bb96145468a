"""An image encoder and a sentence encoder with a space in common, fitted on the captions of train."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import Described, Floats, JoinedEncoder, Tensors, TextTower
from medretrieval.encoders.composed.projections import IMAGE, TEXT, Ints, Pairs, Training, fit_projections
from medretrieval.encoders.composed.sentences import SentenceEncoder
from medretrieval.errors import UserError, choices
from medretrieval.instantiate import instantiate
from medretrieval.vectors import l2_normalize

log = logging.getLogger(__name__)

MIN_PAIRS = 20  # images with a caption on train, below which nothing is fitted
PAIRED, SHUFFLED = CONTROLS = ("none", "shuffled")


class DualEncoder(JoinedEncoder):
    """Two frozen towers and two linear projections into one space, fitted with a contrastive loss.

    Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning", arXiv:2111.07991, lock the
    image tower; here both are locked and only the projections are fitted (`fit_projections`).

    Args:
        name: short name.
        image: name of the image encoder, from conf/encoder.
        node: its configuration.
        sentences: folder or "package:<module>" of a sentence encoder (`SentenceEncoder`).
        control: "none", or "shuffled": fitted to captions of other groups, where nothing true can be learned.
        dim: of the common space.
        temperature: of the loss, above 0.
        epochs: passes over train at most.
        folds: of train, on which the number of passes is chosen.
        learning_rate: of Adam.
        weight_decay: of Adam (decoupled).
        pair_batch: pairs a step.
        batch_size: images at a time.
        seed: of the start, of the order, of the folds and of what is shuffled.

    Raises:
        UserError: a number out of its range, or an image encoder that is made of others.
    """

    def __init__(
        self,
        name: str,
        image: str,
        node: dict[str, Any],
        sentences: str,
        control: str,
        dim: int,
        temperature: float,
        epochs: int,
        folds: int,
        learning_rate: float,
        weight_decay: float,
        pair_batch: int,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(name, [instantiate(node, Encoder, "encoder")], batch_size)  # type: ignore[type-abstract]
        if isinstance(self.parts[0], JoinedEncoder):
            raise UserError(f"encoder.image={image}: is made of others itself; choose one that is not")
        if control not in CONTROLS:
            raise UserError(f"encoder.control={control}: {choices(CONTROLS)}")
        self.control = control
        self.training = Training(
            dim, temperature, epochs, folds, learning_rate, weight_decay, pair_batch, seed
        )
        self.text_tower: SentenceEncoder = SentenceEncoder(name, sentences)

    def here(self) -> tuple[bool, str]:
        """As Encoder.here, of both towers."""
        both = (super().here(), self.text_tower.here())
        missing = [said for there, said in both if not there]
        return not missing, "; ".join(missing) or "; ".join(dict.fromkeys(said for _, said in both))

    def identity_of(self, of: Callable[[Encoder | TextTower], dict[str, Any]]) -> dict[str, Any]:
        """As ComposedEncoder.identity_of, with the sentence encoder."""
        return super().identity_of(of) | {"sentences": of(self.text_tower)}

    def settings(self) -> dict[str, Any]:
        """The training, and what was fitted."""
        return {
            "kind": "dual",
            "control": self.control,
            "training": self.training.document(),
            "fitted": self.digest,
        }

    def require(self, captions: Sequence[str] | None) -> None:
        """Refuse a dataset without captions, or with too few on train.

        Raises:
            UserError: naming how many there are.
        """
        count = sum(bool(caption.strip()) for caption in captions or ())
        if count < MIN_PAIRS:
            found = f"{count} images" if count else "no image"
            raise UserError(
                f"encoder={self.name}: is fitted on captions, and split train has {found} with one; at least "
                f"{MIN_PAIRS} are needed (dataset=csv has dataset.columns.caption=<column>)"
            )

    def fit(self, vectors: Sequence[Floats], described: Described) -> Tensors:
        """Both projections, as `fit_projections` gives them.

        Raises:
            UserError: a dataset without captions, too few on train, or what `fit_projections` refuses.
        """
        self.require(described.captions)
        said, groups = tuple(caption.strip() for caption in described.captions or ()), described.groups
        rows = np.flatnonzero([bool(text) for text in said])
        numbers = np.arange(len(said)) if groups is None else np.unique(groups, return_inverse=True)[1]
        own = numbers[rows].astype(np.int64)
        texts, same = np.unique([said[row] for row in rows], return_inverse=True)
        if self.control == SHUFFLED:
            same = same[dealt_out(own, self.training.seed)]
        encode = described.encode or self.text_tower.encode
        sides = {IMAGE: np.asarray(vectors[0])[rows], TEXT: np.asarray(encode(texts.tolist()))[same]}
        fitted = fit_projections(Pairs(sides, same.astype(np.int64), own), self.training)
        if int(fitted["losses"].argmin()) + 1 == self.training.epochs > 1:
            log.warning(
                "encoder=%s: on the folds the loss still fell at the end of encoder.epochs=%d; try more",
                self.name,
                self.training.epochs,
            )
        return fitted

    def combine(self, vectors: Sequence[Floats]) -> Floats:
        """Images in the common space (float32 [n, dim], of length 1)."""
        return self._project(IMAGE, vectors[0])

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Sentences in the common space (float32 [n, dim], of length 1).

        One that is longer than the sentence encoder reads is cut (`SentenceEncoder`).
        """
        return self.combine_text(self.text_tower.encode(texts))

    def combine_text(self, vectors: Floats) -> Floats:
        """As `encode_text`, from the sentence encoder's vectors (float32 [n, d])."""
        return self._project(TEXT, vectors)

    def _project(self, side: str, vectors: Floats) -> Floats:
        fitted = self.require_fitted()
        return l2_normalize(
            ((vectors - fitted[f"{side}.mean"]) @ fitted[f"{side}.matrix"]).astype(np.float32)
        )


def dealt_out(groups: Ints, seed: int) -> Ints:
    """For each row a row of another group: all rows of a group take theirs from one other group, in order.

    The groups stand in a random circle and each takes from the one before it, so none keeps its own (where
    there is more than one). A smaller group's rows are taken again from the first on.

    >>> dealt_out(np.array([0, 0, 1, 1, 1]), 0).tolist()
    [2, 3, 0, 1, 0]
    """
    circle = np.random.default_rng(seed).permutation(np.unique(groups))
    taken = np.empty(len(groups), np.int64)
    for group, other in zip(circle, np.roll(circle, 1), strict=True):
        places = np.flatnonzero(groups == group)
        taken[places] = np.resize(np.flatnonzero(groups == other), len(places))
    return taken
