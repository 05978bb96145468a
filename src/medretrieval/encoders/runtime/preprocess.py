"""Images to what a model is fed: exactly what its transform gives, in less time.

The transform is the checkpoint's own, or (`whole`) that without its crop.

Nearly all of a transform's time goes into tensors of one image each. So its geometry (resize, crop) runs
image by image on Pillow's pixels as it is, a gray image as one channel, and the rest on uint8 batches.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL import Image

BATCHED = "uint8 batches, version 1"  # raised when the same images would come out otherwise
SINGLE = "image by image"
MAX_ROUNDING = 1e-5  # of normalized values, which are of the order of 1: rounding of float32
# Steps between geometry and normalization: images are RGB already, and `normalize` scales them to [0, 1].
TO_RGB = ("MaybeConvertMode", "_convert_to_rgb")
TO_TENSOR = ("MaybeToTensor", "ToTensor")
# The steps of torchvision, timm, open_clip and `steps` that resize, those that crop or pad, and those that
# change values where they are.
RESIZES = ("Resize", "ResizeKeepRatio", "ResizeMaxSize")
CROPS = ("CenterCrop", "CenterCropOrPad", "PadSquare", "CropSquare")
VALUES = ("Gray", "Stretch")

Transform = Callable[["Image.Image"], "torch.Tensor"]
Raw = TypeVar("Raw")
Ready = TypeVar("Ready")


@dataclass(frozen=True)
class Preprocess:
    """A transform, over batches.

    Attributes:
        transform: of one RGB image.
        geometry: its steps from image to image; None where it has steps in an order that is not known,
            and runs as it is, image by image.
        mean: of the normalization, one a channel, in [0, 1].
        std: likewise.
    """

    transform: Transform
    geometry: tuple[Callable[["Image.Image"], "Image.Image"], ...] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def implementation(self) -> str:
        """For the key of the embeddings: the two ways may differ in the last bits."""
        return SINGLE if self.geometry is None else BATCHED

    def __call__(self, images: NDArray[np.uint8]) -> "torch.Tensor":
        """Prepare a batch.

        Args:
            images: uint8 [n, height, width] or [n, height, width, 3].

        Returns:
            uint8 [n, 1 or 3, h, w], to go through `normalize`; where image by image, float32 [n, 3, h, w]
            and normalized.
        """
        import torch

        if self.geometry is None:
            return single(self.transform, images)
        pixels = np.stack([self._placed(image) for image in images])
        return torch.from_numpy(pixels[:, None] if images.ndim == 3 else pixels.transpose(0, 3, 1, 2).copy())

    def _placed(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        picture = Image.fromarray(image)
        for step in self.geometry or ():
            picture = step(picture)
        return np.asarray(picture)

    def normalize(self, batch: "torch.Tensor") -> "torch.Tensor":
        """The model's input (float32 [n, 3, h, w]) of what a call gave, on the batch's device."""
        import torch

        if self.geometry is None:
            return batch
        std = torch.tensor(self.std, device=batch.device).view(-1, 1, 1)
        mean = torch.tensor(self.mean, device=batch.device).view(-1, 1, 1)
        return batch.float() * (1 / (255 * std)) - mean / std


def single(transform: Transform, images: NDArray[np.uint8]) -> "torch.Tensor":
    """The transform's own output, image by image (float32 [n, 3, h, w])."""
    import torch
    from PIL import Image

    return torch.stack([transform(Image.fromarray(image).convert("RGB")) for image in images])


def whole(transform: Any) -> Transform:
    """The transform with its resize and crop replaced by a resize of the whole image to the model's size.

    Interpolation, antialiasing, changes of values and all that follows stay. A square image that the
    transform shows whole comes out as before; one that is no square is stretched.

    Args:
        transform: torchvision's Compose, of one RGB image.

    Raises:
        UserError: its steps from image to image are not one resize and crops or padding.
    """
    from PIL import Image
    from torchvision.transforms import Compose, Resize

    steps, names = _steps(transform)
    first = names[: _tensor_place(names)]
    places = [i for i, name in enumerate(first) if name not in (*TO_RGB, *VALUES)]
    values = [i for i, name in enumerate(first) if name in VALUES]
    resizes = [steps[i] for i in places if names[i] in RESIZES]
    if len(resizes) != 1 or any(names[i] not in (*RESIZES, *CROPS) for i in places):
        raise UserError(
            f"encoder.view=whole: the steps of the checkpoint's transform ({', '.join(names) or 'unknown'}) "
            "are not a resize, a crop or padding, and a normalization, so that none can be left out; set "
            "encoder.view=checkpoint"
        )
    picture = Image.new("RGB", (32, 32))
    for i in places:
        picture = steps[i](picture)
    (resize,), antialias = resizes, getattr(resizes[0], "antialias", True)
    squeeze = Resize(picture.size[::-1], resize.interpolation, antialias=antialias)
    rest = [step for i, step in enumerate(steps) if i not in (*places, *values)]
    return Compose([*(steps[i] for i in values), squeeze, *rest])


def vectorize(transform: Transform) -> Preprocess:
    """The transform over batches where its steps are known and a trial agrees, else image by image."""
    batched = _known_steps(transform)
    return batched if batched is not None and _agrees(batched) else Preprocess(transform)


def _known_steps(transform: Any) -> Preprocess | None:
    """The batched form of geometry, conversion and normalization in this order; None for anything else."""
    from torchvision.transforms import Normalize

    steps, names = _steps(transform)
    to_tensor = _tensor_place(names)
    if len(steps) != to_tensor + 2 or not isinstance(steps[-1], Normalize):
        return None
    mean, std = (tuple(np.asarray(v, np.float64).tolist()) for v in (steps[-1].mean, steps[-1].std))
    if not len(mean) == len(std) == 3:
        return None
    geometry = (s for s, name in zip(steps[:to_tensor], names, strict=False) if name not in TO_RGB)
    return Preprocess(transform, tuple(geometry), mean, std)


def _steps(transform: Any) -> tuple[list[Any], list[str]]:
    """The steps of a transform and their names; none of one that is no Compose."""
    steps = list(getattr(transform, "transforms", []))
    return steps, [getattr(step, "__name__", type(step).__name__) for step in steps]


def _tensor_place(names: Sequence[str]) -> int:
    """The first step that gives a tensor; the number of steps where none does."""
    return next((i for i, name in enumerate(names) if name in TO_TENSOR), len(names))


def _agrees(preprocess: Preprocess) -> bool:
    """Whether gray and RGB images, smaller and larger than the model's, come out as the transform's own.

    Steps are known by their names and need not take gray images, so it is tried.
    """
    rng = np.random.default_rng(0)
    for shape in ((1, 28, 28), (1, 330, 257), (1, 28, 28, 3), (1, 257, 330, 3)):
        images = rng.integers(0, 256, shape).astype(np.uint8)
        try:
            ours = preprocess.normalize(preprocess(images))
            theirs = single(preprocess.transform, images)
        except Exception:  # a step made for RGB raises anything on a gray image
            return False
        if ours.shape[-2:] != theirs.shape[-2:] or (ours - theirs).abs().max() > MAX_ROUNDING:
            return False
    return True


def ahead(
    prepare: Callable[[Raw], Ready], items: Iterable[Raw], threads: int
) -> Generator[Ready, None, None]:
    """`prepare` of each item, in order, made by threads up to `threads` + 1 items in advance."""
    pool, waiting = ThreadPoolExecutor(threads, "prepare"), deque[Any]()
    try:
        for item in items:
            waiting.append(pool.submit(prepare, item))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
