"""What asks: the images of a split, or prompts. The two differ here and nowhere else."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import Split

if TYPE_CHECKING:
    from medretrieval.protocol.prompts import Prompts


class Queries(Protocol):
    """The query side of a task. Exactly one of `split` and `prompts` is not None."""

    @property
    def name(self) -> str:
        """Of the split; "prompts" where the queries are sentences."""

    @property
    def kind(self) -> str:
        """What is counted: "images" or "prompts"."""

    @property
    def split(self) -> Split | None:
        """The images that ask; None where sentences do."""

    @property
    def prompts(self) -> "Prompts | None":
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

    def __len__(self) -> int: ...
