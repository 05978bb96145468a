"""What an encoder is to the rest of the pipeline: raw images in, vectors out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.card import CARD, Card, read_card
from medretrieval.errors import UserError


class Encoder(ABC):
    """Turns images into vectors. A new one is a subclass and a file in conf/encoder/.

    The encoder owns its preprocessing: it is handed the dataset's raw images.

    Attributes:
        name: short name for tables, tags and file names.
        batch_size: images handed to `encode` at a time.
        random_weights: true for an untrained model; every output says so.
        view: what of an image the model is shown, "checkpoint" or "whole"; None where there is no choice.
        card: what its file says about it; None where it says nothing, and where it was not made from a file.
    """

    BESIDE: ClassVar[Mapping[str, Callable[[object], Any]]] = {CARD: read_card}  # see `instantiate`
    random_weights: bool = False
    view: str | None = None
    card: Card | None = None

    def __init__(self, name: str, batch_size: int) -> None:
        if batch_size < 1:
            raise UserError(f"encoder.batch_size={batch_size}: must be 1 or more")
        self.name = name
        self.batch_size = batch_size

    @abstractmethod
    def signature(self) -> dict[str, Any]:
        """What names this encoder's vectors without loading the model: cheap, no heavy import.

        Two encoders with the same signature have the same `identity`.
        """

    def identity(self) -> dict[str, Any]:
        """Everything that changes the vectors: weights' hash, preprocessing, pooling, precision, runtime.

        Part of the key under which embeddings are kept. May load the model.
        """
        return self.signature()

    @abstractmethod
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a batch.

        Args:
            images: uint8 [n, height, width] or [n, height, width, 3].

        Returns:
            float32 [n, dimension].
        """

    def stream(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """Embed any number of images, a batch at a time and in order.

        An encoder that can prepare a batch while it embeds another one overrides this.

        Args:
            images: uint8 [n, height, width] or [n, height, width, 3].

        Yields:
            float32 [batch_size, dimension], the last one with what is left: `encode` of each batch.
        """
        for begin in range(0, len(images), self.batch_size):
            yield self.encode(images[begin : begin + self.batch_size])

    def unseen(self, height: int, width: int) -> float | None:
        """Share of an image's area that the preprocessing cuts off, 0 to 1; None where it does not tell.

        Args:
            height: of the raw image, in pixels.
            width: likewise.
        """
        return 0.0

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed sentences into the space of the images (float32 [n, dimension]).

        Args:
            texts: sentences, as long as the text tower's context allows.

        Raises:
            UserError: no text tower, or a sentence that is too long for it.
        """
        raise UserError(
            f"encoder={self.name}: has no text tower; encoders that have one: {', '.join(_with_text())}"
        )

    def cards(self) -> tuple[Card, ...]:
        """Its card, where it has one; an encoder made of others adds theirs."""
        return () if self.card is None else (self.card,)

    def here(self) -> tuple[bool, str]:
        """Whether all that a run needs is on this machine, and what that is; asks nobody, loads no model.

        Returns:
            true and what there is, or false and what is missing and how to get it.
        """
        return True, "nothing needed"

    def fidelity(self, images: NDArray[np.uint8]) -> dict[str, Any] | None:
        """How far these vectors are from the model's own in full precision; None where they are these.

        Args:
            images: a sample, as for `encode`.

        Returns:
            against (str), images (n), cosine_min, cosine_mean, neighbors (k) and neighbors_in_common (the
            mean share of an image's k nearest others that both ways have in common; None for one image).
        """
        return None


def reads_text(cls: type[Encoder]) -> bool:
    """Whether an encoder has a text tower."""
    return cls.encode_text is not Encoder.encode_text


def _with_text() -> list[str]:
    """Names in conf/encoder of the encoders that embed text."""
    from hydra.utils import get_class
    from omegaconf import OmegaConf

    from medretrieval.config import root

    def with_text(path: Path) -> bool:
        node: Any = OmegaConf.to_container(OmegaConf.load(path))
        if "_target_" not in node:  # it inherits from the first of its defaults
            return with_text(path.with_stem(node["defaults"][0]))
        return reads_text(get_class(node["_target_"]))

    return [p.stem for p in sorted((root() / "conf" / "encoder").glob("*.yaml")) if with_text(p)]
