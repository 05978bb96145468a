"""Corruptions of images, at severities 1 to 5: what a worse scanner, a hurry or an archive does to them.

Noise, blur, contrast, JPEG, motion and pixelate are those of Hendrycks & Dietterich 2019 (arXiv 1903.12261),
gamma is that of MedMNIST-C (Di Salvo et al. 2024, arXiv 2406.17536); rotation, shift and text are our own.

What is random (noise, a direction, a place) comes from the bytes of the image itself: an image is corrupted
in the same way whatever batch, split or run it is in, and in the same direction at every severity. Sums are
made element by element in a fixed order (no BLAS), so that batches and machines agree to the last bit.
"""

import functools
import hashlib
import io
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import UserError, suggestion

Images = NDArray[np.uint8]
Seeds = NDArray[np.uint64]

CORRUPTION_FORMAT = 1  # raised when the same image would be corrupted in another way
SEVERITIES = (1, 2, 3, 4, 5)
CHUNK_VALUES = 2**22  # of images that are corrupted at once: at most some 100 MB of memory
# Constants of the authors' own programs for images of these sides (CIFAR-10-C, Tiny ImageNet-C, ImageNet-C),
# a row each. Between these sides they are interpolated over the logarithm of the side, beyond them held: so
# images of 28 and of 224 pixels suffer as the authors wanted images of such sizes to suffer.
PUBLISHED_SIDES = (32, 64, 224)
PUBLISHED: dict[str, tuple[tuple[float, ...], ...]] = {
    # standard deviation, as a share of white
    "noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.04, 0.08, 0.12, 0.15, 0.18), (0.08, 0.12, 0.18, 0.26, 0.38)),
    # standard deviation, pixels
    "blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (0.5, 0.75, 1.0, 1.25, 1.5), (1, 2, 3, 4, 6)),
    # what is left of the difference to the mean
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)),
    # quality, as libjpeg counts it
    "jpeg": ((80, 65, 58, 50, 40), (65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
    # how far the smear reaches, and its standard deviation, pixels
    "motion radius": ((6, 6, 6, 8, 9), (10, 10, 10, 10, 12), (10, 15, 15, 15, 20)),
    "motion": ((1, 1.5, 2, 2, 2.5), (1, 1.5, 2, 2.5, 3), (3, 5, 8, 12, 15)),
    # share of the side that is left
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.9, 0.8, 0.7, 0.6, 0.5), (0.6, 0.5, 0.4, 0.3, 0.25)),
}
# The same at every side.
GAMMAS = (1.3, 1.4, 1.6, 1.8, 2.0)  # the exponent, or one divided by it: a coin decides
DEGREES = (5.0, 10.0, 15.0, 20.0, 30.0)  # to the left or to the right
SHIFTS = (0.04, 0.07, 0.11, 0.15, 0.20)  # of the side, in any direction; at least a pixel
# Lines of text, and how high a letter is, of the side. Their ink covers at most TEXT_SHARE of an image.
TEXTS = (
    (("L",), 0.16),
    (("PORTABLE",), 0.10),
    (("PORTABLE", "AP ERECT"), 0.10),
    (("PORTABLE", "12.05.2009"), 0.10),
    (("L PORTABLE", "12.05.2009", "AP ERECT"), 0.105),
)
TEXT_SHARE = 0.2
WHITE = 255
MAX_ANGLE = 45.0  # degrees that a motion is from the horizontal, at most
LEAST_WEIGHT = 1e-4  # of a part of a smear, below which it is left out


@dataclass(frozen=True)
class Corruption:
    """A corruption and how severe it is, written as noise@3.

    Attributes:
        name: one of `NAMES`.
        severity: 1 to 5.
    """

    name: str
    severity: int

    @classmethod
    def from_word(cls, word: str) -> "Corruption":
        """Read what dataset.corrupt says.

        Raises:
            UserError: no such corruption, or no severity of 1 to 5.

        >>> str(Corruption.from_word("noise@3"))
        'noise@3'
        """
        name, at, severity = str(word).partition("@")
        if name not in NAMES:
            raise UserError(
                f"dataset.corrupt={word}: no corruption {name!r}; {suggestion(name, NAMES)}"
                f"choose from: {', '.join(NAMES)}; with a severity, as in noise@3"
            )
        if not at or severity not in map(str, SEVERITIES):
            raise UserError(
                f"dataset.corrupt={word}: the severity is 1 to 5, as in {name}@3; null leaves the images as "
                "they are"
            )
        return cls(name, int(severity))

    def __str__(self) -> str:
        return f"{self.name}@{self.severity}"

    @property
    def moves(self) -> bool:
        """Whether what an image shows is somewhere else afterwards, so that masks move with it."""
        return self.name in MOVING


