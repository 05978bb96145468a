"""Encoders made of others: their vectors come from those of the parts, which the cache keeps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.base import Encoder
from medretrieval.encoders.card import Card
from medretrieval.errors import UserError

Floats = NDArray[np.float32]
Tensors = Mapping[str, NDArray[Any]]


class TextTower(Protocol):
    """What embeds sentences for an encoder made of others; its vectors are kept as those of the parts are."""

    def signature(self) -> dict[str, Any]:
        """As Encoder.signature."""

    def identity(self) -> dict[str, Any]:
        """As Encoder.identity."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embed sentences (float32 [n, d])."""


@dataclass(frozen=True)
class Described:
    """What else than vectors is known of the train images.

    Attributes:
        captions: of each, "" for an image without; None where the dataset has none.
        groups: of each (patient, lesion), str [n]; None where the dataset has none.
        encode: sentences by the encoder's text tower, float32 [n, d], from the cache where they are there;
            None for an encoder without.
    """

    captions: Sequence[str] | None = None
    groups: NDArray[np.str_] | None = None
    encode: Callable[[Sequence[str]], Floats] | None = None


class ComposedEncoder(Encoder, ABC):
    """An encoder whose vectors are made of those of other encoders, its parts.

    Args:
        name: short name.
        parts: the encoders, each with its own preprocessing.
        batch_size: images at a time.
    """

    def __init__(self, name: str, parts: Sequence[Encoder], batch_size: int) -> None:
        super().__init__(name, batch_size)
        self.parts = tuple(parts)
        self.random_weights = any(part.random_weights for part in self.parts)
        views = {part.view for part in self.parts if part.view is not None}
        self.view = views.pop() if len(views) == 1 else None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What makes its vectors beside its parts, as JSON values; cheap."""

    def identity_of(self, of: Callable[["Encoder | TextTower"], dict[str, Any]]) -> dict[str, Any]:
        """Its identity from those of what it is made of.

        Args:
            of: gives the identity (or signature) of a part; that of `embed.identify` loads no model again.
        """
        return self.settings() | {"parts": [of(part) for part in self.parts]}

    def signature(self) -> dict[str, Any]:
        """The parts' signatures, and what makes its vectors of theirs."""
        return self.identity_of(lambda part: part.signature())

    def identity(self) -> dict[str, Any]:
        """The parts' identities, and what makes its vectors of theirs."""
        return self.identity_of(lambda part: part.identity())

    @abstractmethod
    def combine(self, vectors: Sequence[Floats]) -> Floats:
        """The vectors of images from those that the parts give of them.

        Args:
            vectors: float32 [n, d] of each part, d its own.

        Returns:
            float32 [n, dimension].
        """

    def encode(self, images: NDArray[np.uint8]) -> Floats:
        """Embed a batch by every part, and combine."""
        return self.combine([part.encode(images) for part in self.parts])

    def cards(self) -> tuple[Card, ...]:
        """Its own and those of the parts, each once."""
        found = [*super().cards(), *(card for part in self.parts for card in part.cards())]
        return tuple(dict.fromkeys(found))

    def here(self) -> tuple[bool, str]:
        """As Encoder.here, of all parts."""
        missing = [said for there, said in (part.here() for part in self.parts) if not there]
        return not missing, "; ".join(missing) or "; ".join(dict.fromkeys(p.here()[1] for p in self.parts))

    def unseen(self, height: int, width: int) -> float | None:
        """The least of the parts': what all of them cut off; None where one does not tell."""
        shares = [share for part in self.parts if (share := part.unseen(height, width)) is not None]
        return min(shares) if len(shares) == len(self.parts) else None


class JoinedEncoder(ComposedEncoder):
    """A composed encoder with numbers that are fitted on train before it can embed anything.

    Attributes:
        fitted: name -> array, what `fit` gave; None before.
        digest: of `fitted`, part of the identity; None before.
        text_tower: what embeds sentences, where it has one.
    """

    fitted: Tensors | None = None
    digest: str | None = None
    text_tower: TextTower | None = None

    @abstractmethod
    def fit(self, vectors: Sequence[Floats], described: Described) -> Tensors:
        """What joins the parts.

        Args:
            vectors: of the train images, float32 [n, d] of each part.
            described: their captions and groups.

        Raises:
            UserError: nothing can be fitted to these.
        """

    def require(self, captions: Sequence[str] | None) -> None:
        """Refuse before any work a train split that nothing can be fitted to.

        Args:
            captions: of the train images, "" for an image without; None where the dataset has none.

        Raises:
            UserError: too few captions, for an encoder that is fitted to them.
        """

    def combine_text(self, vectors: Floats) -> Floats:
        """The vectors of sentences from those that the text tower gives of them (float32 [n, dimension]).

        Raises:
            UserError: no text tower.
        """
        return self.encode_text(())

    def with_fitted(self, fitted: Tensors, digest: str) -> Self:
        """The same encoder, ready to embed."""
        import copy

        ready = copy.copy(self)
        ready.fitted, ready.digest = fitted, digest
        return ready

    def require_fitted(self) -> Tensors:
        """What was fitted.

        Raises:
            UserError: nothing yet.
        """
        if self.fitted is None:
            raise UserError(f"encoder={self.name}: is fitted on split train first; run it with medretrieval")
        return self.fitted
