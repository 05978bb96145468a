"""Drawn splits: groups stay together, classes are shared out, the seed alone decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medretrieval.datasets.base import SPLITS
from medretrieval.datasets.files.splits import assign, read_shares, shared_groups
from medretrieval.errors import UserError

SHARES = read_shares({"train": 0.7, "val": 0.1, "test": 0.2})


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    seed=st.integers(0, 5),
    patients=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_no_group_is_on_two_sides_and_every_image_is_on_one(labels, seed, patients):
    numbers = np.array(labels)
    groups = np.array([f"p{i * 7 % patients}" for i in range(len(labels))])
    splits = assign(numbers, groups, SHARES, seed)
    assert set(splits) <= set(SPLITS)
    assert shared_groups(groups, splits) == []
    assert (assign(numbers, groups, SHARES, seed) == splits).all()


def test_every_class_has_its_share_to_within_an_image():
    labels = np.repeat([0, 1, 2], [400, 100, 20])
    splits = assign(labels, None, SHARES, 0)
    for number, count in ((0, 400), (1, 100), (2, 20)):
        for split, share in zip(SPLITS, SHARES, strict=True):
            assert abs((splits[labels == number] == split).sum() - share * count) <= 1


def test_classes_of_patients_are_shared_out_too():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(300), rng.integers(1, 6, 300))
    labels = (patient % 5 == 0).astype(np.int64)  # a fifth of the patients
    splits = assign(labels, np.char.add("p", patient.astype(str)), SHARES, 0)
    for split, share in zip(SPLITS, SHARES, strict=True):
        inside = splits == split
        assert abs(inside.mean() - share) < 0.01
        assert abs(labels[inside].mean() - labels.mean()) < 0.02


def test_patients_of_many_images_are_shared_out_as_those_of_few():
    rng = np.random.default_rng(0)
    sizes = rng.choice([1, 1, 1, 2, 3, 6], 2000)
    patient = np.repeat(np.arange(len(sizes)), sizes)
    labels = (patient % 3 == 0).astype(np.int64)
    splits = assign(labels, patient.astype(str), SHARES, 0)
    for size in (1, 2, 3, 6):
        of_size = sizes[patient] == size
        for split, share in zip(SPLITS, SHARES, strict=True):
            assert abs((splits[of_size] == split).mean() - share) < 0.02


def test_findings_that_overlap_are_shared_out():
    labels = np.random.default_rng(0).random((500, 4)) < (0.5, 0.2, 0.1, 0.05)
    splits = assign(labels, None, SHARES, 0)
    for finding in labels.T:
        found = [(finding & (splits == split)).sum() for split in SPLITS]
        assert np.abs(np.array(found) - SHARES * finding.sum()).max() <= 2


def test_another_seed_draws_others_and_a_split_without_a_share_gets_nothing():
    labels = np.arange(100) % 2
    one, two = (assign(labels, None, read_shares({"train": 0.5, "test": 0.5}), seed) for seed in (0, 1))
    assert (one != two).any()
    assert set(one) == {"train", "test"}


@pytest.mark.parametrize(
    ("shares", "line"),
    [
        ({"train": 0.7, "test": 0.2}, r"dataset.shares: .* together 0.9; they must add up to 1"),
        ({"train": 0.7, "tset": 0.3}, r"dataset.shares.tset: no such split; choose from: train, val, test"),
        ({"train": 1.5, "test": -0.5}, r"dataset.shares.train=1.5: give a share from 0 to 1"),
        ({"train": True}, r"dataset.shares.train=True: give a share"),
        ({"train": "half"}, r"dataset.shares.train=half: give a share"),
    ],
)
def test_shares_that_cannot_be_meant_are_refused(shares, line):
    with pytest.raises(UserError, match=line):
        read_shares(shares)