def corrupt(images: Images, corruption: Corruption) -> Images:
    """Corrupt images.

    Args:
        images: uint8 [n, h, w] or [n, h, w, 3].
        corruption: which, and how severe.

    Returns:
        The same shape and dtype.
    """
    chunks = list(corrupt_chunks(images, corruption))
    return np.concatenate(chunks) if chunks else images.copy()


def corrupt_chunks(images: Images, corruption: Corruption) -> Iterator[Images]:
    """The same, some images at a time: uint8 [m, h, w] or [m, h, w, 3], in order."""
    for chunk in _chunks(images):
        yield FUNCTIONS[corruption.name](images[chunk], corruption.severity, seeds_of(images[chunk]))


def move_masks(
    masks: NDArray[np.bool_], images: Images, corruption: Corruption
) -> Iterator[NDArray[np.bool_]]:
    """Masks where a corruption that moves has put what they are of, some at a time.

    Args:
        masks: bool [n, h, w].
        images: before they were corrupted, from which the directions come.
        corruption: one that moves.
    """
    for chunk in _chunks(images):
        white = masks[chunk].astype(np.uint8) * WHITE
        yield FUNCTIONS[corruption.name](white, corruption.severity, seeds_of(images[chunk])) > WHITE // 2


def _chunks(images: Images) -> Iterator[slice]:
    step = max(1, CHUNK_VALUES // max(1, images[:1].size))
    return (slice(begin, begin + step) for begin in range(0, len(images), step))


def seeds_of(images: Images) -> Seeds:
    """A number for each image, from its bytes (uint64 [n])."""
    digests = [hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8] for image in images]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def strength(table: str, severity: int, side: int) -> float:
    """A published constant for images of a side.

    >>> strength("blur", 3, 28), strength("blur", 3, 64), strength("blur", 3, 512)
    (0.7, 1.0, 3.0)
    """
    column = [row[severity - 1] for row in PUBLISHED[table]]
    return float(np.interp(np.log2(side), np.log2(PUBLISHED_SIDES), column))


def _side(images: Images) -> int:
    return min(images.shape[1:3])


def _rounded(values: NDArray[np.floating]) -> Images:
    return np.clip(np.rint(values), 0, WHITE).astype(np.uint8)


def random_words(seeds: Seeds, count: int) -> NDArray[np.uint64]:
    """Random numbers of 64 bits by SplitMix64 (Steele, Lea & Flood 2014), from seed and place alone.

    Args:
        seeds: uint64 [n].
        count: of numbers for each.

    Returns:
        uint64 [n, count].
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = seeds[:, None] + steps
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    words: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return words


def _uniform(seeds: Seeds, count: int) -> NDArray[np.float64]:
    """In [0, 1), float64 [n, count]."""
    return (random_words(seeds, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _coin(seeds: Seeds) -> NDArray[np.bool_]:
    return _uniform(seeds, 1)[:, 0] < 0.5


@functools.cache
def _normal_quantiles() -> NDArray[np.float32]:
    """The normal distribution as 65,536 equally likely values: the same numbers on every machine."""
    quantile = statistics.NormalDist().inv_cdf
    return np.array([quantile((i + 0.5) / 2**16) for i in range(2**16)], np.float32)


def noise(images: Images, severity: int, seeds: Seeds) -> Images:
    """Gaussian noise, of each pixel and channel by itself."""
    values = images[:1].size
    places = random_words(seeds, -(-values // 4)).astype("<u8").view("<u2")[:, :values]
    drawn = _normal_quantiles()[places].reshape(images.shape)
    return _rounded(images + np.float32(WHITE * strength("noise", severity, _side(images))) * drawn)


def blur(images: Images, severity: int, seeds: Seeds) -> Images:
    """A Gaussian blur, cut off at four standard deviations; beyond the edge an image goes on as its edge."""
    sigma = strength("blur", severity, _side(images))
    reach = int(4 * sigma + 0.5)
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    blurred = images.astype(np.float32)
    for axis in (1, 2):
        last = images.shape[axis] - 1
        taken = np.clip(steps[:, None] + np.arange(last + 1), 0, last)
        blurred = _weighted(blurred, axis, taken, np.broadcast_to(weights[:, None], taken.shape))
    return _rounded(blurred)


def _weighted(
    values: NDArray[np.float32], axis: int, taken: NDArray[np.intp], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Weighted sums along an axis: of the places `taken` [m, to] with their weights [m, to]."""
    shape = [1] * values.ndim
    shape[axis] = -1
    total = np.float32(0)
    for places, weight in zip(taken, weights, strict=True):
        total = total + np.take(values, places, axis) * weight.astype(np.float32).reshape(shape)
    return np.asarray(total)


