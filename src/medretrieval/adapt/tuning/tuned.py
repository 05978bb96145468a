"""The encoder after tuning: its front as before, kept in the cache, and last blocks with other weights."""

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.tuning.tower import Tower, call, part, require_same, tower_of
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import ComposedEncoder, Tensors
from medretrieval.encoders.runtime.fidelity import trial_images
from medretrieval.encoders.runtime.preprocess import single
from medretrieval.encoders.torch_model import TorchEncoder
from medretrieval.errors import UserError
from medretrieval.vectors import l2_normalize

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
TAIL_IMAGES = 32  # images that the last blocks take at a time


class Front(Encoder):
    """An encoder up to its last blocks: what the first of these reads is its vector.

    It runs as the encoder itself does, on the same runtime, and its vectors are kept in the cache as those of
    any encoder, memory-mapped: tuning, judging and embedding read them there.

    Args:
        base: the encoder.
        last: how many blocks are left away.

    Raises:
        UserError: no encoder of timm or open_clip.
    """

    def __init__(self, base: Encoder, last: int) -> None:
        super().__init__(base.name, base.batch_size)
        if not isinstance(base, TorchEncoder):
            raise UserError(
                f"encoder={base.name}: has no blocks that can be trained; tune a model of timm or open_clip, "
                "or use adapt=linear_head, which trains on the vectors"
            )
        self.base, self.last = base, last
        self.view, self.random_weights, self.card = base.view, base.random_weights, base.card

    def signature(self) -> dict[str, Any]:
        """The encoder's, and how many blocks are left away."""
        return {"kind": "front", "without_last": self.last, "of": self.base.signature()}

    def identity(self) -> dict[str, Any]:
        """The encoder's, and how many blocks are left away; loads the model."""
        return {"kind": "front", "without_last": self.last, "of": self.inner.identity()}

    @functools.cached_property
    def tower(self) -> Tower:
        """The model, cut; loads it.

        Raises:
            UserError: a model that cannot be cut there.
        """
        loaded, what = self.base.loaded, f"encoder={self.name}"
        tower = tower_of(loaded.module, what)
        tower.require_blocks(self.last)
        require_same(tower, loaded.features, self._trial(), self.last, what)
        return tower

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Of what the first of the last blocks reads of one image."""
        import torch

        with torch.inference_mode():
            return tuple(self.tower.unflattened(self._trial(), self.last).shape[1:])

    def _trial(self) -> "torch.Tensor":
        """Pixels of one image, on the model's device (float32 [1, 3, h, w])."""
        device = next(self.base.loaded.module.parameters()).device
        return single(self.base.loaded.transform, trial_images()[:1]).to(device)

    @functools.cached_property
    def inner(self) -> TorchEncoder:
        """The encoder with the front in the place of the whole model."""
        tower, last = self.tower, self.last
        inner = copy.copy(self.base)
        for made in ("_chosen", "_preprocess"):  # of the whole model
            inner.__dict__.pop(made, None)
        inner.loaded = replace(
            self.base.loaded, features=lambda pixels: tower.front(pixels, last), pooling="none"
        )
        inner.normalize = False
        return inner

    def encode(self, images: NDArray[np.uint8]) -> Floats:
        """What the first of the last blocks reads, float32 [n, numbers]."""
        return self.inner.encode(images)

    def stream(self, images: NDArray[np.uint8]) -> Iterator[Floats]:
        """As Encoder.stream."""
        return self.inner.stream(images)

    def unseen(self, height: int, width: int) -> float | None:
        """As the encoder's."""
        return self.base.unseen(height, width)

    def here(self) -> tuple[bool, str]:
        """As the encoder's."""
        return self.base.here()

    def fidelity(self, images: NDArray[np.uint8]) -> dict[str, Any] | None:
        """As Encoder.fidelity, of the front."""
        return self.inner.fidelity(images)


