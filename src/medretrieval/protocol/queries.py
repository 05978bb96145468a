"""What asks: the images of a split, prompts of classes, or captions. They differ here and nowhere else."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import Split

if TYPE_CHECKING:
    from medretrieval.protocol.captions import Captions
    from medretrieval.protocol.prompts import Prompts


class Queries(Protocol):
    """The query side of a task. Exactly one of `split` and `prompts` is not None."""

    @property
    def name(self) -> str:
        """Of the split; "prompts" or "captions" where the queries are sentences."""

    @property
    def kind(self) -> str:
        """What is counted: "images", "prompts" or "captions"."""

    @property
    def split(self) -> Split | None:
        """The images that ask; None where sentences do."""

    @property
    def prompts(self) -> "Prompts | Captions | None":
        """The sentences that ask; None where images do."""

    @property
    def ids(self) -> NDArray[np.str_]:
        """Names of the queries, unique (str [q])."""

    @property
    def labels(self) -> NDArray[np.int64] | NDArray[np.bool_]:
        """int64 [q] class numbers, or bool [q, classes]."""

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """Str [q], as `Split.groups`."""

    @property
    def content_sha256(self) -> str:
        """What the queries' vectors depend on."""

    @property
    def labels_sha256(self) -> str:
        """What scores depend on besides."""

    def targets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """What a hit shares with its query, int64 [q] and int64 [n]; None where that is the class."""

    def __len__(self) -> int: ...
