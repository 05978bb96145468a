"""Datasets with patients and metadata, as a user would add them: `_target_: tests.toy_datasets.Patients`."""

import dataclasses

import numpy as np

from medretrieval.datasets.phantom import ChestPhantom


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