def contrast(images: Images, severity: int, seeds: Seeds) -> Images:
    """Differences to the mean of the image, of each channel, made smaller."""
    means = images.sum(axis=(1, 2), keepdims=True, dtype=np.int64) / (images.shape[1] * images.shape[2])
    return _rounded((images - means) * strength("contrast", severity, _side(images)) + means)


def gamma(images: Images, severity: int, seeds: Seeds) -> Images:
    """Gray values to a power: every other image darker, the others brighter."""
    level = np.arange(WHITE + 1) / WHITE
    exponents = np.array([GAMMAS[severity - 1], 1 / GAMMAS[severity - 1]])
    tables = _rounded(WHITE * level ** exponents[:, None])
    return tables[_coin(seeds).astype(np.intp).reshape(-1, *[1] * (images.ndim - 1)), images]


def jpeg(images: Images, severity: int, seeds: Seeds) -> Images:
    """Written as JPEG and read again by Pillow, whose version decides on the last bits."""
    from PIL import Image

    quality = round(strength("jpeg", severity, _side(images)))

    def again(image: Images) -> Images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file), np.uint8)

    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it works
        return np.stack(list(pool.map(again, images)))


def motion(images: Images, severity: int, seeds: Seeds) -> Images:
    """A smear in one direction, up to 45 degrees from the horizontal, as ImageMagick's motion blur has it."""
    side = _side(images)
    steps = np.arange(2 * int(np.ceil(strength("motion radius", severity, side))) + 1)
    weights = np.exp(-(steps**2) / (2 * strength("motion", severity, side) ** 2))
    weights /= weights.sum()
    angles = np.radians(MAX_ANGLE * (2 * _uniform(seeds, 1)[:, 0] - 1))
    smeared = np.zeros(images.shape, np.float32)
    for step, weight in zip(steps, weights, strict=True):
        if weight >= LEAST_WEIGHT:
            smeared += np.float32(weight) * _moved(images, step * np.sin(angles), step * np.cos(angles))
    return _rounded(smeared / np.float32(weights[weights >= LEAST_WEIGHT].sum()))


def _moved(images: Images, down: NDArray[np.float64], right: NDArray[np.float64]) -> Images:
    """Each image moved by whole pixels ([n] each); what comes in at an edge is that edge."""
    height, width = images.shape[1:3]
    rows = np.clip(np.arange(height) - np.rint(down).astype(np.intp)[:, None], 0, height - 1)
    columns = np.clip(np.arange(width) - np.rint(right).astype(np.intp)[:, None], 0, width - 1)
    moved: Images = images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


def pixelate(images: Images, severity: int, seeds: Seeds) -> Images:
    """Fewer and larger pixels: means of areas, then the nearest of these."""
    share = strength("pixelate", severity, _side(images))
    pixels = images.astype(np.float32)
    for axis in (1, 2):
        side = images.shape[axis]
        small = max(1, int(side * share))
        nearest = ((np.arange(side) + 0.5) * small / side).astype(np.intp)
        pixels = np.take(_weighted(pixels, axis, *_areas(side, small)), nearest, axis)
    return _rounded(pixels)


