"""The state of a training that is not finished, so that one that was killed goes on where it was."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medretrieval.adapt.fit import read_tensors, write_tensors
from medretrieval.cache.entry import make_folder
from medretrieval.encoders.composed.composed import Tensors
from medretrieval.errors import UserError
from medretrieval.files import put_in_place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """A training after an epoch.

    Attributes:
        tensors: name -> array: weights, the optimizer's state, and what was best on val.
        about: epoch, scores and the state of the source of chance, as JSON values.
    """

    tensors: Tensors
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the last state of one training (safetensors: nothing is unpickled).

    Attributes:
        path: of the file, whose name stands for everything that determines the training; None keeps nothing.
    """

    path: Path | None

    def read(self) -> State | None:
        """The last state; None where there is none, or none that can be read."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            tensors, about = read_tensors(self.path)
        except UserError as error:
            log.warning("%s: the training begins anew (%s)", self.path, error)
            return None
        return State(tensors, about)

    def write(self, state: State) -> None:
        """Keep a state in the place of the last one.

        Raises:
            OSError: the disk is full.
        """
        if self.path is None:
            return
        make_folder(self.path.parent)
        with put_in_place(self.path) as aside:
            write_tensors(aside, state.tensors, state.about)
