"""Tuning of an image tower on the labels of train: its last blocks, and what all such tuning shares."""

import copy
import itertools
import logging
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.base import Adaptation, Choice, FitData
from medretrieval.adapt.checkpoint import Checkpoint
from medretrieval.adapt.losses import LOSSES, batches, criterion
from medretrieval.adapt.training import Schedule, Trainee, Training, device_of, require_numbers, train
from medretrieval.adapt.tuning.tower import Tower
from medretrieval.adapt.tuning.tuned import Front, TunedEncoder, as_read, require_names
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import Tensors
from medretrieval.errors import UserError, choices

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class Tuning(Adaptation):
    """Trains part of an encoder's last blocks, and is the encoder with these weights afterwards.

    What lies before the last blocks runs once; what it gives is kept in the cache.

    Args:
        name: short name.
        blocks: how many of the last blocks.
        learning_rate: of AdamW; of a list val chooses one.
        training: epochs, patience, weight decay, batches, device.
        steps: batches an epoch at most; None for as many as train fills.
        refits: fits from other seeds, for the spread.
        seed: of the batches.
        options: what else val chooses.

    Raises:
        UserError: a value out of its range.
    """

    resamples = False  # another seed draws other batches
    judged = True

    def __init__(
        self,
        name: str,
        blocks: int,
        learning_rate: float | list[float],
        training: Training,
        steps: int | None,
        refits: int,
        seed: int,
        **options: Any,
    ) -> None:
        super().__init__(name, refits, seed, learning_rate=learning_rate, **options)
        require_numbers("blocks", [blocks], whole=True, least=1)
        require_numbers("learning_rate", self.options["learning_rate"], whole=False, least=0, above=True)
        if steps is not None:
            require_numbers("steps", [steps], whole=True, least=1)
        self.blocks, self.training, self.steps = blocks, training, steps
        self._front: Front | None = None

    def signature(self) -> dict[str, Any]:
        """What determines the fit beside data and choice."""
        said = {"blocks": self.blocks, "steps": self.steps, "training": self.training.signature()}
        return super().signature() | said

    def front(self, encoder: Encoder) -> Front:
        """An encoder up to its last blocks; the same object for the same encoder."""
        if self._front is None or self._front.base is not encoder:
            self._front = Front(encoder, self.blocks)
        return self._front

    def activations(self, data: FitData, front: Front) -> NDArray[np.float32]:
        """What the front gives of the whole of train, float32 [N, numbers], memory-mapped in the cache."""
        assert data.embed is not None
        numbers = int(np.prod(front.shape))
        n = len(data.split) if data.rows is None else int(data.rows.max()) + 1
        size = f"{n * numbers * 4 / 1e9:.2f} GB"
        log.info(
            "encoder=%s: %d numbers an image before the last blocks, %s in all", front.name, numbers, size
        )
        return data.embed(front)

    def adapted(self, encoder: Encoder, fitted: Tensors, digest: str) -> Encoder:
        """The encoder with the trained weights."""
        return TunedEncoder(self.front(encoder), self, fitted, digest)

    @abstractmethod
    def weights(self, module: "torch.nn.Module", tower: Tower, fitted: Tensors) -> dict[str, "torch.Tensor"]:
        """As `tuned.Tuned.weights`."""


