"""Tuning of both towers of a CLIP on the captions of train."""

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.base import Choice, FitData
from medretrieval.adapt.checkpoint import Checkpoint
from medretrieval.adapt.training import Schedule, Trainee, Training, device_of, require_numbers, train
from medretrieval.adapt.tuning.blocks import Tuning, autocast
from medretrieval.adapt.tuning.tower import Tower
from medretrieval.adapt.tuning.tuned import as_read, require_names
from medretrieval.config import MetricConfig
from medretrieval.datasets.base import Split
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import Tensors
from medretrieval.encoders.composed.dual import MIN_PAIRS, dealt_out
from medretrieval.encoders.composed.projections import contrastive
from medretrieval.encoders.open_clip_models import OpenClipEncoder
from medretrieval.errors import UserError

if TYPE_CHECKING:
    import torch

SCALE = "logit_scale"
MOST_SCALE = math.log(100)  # of the logits' scale: as in the training of CLIP, section 2.5
# Where the blocks of a text tower are -> how the names of what follows them begin.
TEXT_BLOCKS = {
    "transformer.resblocks": ("ln_final.", "text_projection"),
    "text.transformer.resblocks": ("text.ln_final.", "text.text_projection"),
    "text.transformer.encoder.layer": ("text.proj",),
}


@dataclass(frozen=True)
class Pairs:
    """The images of train that have a caption, and their captions.

    Attributes:
        rows: positions of these images in the split, int64 [n].
        texts: the different captions.
        same: which of these each image has, int64 [n].
        groups: number of each image's group (patient), int64 [n]; of its own where no groups are known.
    """

    rows: NDArray[np.int64]
    texts: tuple[str, ...]
    same: NDArray[np.int64]
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, split: Split) -> "Pairs":
        """Those of a split."""
        said = [text.strip() for text in split.captions or ()]
        rows = np.flatnonzero([bool(text) for text in said])
        texts, same = np.unique([said[row] for row in rows], return_inverse=True)
        names = np.arange(len(split)) if split.groups is None else split.groups[: len(split)]
        groups = np.unique(names, return_inverse=True)[1][rows] if len(rows) else rows
        return cls(rows, tuple(texts.tolist()), same.astype(np.int64), groups.astype(np.int64))


class ClipCaptions(Tuning):
    """The last blocks of both towers are trained so that an image lies near its own caption.

    The symmetric contrastive loss of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.3); pairs with
    the same words are no negatives of each other. What follows the blocks and the scale of the logits are
    trained with them; all before stays as it is.

    Args:
        name: short name.
        blocks: how many of the last blocks, of the image tower and of the text tower.
        learning_rate: of AdamW; of a list val chooses one.
        weight_decay: of AdamW, 0 or more.
        epochs: passes over train, at most.
        steps: batches an epoch at most; None for as many as train fills.
        patience: looks at val, one an epoch, without a better score after which it stops.
        pair_batch: pairs in a batch, which are each other's negatives; 2 or more.
        device: "auto", "cpu", "cuda", "mps".
        refits: fits from other seeds, for the spread.
        seed: of the batches.

    Raises:
        UserError: a value out of its range.
    """

    serves_text = True
    uses_captions = True

    def __init__(
        self,
        name: str,
        blocks: int,
        learning_rate: float | list[float],
        weight_decay: float,
        epochs: int,
        steps: int | None,
        patience: int,
        pair_batch: int,
        device: str,
        refits: int,
        seed: int,
    ) -> None:
        training = Training(epochs, patience, weight_decay, None, device)
        super().__init__(name, blocks, learning_rate, training, steps, refits, seed)
        require_numbers("pair_batch", [pair_batch], whole=True, least=2)
        self.pair_batch = pair_batch

    def signature(self) -> dict[str, Any]:
        """What determines the fit beside data and choice."""
        return super().signature() | {"pair_batch": self.pair_batch}

    def require(self, train: Split, classes: tuple[str, ...], metric: MetricConfig) -> None:
        """Refuse a train split with too few captions.

        Raises:
            UserError: naming how many images have one.
        """
        count = len(Pairs.of(train).rows)
        if count < MIN_PAIRS:
            found = f"{count} images" if count else "no image"
            raise UserError(
                f"adapt={self.name}: is trained on captions, and split train has {found} with one; at least "
                f"{MIN_PAIRS} are needed (dataset=csv has dataset.columns.caption=<column>); "
                "adapt=last_blocks trains on labels"
            )

    def require_encoder(self, encoder: Encoder) -> None:
        """Refuse an encoder that is no CLIP.

        Raises:
            UserError: what to use instead.
        """
        if not isinstance(encoder, OpenClipEncoder):
            raise UserError(
                f"adapt={self.name}: trains an image tower and a text tower together, and "
                f"encoder={encoder.name} is no model of open_clip; adapt=last_blocks trains the image tower "
                "alone"
            )

    def fit(self, data: FitData, choice: Choice, seed: int) -> Tensors:
        """The trained tensors.

        Raises:
            UserError: a model without such blocks.
        """
        import torch

        self.require_encoder(data.encoder)
        assert isinstance(data.encoder, OpenClipEncoder)
        front, device = self.front(data.encoder), device_of(self.training.device)
        tower = front.tower
        module: Any = copy.deepcopy(tower.module).requires_grad_(False).eval().to(device)
        learned = {name: module.get_parameter(name) for name in self._names(tower)}
        for value in learned.values():
            value.requires_grad_(True)
        pairs = Pairs.of(data.split)
        places = pairs.rows if data.rows is None else data.rows[pairs.rows]
        activations = self.activations(data, front)

        def images(rows: NDArray[np.int64]) -> torch.Tensor:
            return as_read(activations[places[rows]], front.shape).to(device)

        def vectors(rows: NDArray[np.int64]) -> torch.Tensor:
            return tower.tail(module, images(rows), self.blocks)

        tokens = data.encoder.tokens(pairs.texts).to(device)
        run = _PairRun(vectors, lambda texts: module.encode_text(tokens[texts]), learned, pairs, self, seed)
        schedule = Schedule(
            self.training, choice["learning_rate"], data.judge, 1, Checkpoint(data.checkpoint(choice, seed))
        )
        return train(run, schedule, self.name)

    def _names(self, tower: Tower) -> tuple[str, ...]:
        """Names of what is trained, as in the state dict."""
        return (*tower.names(self.blocks), *text_names(tower.module, self.blocks), SCALE)

    def weights(self, module: "torch.nn.Module", tower: Tower, fitted: Tensors) -> dict[str, "torch.Tensor"]:
        """The trained parameters themselves.

        Raises:
            UserError: they are not exactly the model's, by name and shape.
        """
        import torch

        own = {name: module.get_parameter(name) for name in self._names(tower)}
        require_names(fitted, {n: tuple(p.shape) or (1,) for n, p in own.items()}, f"adapt={self.name}")
        return {n: torch.from_numpy(np.array(fitted[n])).reshape(p.shape) for n, p in own.items()}