class Tuned(Protocol):
    """What a tuned encoder has to know of the adaptation that made it."""

    name: str
    serves_text: bool

    def weights(self, module: "torch.nn.Module", tower: Tower, fitted: Tensors) -> dict[str, "torch.Tensor"]:
        """The weights that take the place of the model's own, under the names of its state dict.

        Args:
            module: the model.
            tower: its image tower.
            fitted: what was fitted.

        Raises:
            UserError: a tensor that is missing, left over or of another shape, by name.
        """
        ...


class TunedEncoder(ComposedEncoder):
    """An encoder whose last blocks were trained; they run on torch in fp32.

    Args:
        front: the encoder before, up to its last blocks.
        tuning: what was trained, and how its tensors become weights.
        fitted: these tensors.
        digest: SHA-256 of them, part of the identity.
    """

    def __init__(self, front: Front, tuning: Tuned, fitted: Tensors, digest: str) -> None:
        super().__init__(front.name, (front,), front.batch_size)
        self.front = front
        self.tuning, self.fitted, self.digest = tuning, fitted, digest

    def settings(self) -> dict[str, Any]:
        """What was fitted, and how its last blocks run."""
        kind = type(self.tuning)
        return {
            "kind": "tuned",
            "adaptation": f"{kind.__module__}.{kind.__qualname__}",
            "fitted": self.digest,
            "normalize": self.front.base.normalize,
            "last_blocks": "torch fp32",
        }

    @functools.cached_property
    def weights(self) -> Mapping[str, "torch.Tensor"]:
        """The trained weights, on the model's device."""
        tower = self.front.tower
        device = next(tower.module.parameters()).device
        made = self.tuning.weights(tower.module, tower, self.fitted)
        return {name: tensor.to(device) for name, tensor in made.items()}

    def combine(self, vectors: Sequence[Floats]) -> Floats:
        """The last blocks on what the front gives."""
        import torch

        tower, last, done = self.front.tower, self.front.last, []
        device = next(tower.module.parameters()).device
        tail = part(tower.module, lambda module, x: tower.tail(module, x, last))
        activations = vectors[0]
        with torch.inference_mode():
            for begin in range(0, len(activations), TAIL_IMAGES):
                x = as_read(activations[begin : begin + TAIL_IMAGES], self.front.shape).to(device)
                done.append(call(tail, self.weights, x).float().cpu().numpy())
        found = np.concatenate(done)
        return l2_normalize(found) if self.front.base.normalize else found

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """As Encoder.encode_text, by the tuned text tower.

        Raises:
            UserError: the text tower was not tuned with the image tower.
        """
        if not self.tuning.serves_text:
            raise UserError(
                f"adapt={self.tuning.name}: changes the image tower alone, and sentences cannot be compared "
                "with what it makes of images; set adapt=none"
            )
        return self._text_side.encode_text(texts)

    @functools.cached_property
    def _text_side(self) -> Encoder:
        """The encoder with a copy of the model that has the trained weights."""
        base = copy.copy(self.front.base)
        module = copy.deepcopy(base.loaded.module)
        module.load_state_dict(dict(self.weights), strict=False)
        base.loaded = replace(base.loaded, module=module)
        return base


def as_read(activations: Floats, shape: tuple[int, ...]) -> "torch.Tensor":
    """What the front gave of some images, as the first of the last blocks reads it."""
    import torch

    x = torch.from_numpy(np.array(activations, dtype=np.float32)).reshape(-1, *shape)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def require_names(fitted: Tensors, wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Refuse tensors that are not exactly those wanted.

    Args:
        fitted: what a file holds.
        wanted: name -> shape.
        what: names what they are for.

    Raises:
        UserError: the first that is missing, of another shape or left over, by name.
    """
    for name, shape in wanted.items():
        if name not in fitted:
            raise UserError(f"{what}: its file has no tensor {name!r}; give the file of this adaptation")
        if fitted[name].shape != shape:
            found = list(fitted[name].shape)
            raise UserError(
                f"{what}: {name!r} is {found} in its file and {list(shape)} in the model; give the file of "
                "this adaptation"
            )
    for name in fitted:
        if name not in wanted:
            raise UserError(f"{what}: its file also has {name!r}, which is no part of it")
