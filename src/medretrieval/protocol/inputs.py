"""What a run starts from: dataset, encoder and task."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from medretrieval.datasets.base import Dataset, Split
from medretrieval.encoders.base import Encoder
from medretrieval.protocol.task import RetrievalTask


@dataclass(frozen=True)
class Inputs:
    """What a run starts from, before any vector is made.

    Attributes:
        dataset, encoder, identity, task: as configured.
        center_split: the split that means are fitted to, where protocol.center says one.
        train_split: what adaptations and encoders made of others are fitted on; None where nothing is.
        val_split: what an adaptation's settings are chosen by; None where nothing is adapted.
    """

    dataset: Dataset
    encoder: Encoder
    identity: dict[str, Any]
    task: RetrievalTask
    center_split: Split | None
    train_split: Split | None = None
    val_split: Split | None = None

    def with_encoder(self, encoder: Encoder, identity: Mapping[str, Any]) -> "Inputs":
        """The same with another encoder."""
        return replace(self, encoder=encoder, identity=dict(identity))

    @property
    def clean(self) -> "Inputs":
        """The same with the queries as they were before they were corrupted."""
        return replace(self, task=self.task.clean)