def _areas(side: int, to: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which of `side` pixels each of `to` larger ones covers, and their shares of it: [m, to] each."""
    ends = np.arange(to + 1) * side / to
    first = ends[:-1].astype(np.intp)
    covered = first + np.arange(int(np.ceil(side / to)) + 1)[:, None]
    overlap = np.minimum(ends[1:], covered + 1) - np.maximum(ends[:-1], covered)
    return np.minimum(covered, side - 1), np.maximum(overlap, 0) * to / side


def rotation(images: Images, severity: int, seeds: Seeds) -> Images:
    """Turned about the center, to the left or to the right; corners go on as the edge."""
    turned, left = np.empty_like(images), _coin(seeds)
    for mine, degrees in ((left, DEGREES[severity - 1]), (~left, -DEGREES[severity - 1])):
        turned[mine] = _turned(images[mine], np.radians(degrees))
    return turned


def _turned(images: Images, angle: float) -> Images:
    """All images by one angle, between pixels by their four neighbors."""
    height, width = images.shape[1:3]
    middle = (height - 1) / 2, (width - 1) / 2
    y, x = np.meshgrid(np.arange(height) - middle[0], np.arange(width) - middle[1], indexing="ij")
    from_y = np.clip(np.cos(angle) * y + np.sin(angle) * x + middle[0], 0, height - 1)
    from_x = np.clip(np.cos(angle) * x - np.sin(angle) * y + middle[1], 0, width - 1)
    top, left = from_y.astype(np.intp), from_x.astype(np.intp)
    below, beside = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, right = from_y - top, from_x - left
    total = np.zeros(images.shape, np.float32)
    for row, of_row in ((top, 1 - down), (below, down)):
        for column, of_column in ((left, 1 - right), (beside, right)):
            share = (of_row * of_column).astype(np.float32)
            total += images[:, row, column] * share.reshape(*share.shape, *[1] * (images.ndim - 3))
    return _rounded(total)


def shift(images: Images, severity: int, seeds: Seeds) -> Images:
    """Moved in any direction; what comes in at an edge is that edge."""
    distance = max(1.0, np.rint(SHIFTS[severity - 1] * _side(images)))
    angles = 2 * np.pi * _uniform(seeds, 1)[:, 0]
    return _moved(images, distance * np.sin(angles), distance * np.cos(angles))


def text(images: Images, severity: int, seeds: Seeds) -> Images:
    """Letters burnt in as in radiographs, somewhere: white on a dark place, black on a bright one."""
    block = _letters(severity, _side(images))
    places = _uniform(seeds, 2)
    inside = []
    for axis in (0, 1):
        room = images.shape[1 + axis] - block.shape[axis] + 1
        begin = (places[:, axis] * room).astype(np.intp)
        offset = np.arange(images.shape[1 + axis]) - begin[:, None]
        inside.append(np.clip(offset, -1, block.shape[axis]) + 1)
    ink = np.pad(block, 1)[inside[0][:, :, None], inside[1][:, None, :]]
    gray = images if images.ndim == 3 else images.mean(axis=3)
    dark = (gray * ink).sum(axis=(1, 2)) < WHITE / 2 * ink.sum(axis=(1, 2))
    color = np.where(dark, WHITE, 0).astype(np.float32).reshape(-1, *[1] * (images.ndim - 1))
    ink = ink.reshape(*ink.shape, *[1] * (images.ndim - 3))
    return _rounded(images * (1 - ink) + color * ink)


@functools.cache
def _letters(severity: int, side: int) -> NDArray[np.float32]:
    """The text of a severity in Pillow's own bitmap font, float32 [h, w], 1 where there is ink."""
    from PIL import Image, ImageDraw, ImageFont

    lines, height = TEXTS[severity - 1]
    font = ImageFont.load_default_imagefont()
    drawn = Image.new("L", (side + 200, 100))
    ImageDraw.Draw(drawn).multiline_text((0, 0), "\n".join(lines), WHITE, font=font, spacing=1)
    box = drawn.getbbox()
    assert box is not None
    drawn = drawn.crop(box)
    letter = font.getmask("L").getbbox()
    times = height * side / (letter[3] - letter[1])
    size = (max(1, min(side, round(drawn.width * times))), max(1, min(side, round(drawn.height * times))))
    ink: NDArray[np.float32] = np.asarray(drawn.resize(size, Image.Resampling.BILINEAR), np.float32)
    return ink / np.float32(WHITE)


FUNCTIONS: dict[str, Callable[[Images, int, Seeds], Images]] = {
    function.__name__: function
    for function in (blur, contrast, gamma, jpeg, motion, noise, pixelate, rotation, shift, text)
}
NAMES = tuple(FUNCTIONS)
MOVING = ("motion", "rotation", "shift")