def text_names(module: "torch.nn.Module", last: int) -> tuple[str, ...]:
    """Names of the parameters of a CLIP's last text blocks and of what follows them.

    Raises:
        UserError: more blocks than there are, or a text tower of another kind.
    """
    for where, ends in TEXT_BLOCKS.items():
        try:
            blocks = [f"{where}.{name}." for name, _ in module.get_submodule(where).named_children()]
        except AttributeError:
            continue
        if last > len(blocks):
            raise UserError(f"adapt.blocks={last}: the text tower has {len(blocks)} blocks; give fewer")
        starts = (*blocks[len(blocks) - last :], *ends)
        return tuple(name for name, _ in module.named_parameters() if name.startswith(starts))
    raise UserError(
        "adapt=clip_captions: the text tower of this model is of a kind whose blocks are not known here; "
        "adapt=last_blocks trains the image tower alone"
    )


def shuffled_captions(split: Split, seed: int) -> tuple[str, ...]:
    """The captions of a split dealt out among other groups (patients), where nothing true can be learned.

    Args:
        split: images with captions.
        seed: of the dealing.
    """
    pairs, found = Pairs.of(split), [""] * len(split)
    for row, text in zip(pairs.rows, pairs.same[dealt_out(pairs.groups, seed)], strict=True):
        found[row] = pairs.texts[text]
    return tuple(found)


class _PairRun(Trainee):
    """One training of both towers."""

    def __init__(
        self,
        images: Callable[[NDArray[np.int64]], "torch.Tensor"],
        texts: Callable[["torch.Tensor"], "torch.Tensor"],
        learned: Mapping[str, "torch.nn.Parameter"],
        pairs: Pairs,
        how: ClipCaptions,
        seed: int,
    ) -> None:
        super().__init__(learned, np.random.default_rng(seed))
        self.images, self.texts, self.pairs, self.how = images, texts, pairs, how
        self.scale = learned[SCALE]

    def epoch(self, optimizer: "torch.optim.Optimizer") -> None:
        """One pass over the pairs, or the batches that an epoch has at most."""
        import torch
        from tqdm import tqdm

        order = self.rng.permutation(len(self.pairs.rows))
        count = max(1, round(len(order) / self.how.pair_batch))
        for rows in tqdm(
            list(itertools.islice(np.array_split(order, count), self.how.steps)),
            desc="batches", unit="batch", leave=False, disable=None,
        ):  # fmt: skip
            optimizer.zero_grad()
            self.loss(rows).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                self.scale.clamp_(0, MOST_SCALE)

    def loss(self, rows: NDArray[np.int64]) -> "torch.Tensor":
        """Of some pairs (positions, int64 [b]), a scalar."""
        import torch

        device = self.scale.device
        numbers, place = np.unique(self.pairs.same[rows], return_inverse=True)
        with autocast(device):
            image = self.images(rows)
            text = self.texts(torch.from_numpy(numbers).to(device))[torch.from_numpy(place).to(device)]
        unit = torch.nn.functional.normalize
        logits = self.scale.exp() * unit(image.float(), dim=1) @ unit(text.float(), dim=1).T
        return contrastive(logits, torch.from_numpy(self.pairs.same[rows]).to(device))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What was trained; a single number as an array of one, as a file holds it."""
        return {n: np.atleast_1d(value.detach().cpu().numpy()).copy() for n, value in self.learned.items()}
