"""Datasets as a user would add them: such as `_target_: tests.toy_datasets.Captioned`."""

import dataclasses

import numpy as np
from tests.toy_encoders import numbered

from medretrieval.datasets.base import Split
from medretrieval.datasets.phantom import ChestPhantom


class Captioned(ChestPhantom):
    """Images with their number in their first pixels and in their caption, "a scan, 17".

    Attributes:
        silent: of so many images the last one has a caption of spaces; 0 for none.
        alike: so many images in a row have the caption of the first of them.
        patients: so many images in a row are of one patient; 0: nobody knows the patients.
    """

    def __init__(self, *, silent=0, alike=1, patients=0, **settings):
        super().__init__(**settings)
        self.silent, self.alike, self.patients = silent, alike, patients

    def load(self, split):
        count = self.counts[split]
        number = np.arange(count)
        captions = [f"a scan, {i // self.alike * self.alike}" for i in number]
        if self.silent:
            captions[self.silent - 1 :: self.silent] = [" "] * len(captions[self.silent - 1 :: self.silent])
        groups = np.array([f"p{i // self.patients}" for i in number]) if self.patients else None
        labels = np.random.default_rng(0).integers(0, 5, count)
        images = numbered(number, side=self.size)
        return Split(split, images, labels, tuple(captions), groups=groups)


class Patients(ChestPhantom):
    """Phantoms of patients with two images each; some patients have images in several splits.

    Metadata: `sex` (one value a patient, the last one unknown), `age` (a number, one a patient), `view` (one
    value an image) and `site` (of the classes in turn, but for one image in four).
    """

    def load(self, split):
        plain = super().load(split)
        n = len(plain)
        patients = np.arange(n) // 2
        rng = np.random.default_rng(len(split))
        sex = np.array(["F", "M"])[patients % 2]
        sex[patients == patients.max()] = ""
        labels = plain.labels if plain.labels.ndim == 1 else plain.labels.argmax(axis=1)
        site = np.where(np.arange(n) % 4 > 0, labels % 2, rng.integers(0, 2, n))
        return dataclasses.replace(
            plain,
            groups=np.array([f"p{i}" for i in patients]),
            metadata={
                "sex": sex,
                "age": (20 + patients % 60).astype(str),
                "view": np.array(["PA", "AP"])[rng.integers(0, 2, n)],
                "site": np.array(["north", "south"])[site],
            },
        )


class Retold(ChestPhantom):
    """Phantoms of patients with two images each, whose captions are changed.

    Attributes:
        of: the split whose captions are changed; the others keep theirs.
        said: what all its captions say then.
    """

    def __init__(self, *, of="", said="", **settings):
        super().__init__(**settings)
        self.of, self.said = of, said

    def load(self, split):
        plain = super().load(split)
        captions = (self.said,) * len(plain) if split == self.of else plain.captions
        groups = np.array([f"{split}{i // 2}" for i in range(len(plain))])
        return dataclasses.replace(plain, captions=captions, groups=groups)