class LabelTuning(Tuning):
    """Tuning of the image tower by a loss on labels. BatchNorm and dropout are as when embedding.

    Args:
        name: short name.
        loss: one of `losses.LOSSES`, on the encoder's vectors; of a list val chooses one.
        blocks: how many of the last blocks.
        learning_rate: of AdamW; of a list val chooses one.
        weight_decay: of AdamW, 0 or more.
        epochs: passes over train, at most.
        steps: batches an epoch at most; None for as many as train fills.
        patience: looks at val, one an epoch, without a better score after which it stops.
        per_class: images of each class in a batch, 2 or more.
        device: "auto", "cpu", "cuda", "mps".
        refits: fits from other seeds, for the spread.
        seed: of the start of the loss and of the batches.

    Raises:
        UserError: a value out of its range.
    """

    uses_labels = True

    def __init__(
        self,
        name: str,
        loss: str | list[str],
        blocks: int,
        learning_rate: float | list[float],
        weight_decay: float,
        epochs: int,
        steps: int | None,
        patience: int,
        per_class: int,
        device: str,
        refits: int,
        seed: int,
    ) -> None:
        training = Training(epochs, patience, weight_decay, per_class, device)
        super().__init__(name, blocks, learning_rate, training, steps, refits, seed, loss=loss)
        for one in self.options["loss"]:
            if one not in LOSSES:
                raise UserError(f"adapt.loss={one}: {choices(LOSSES)}")

    @abstractmethod
    def learned(self, module: "torch.nn.Module", tower: Tower) -> Mapping[str, "torch.nn.Parameter"]:
        """What is trained of a copy of the model, name in the file -> parameter; the copy may be changed.

        Args:
            module: the copy, none of whose parameters has a gradient yet.
            tower: the image tower.
        """

    def fit(self, data: FitData, choice: Choice, seed: int) -> Tensors:
        """The trained tensors.

        Raises:
            UserError: a model without such blocks, or a package that is wanted and not installed.
        """
        import torch

        front = self.front(data.encoder)
        tower, device = front.tower, device_of(self.training.device)
        module = copy.deepcopy(tower.module).requires_grad_(False).eval().to(device)
        with torch.random.fork_rng(devices=[]):  # what draws from torch later draws the same
            torch.manual_seed(seed)
            learned = self.learned(module, tower)
            loss = criterion(choice["loss"], data.vectors.shape[1], len(data.classes)).to(device)
        for value in learned.values():
            value.requires_grad_(True)
        images = _Images(
            self.activations(data, front),
            np.arange(len(data.split)) if data.rows is None else data.rows,
            data.split.labels.astype(np.int64),
            front.shape,
        )
        run = _TailRun(
            lambda x: tower.tail(module, x, self.blocks), learned, loss, images, self, seed, device
        )
        schedule = Schedule(
            self.training, choice["learning_rate"], data.judge, 1, Checkpoint(data.checkpoint(choice, seed))
        )
        return train(run, schedule, self.name)


class LastBlocks(LabelTuning):
    """The last blocks of an image tower and what follows them are trained; all before stays as it is.

    Of BatchNorm the statistics stay those of the checkpoint. What is kept are the trained parameters, under
    the names of the model's state dict.
    """

    def learned(self, module: "torch.nn.Module", tower: Tower) -> Mapping[str, "torch.nn.Parameter"]:
        """The parameters of the last blocks and of what follows."""
        return {name: module.get_parameter(name) for name in tower.names(self.blocks)}

    def weights(self, module: "torch.nn.Module", tower: Tower, fitted: Tensors) -> dict[str, "torch.Tensor"]:
        """The trained parameters themselves.

        Raises:
            UserError: they are not exactly the model's, by name and shape.
        """
        import torch

        wanted = {name: tuple(module.get_parameter(name).shape) for name in tower.names(self.blocks)}
        require_names(fitted, wanted, f"adapt={self.name}")
        return {name: torch.from_numpy(np.array(fitted[name])) for name in wanted}


@dataclass(frozen=True)
class _Images:
    """What the last blocks are trained on.

    Attributes:
        activations: what the front gives of the whole of train, float32 [N, numbers], memory-mapped.
        rows: positions in it, int64 [n].
        labels: int64 [n].
        shape: of one image's activations.
    """

    activations: NDArray[np.float32]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    shape: tuple[int, ...]


class _TailRun(Trainee):
    """One training of the last blocks."""

    def __init__(
        self,
        tail: Any,
        learned: Mapping[str, "torch.nn.Parameter"],
        loss: "torch.nn.Module",
        images: _Images,
        how: LabelTuning,
        seed: int,
        device: "torch.device",
    ) -> None:
        own = {f"loss.{name}": value for name, value in loss.named_parameters()}
        super().__init__(dict(learned) | own, np.random.default_rng(seed))
        self.kept, self.tail, self.loss, self.images = tuple(learned), tail, loss, images
        self.how, self.device = how, device

    def epoch(self, optimizer: "torch.optim.Optimizer") -> None:
        """One pass over train, or the batches that an epoch has at most."""
        import torch
        from tqdm import tqdm

        images, per_class = self.images, self.how.training.per_class
        assert per_class is not None
        drawn = itertools.islice(batches(images.labels, per_class, self.rng), self.how.steps)
        for rows in tqdm(list(drawn), desc="batches", unit="batch", leave=False, disable=None):
            x = as_read(images.activations[images.rows[rows]], images.shape).to(self.device)
            optimizer.zero_grad()
            with autocast(self.device):
                vectors = self.tail(x)
            loss = self.loss(vectors.float(), torch.from_numpy(images.labels[rows]).to(self.device))
            loss.backward()
            optimizer.step()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What is kept of what was trained."""
        return {name: self.learned[name].detach().cpu().numpy().copy() for name in self.kept}


def autocast(device: "torch.device") -> AbstractContextManager[Any]:
    """bfloat16 where a GPU trains; a CPU trains in fp32."""
    import torch

    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
