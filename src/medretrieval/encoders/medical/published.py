"""What these encoders share: weights from one published file."""

import functools
from pathlib import Path
from typing import Any

from medretrieval.encoders.runtime.weights import MissingWeightsError
from medretrieval.encoders.torch_model import TorchEncoder
from medretrieval.errors import UserError

PUBLISHED = "published"


class PublishedEncoder(TorchEncoder):
    """An encoder whose weights are one published file: `checkpoint`, or where `place` says it lies.

    `pretrained` is "published", or None for random weights.

    Args:
        kwargs: see TorchEncoder.

    Raises:
        UserError: as TorchEncoder, or another `pretrained`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.pretrained not in (PUBLISHED, None):
            raise UserError(
                f"encoder.pretrained={self.pretrained}: {self.library} takes {PUBLISHED} (its one published "
                "file) or null (random weights)"
            )

    def place(self) -> Path | None:
        """Where the file lies without a checkpoint being named; None where there is no such place."""
        return None

    @functools.cached_property
    def file(self) -> Path | None:
        """The published file.

        Raises:
            UserError: it is not there, and how to get it.
        """
        if self.checkpoint is not None or self.pretrained is None:
            return super().file
        place = self.place()
        if place is not None and place.is_file():
            return place
        access = "" if self.card is None or self.card.access is None else f" {self.card.access}"
        where = "" if place is None else f" at {place}"
        raise MissingWeightsError(
            f"encoder={self.name}: its weights are not here{where}; give their file with "
            f"encoder.checkpoint=<path>.{access}"
        )
