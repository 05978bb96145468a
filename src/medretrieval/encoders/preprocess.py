"""Images to what a model is fed: a whole batch at once where the checkpoint's transform is known.

Known steps (resize, centre crop, scale, normalise) run on uint8 batches; a grey image stays one channel
until it is resized. Values differ from the transform's own, one PIL image at a time, by rounding alone.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from PIL import Image

BATCHED = "uint8 batches, version 1"  # raised when the same images would come out otherwise
SINGLE = "image by image"
TOLERANCE = 3  # grey levels of 255: Pillow and torch round differently after each pass of a resize
# To RGB, which the images are by then, and to a tensor in [0, 1], which `normalise` sees to.
NOTHING_TO_DO = ("MaybeConvertMode", "_convert_to_rgb", "MaybeToTensor", "ToTensor")
AHEAD = 2  # batches prepared while the model runs

Transform = Callable[["Image.Image"], "torch.Tensor"]
Step = Callable[["torch.Tensor"], "torch.Tensor"]
Raw = TypeVar("Raw")
Ready = TypeVar("Ready")


@dataclass(frozen=True)
class Preprocess:
    """A checkpoint's transform, over batches.

    Attributes:
        transform: the checkpoint's own, of one RGB image.
        resize: (uint8 [n, c, h, w]) -> uint8 [n, c, side, side]; None where the transform holds steps that
            are not known, which then runs image by image.
        mean: of the normalisation, one a channel, in [0, 1].
        std: likewise.
    """

    transform: Transform
    resize: Step | None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def implementation(self) -> str:
        """For the key of the embeddings: the two ways differ in the last bits."""
        return BATCHED if self.resize else SINGLE

    def __call__(self, images: NDArray[np.uint8]) -> "torch.Tensor":
        """Prepare a batch.

        Args:
            images: uint8 [n, height, width] or [n, height, width, 3].

        Returns:
            uint8 [n, 1 or 3, h, w], to go through `normalise`; where image by image, float32 [n, 3, h, w]
            and normalised.
        """
        import torch

        if self.resize is None:
            return single(self.transform, images)
        channels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        batch = self.resize(torch.from_numpy(np.array(channels, order="C"))).numpy()
        # NumPy copies on this thread alone: torch would take the model's threads for it.
        return torch.from_numpy(
            np.array(np.broadcast_to(batch, (len(batch), 3, *batch.shape[2:])), order="C")
        )

    def normalise(self, batch: "torch.Tensor") -> "torch.Tensor":
        """The model's input (float32 [n, 3, h, w]) of what a call gave, on the batch's device."""
        import torch

        if self.resize is None:
            return batch
        std = torch.tensor(self.std, device=batch.device).view(-1, 1, 1)
        mean = torch.tensor(self.mean, device=batch.device).view(-1, 1, 1)
        return batch.float() * (1 / (255 * std)) - mean / std


def single(transform: Transform, images: NDArray[np.uint8]) -> "torch.Tensor":
    """The transform's own output, image by image (float32 [n, 3, h, w])."""
    import torch
    from PIL import Image

    return torch.stack([transform(Image.fromarray(image).convert("RGB")) for image in images])


def vectorise(transform: Transform) -> Preprocess:
    """The transform over batches where its steps are known and a trial agrees, else image by image."""
    found = _known_steps(transform)
    return found if found is not None and _agrees(found) else Preprocess(transform, None)


def _known_steps(transform: Any) -> Preprocess | None:
    """The batched form of resize, crop, scale and normalise in this order; None for anything else."""
    from torchvision.transforms import CenterCrop, Normalize, Resize

    steps: list[Step] = []
    for step in getattr(transform, "transforms", [None]):
        if isinstance(step, Normalize):
            mean, std = (tuple(np.asarray(v, np.float64).tolist()) for v in (step.mean, step.std))
            last = step is transform.transforms[-1]
            return Preprocess(transform, lambda b: _chain(steps, b), mean, std) if last else None
        if isinstance(step, Resize) and step.interpolation.value in ("bicubic", "bilinear"):
            steps.append(_resize(step))
        elif isinstance(step, CenterCrop):
            steps.append(_crop(step))
        elif getattr(step, "__name__", type(step).__name__) not in NOTHING_TO_DO:
            return None
    return None


def _resize(step: Any) -> Step:
    from torchvision.transforms.v2 import functional

    # Pillow always takes all pixels into account (antialias).
    return lambda batch: functional.resize(
        batch, step.size, interpolation=step.interpolation, max_size=step.max_size, antialias=True
    )


def _crop(step: Any) -> Step:
    from torchvision.transforms.v2 import functional

    return lambda batch: functional.center_crop(batch, step.size)


def _chain(steps: Iterable[Step], batch: "torch.Tensor") -> "torch.Tensor":
    for step in steps:
        batch = step(batch)
    return batch


def _agrees(preprocess: Preprocess) -> bool:
    """Whether a trial on both sides of the model's size comes out as the transform's own.

    Steps are known by their class, and a class may change what it does from one version to the next.
    """
    rng = np.random.default_rng(0)
    for shape in ((2, 28, 28), (1, 330, 257, 3)):
        images = rng.integers(0, 256, shape).astype(np.uint8)
        try:
            ours = preprocess.normalise(preprocess(images))
            theirs = single(preprocess.transform, images)
        except (RuntimeError, TypeError, ValueError):
            return False
        if ours.shape != theirs.shape or (ours - theirs).abs().max() > TOLERANCE / 255 / min(preprocess.std):
            return False
    return True


def ahead(prepare: Callable[[Raw], Ready], items: Iterable[Raw]) -> Generator[Ready, None, None]:
    """`prepare` of each item, in order, made by a thread of its own up to AHEAD items in advance."""
    pool, waiting = ThreadPoolExecutor(1, "prepare"), deque[Any]()
    try:
        for item in items:
            waiting.append(pool.submit(prepare, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
