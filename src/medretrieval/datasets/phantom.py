"""Drawn chest radiographs: a data set that needs no download and whose every finding is known.

The drawing is in phantom_drawing.py; here is what makes it a dataset: splits, labels, captions, masks.
"""

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import SPLITS, Dataset, Split
from medretrieval.datasets.phantom_drawing import (
    CARDIOMEGALY,
    CLASSES,
    CLEAR,
    DIFFUSE,
    EFFUSION,
    FOCAL,
    Patient,
    radiograph,
    sample,
)
from medretrieval.errors import UserError

SIDES = {-1: "right", 1: "left"}
ZONES = ("upper", "mid", "lower")
_PHRASES = {
    CLEAR: (
        "Clear lungs, no focal lesion.",
        "Clear chest X-ray with a heart of normal size.",
        "Frontal radiograph with clear lung fields, normal findings.",
        "Clear and normal chest, no acute abnormality.",
    ),
    FOCAL: (
        "Chest X-ray with a {size} focal opacity in the {side} {zone} zone.",
        "{Size} focal opacity projecting over the {side} {zone} lung zone.",
        "A {size} focal opacity is seen in the {zone} zone of the {side} lung.",
        "Frontal radiograph: {side} {zone} zone focal opacity, {size}.",
    ),
    DIFFUSE: (
        "Chest X-ray with {texture} diffuse opacity of {lungs}.",
        "Diffuse opacity in {lungs}, {texture} pattern.",
        "Frontal radiograph: {texture} diffuse opacity throughout {lungs}.",
        "There is {texture} diffuse opacity affecting {lungs}.",
    ),
    EFFUSION: (
        "Chest X-ray with a {size} {side} pleural effusion.",
        "{Size} pleural effusion on the {side}.",
        "A {size} effusion blunts the {side} costophrenic angle.",
        "Frontal radiograph: {side} sided effusion, {size}.",
    ),
    CARDIOMEGALY: (
        "Chest X-ray with {grade} cardiomegaly.",
        "{Grade} cardiomegaly, the heart shadow is enlarged.",
        "Frontal radiograph: {grade} cardiomegaly with a raised cardiothoracic ratio.",
        "The heart is enlarged, {grade} cardiomegaly.",
    ),
}


def _caption(p: Patient, label: int) -> str:
    """A sentence that says the class, side, zone and extent of what is drawn."""
    words = {
        "side": SIDES[p.side],
        "zone": ZONES[p.zone],
        "size": ("small", "moderate", "large")[p.grade],
        "grade": ("mild", "moderate", "marked")[p.grade],
        "texture": "reticular" if p.reticular else "ground-glass",
        "lungs": "both lungs" if p.bilateral else f"the {SIDES[p.side]} lung",
    }
    words |= {name.capitalize(): word.capitalize() for name, word in words.items()}
    return _PHRASES[label][p.phrase].format(**words)


class ChestPhantom(Dataset):
    """Drawn frontal chest radiographs with one finding each, in five balanced classes.

    Image i of a split depends on (seed, split, i) alone: a larger split begins with the smaller one.
    Size changes the resolution, never the patient; difficulty changes how much patients differ and
    how faint findings are, never which finding, side or sentence an image has.

    Attributes:
        difficulty: 0 (trivially separable) to 1 (findings invisible, retrieval at chance).
        seed: of all random numbers, 0 to 2**32 - 1.
        counts: number of images a split.
    """

    channels = 1

    def __init__(
        self,
        *,
        name: str,
        size: int,
        n_train: int,
        n_val: int,
        n_test: int,
        difficulty: float,
        seed: int,
        corrupt: str | None = None,
    ) -> None:
        """Check the settings; nothing is drawn yet.

        Args:
            name: short name of the data set.
            size: height and width in pixels, at least 16.
            n_train: number of training images, at least 0; n_val and n_test likewise.
            n_val: see n_train.
            n_test: see n_train.
            difficulty: in [0, 1].
            seed: in [0, 2**32).
            corrupt: what is done to query images, such as noise@3; None for nothing.

        Raises:
            UserError: a value is of the wrong type or out of range.
        """
        _check_whole("size", size, 16)
        for key, value in (("n_train", n_train), ("n_val", n_val), ("n_test", n_test)):
            _check_whole(key, value, 0)
        _check_whole("seed", seed, 0)
        # A larger seed would take two words of the seed sequence and could meet another image's.
        if seed >= 2**32:
            raise UserError(f"dataset.seed={seed}: must be less than 2**32")
        number = isinstance(difficulty, int | float) and not isinstance(difficulty, bool)
        if not number or not 0 <= difficulty <= 1:
            raise UserError(
                f"dataset.difficulty={difficulty}: must lie between 0 (trivially separable) and 1 (at chance)"
            )
        super().__init__(name, "single", CLASSES, size, corrupt=corrupt)
        self.difficulty = float(difficulty)
        self.seed = seed
        self.counts = dict(zip(SPLITS, (n_train, n_val, n_test), strict=True))

    def load(self, split: str) -> Split:
        """Draw one split.

        Args:
            split: "train", "val" or "test".

        Returns:
            images uint8 [n, size, size]; labels int64 [n], every five in a row being all classes
            in a random order; a caption an image; masks bool [n, size, size], empty for "clear" and
            at difficulty 1 telling where the invisible finding would be.

        Raises:
            UserError: there is no such split.
        """
        count = self.counts[_known(split)]
        images = np.empty((count, self.size, self.size), np.uint8)
        masks = np.empty((count, self.size, self.size), np.bool_)
        labels = self._labels(split, count)
        captions = []
        for i in range(count):
            images[i], masks[i], caption = self.draw(split, i, int(labels[i]))
            captions.append(caption)
        return Split(split, images, labels, tuple(captions), masks)

    def draw(self, split: str, index: int, label: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], str]:
        """Draw the patient of one image with any finding, so also with none or with another one.

        Args:
            split: "train", "val" or "test".
            index: number of the image in the split, may lie beyond its end.
            label: class number; CLEAR draws the same patient without the finding.

        Returns:
            image uint8 [size, size], mask bool [size, size], caption.

        Raises:
            UserError: there is no such split.
        """
        rng = self._rng(split, index, 0)
        patient = sample(rng, self.difficulty)
        image, mask = radiograph(patient, label, self.size, self.difficulty, rng)
        return image, mask, _caption(patient, label)

    def _labels(self, split: str, count: int) -> NDArray[np.int64]:
        """Class numbers int64 [count], each block of five a permutation of its own."""
        blocks = range(-(-count // len(CLASSES)))
        orders = [self._rng(split, block, 1).permutation(len(CLASSES)) for block in blocks]
        return np.concatenate([np.zeros(0, np.int64), *orders])[:count].astype(np.int64)

    def _rng(self, split: str, index: int, purpose: int) -> np.random.Generator:
        """A generator of its own for every image (purpose 0) and every block of labels (1)."""
        return np.random.default_rng((self.seed, SPLITS.index(_known(split)), index, purpose))


def _known(split: str) -> str:
    if split not in SPLITS:
        raise UserError(f"split {split!r}: must be one of {', '.join(SPLITS)}")
    return split


def _check_whole(key: str, value: object, least: int) -> None:
    """Raise UserError unless value is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"dataset.{key}={value}: must be a whole number of at least {least}")
