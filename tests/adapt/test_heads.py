"""Trained heads: what they learn, that it is the same each time, and that NumPy says what torch says."""

import numpy as np
import pytest
import torch

from medretrieval import run
from medretrieval.adapt.base import FitData
from medretrieval.adapt.heads import LinearHead, MlpHead
from medretrieval.adapt.linear import Center
from medretrieval.adapt.losses import LOSSES, PROXIES, batches
from medretrieval.datasets.base import Split
from medretrieval.encoders.baselines import PixelEncoder
from medretrieval.errors import UserError

CLASSES = ("a", "b", "c")
PLAIN = {
    "name": "head", "loss": "cross_entropy", "dim": 4, "learning_rate": 0.01, "weight_decay": 0.01,
    "epochs": 6, "patience": 9, "per_class": 8, "device": "cpu", "refits": 0, "seed": 0,
}  # fmt: skip


def drawn(n=240, d=12, seed=0):
    """Classes that differ in two directions, and vary far more in the others."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    vectors = rng.normal(size=(n, d)) * 4
    vectors[:, :2] = np.array([[0, 2], [2, -1], [-2, -1]])[labels] + rng.normal(size=(n, 2)) * 0.3
    return vectors.astype(np.float32), labels


def neighbors_of_own_class(vectors, labels):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T - 9 * np.eye(len(unit))
    return float((labels[likeness.argmax(axis=1)] == labels).mean())


def data_of(head, judged=None):
    vectors, labels = drawn()
    split = Split("train", np.zeros((len(labels), 1, 1), np.uint8), labels)
    new, of_new = drawn(seed=1)

    def judge(tensors):
        if judged is not None:
            judged.append(tensors)
        return neighbors_of_own_class(head.apply(tensors, new), of_new)

    return FitData(split, vectors, PixelEncoder("pixels", 1, False, 8), CLASSES, judge)


def made(kind=LinearHead, **options):
    return kind(**(PLAIN | ({"hidden": 16} if kind is MlpHead else {}) | options))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", [LinearHead, MlpHead])
def test_a_head_learns_what_separates_the_classes_and_holds_on_new_vectors(kind, loss):
    if loss != "cross_entropy":
        pytest.importorskip("pytorch_metric_learning")
    head = made(kind, loss=loss, epochs=20)
    fitted = head.fit(data_of(head), head.choices()[0], 0)
    new, labels = drawn(seed=2)
    assert neighbors_of_own_class(new, labels) < 0.6
    assert neighbors_of_own_class(head.apply(fitted, new), labels) > 0.85


@pytest.mark.parametrize("kind", [LinearHead, MlpHead])
def test_numpy_gives_what_the_torch_module_gives(kind):
    head = made(kind)
    fitted = head.fit(data_of(head), head.choices()[0], 0)
    module = head.head(12, head.choices()[0])
    module.load_state_dict({k: torch.from_numpy(v) for k, v in fitted.items() if k[0].isdigit()})
    vectors = drawn(seed=3)[0]
    with torch.inference_mode():
        theirs = module(torch.from_numpy((vectors - fitted["mean"]) / fitted["scale"])).numpy()
    np.testing.assert_allclose(head.apply(fitted, vectors), theirs, atol=1e-5)


def test_the_same_seed_gives_the_same_head_and_another_seed_another():
    head = made()
    data, choice = data_of(head), head.choices()[0]
    first, again, other = (head.fit(data, choice, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["0.weight"], again["0.weight"])
    assert not np.array_equal(first["0.weight"], other["0.weight"])


def test_the_proxies_of_a_loss_are_trained_and_kept():
    pytest.importorskip("pytorch_metric_learning")
    head = made(loss="proxy_anchor", learning_rate=0.1)
    data, choice = data_of(head), head.choices()[0]
    few, many = (
        made(loss="proxy_anchor", learning_rate=0.1, epochs=n, patience=99).fit(data, choice, 0)
        for n in (2, 12)
    )
    assert few[PROXIES].shape == (3, 4)
    assert np.abs(few[PROXIES] - many[PROXIES]).max() > 1e-3


def test_supcon_without_a_positive_pair_is_0_and_batches_always_have_one():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    vectors = torch.randn(3, 4)
    assert losses.SupConLoss()(vectors, torch.tensor([0, 1, 2])) == 0
    labels = np.array([0] * 50 + [1] * 3 + [2] * 7)
    found = list(batches(labels, 4, np.random.default_rng(0)))
    assert len(found) == 60 // 12
    assert all(np.array_equal(np.bincount(labels[rows]), [4, 4, 4]) for rows in found)


def test_training_stops_when_val_gets_no_better_and_keeps_the_best():
    head = made(epochs=100, patience=2)
    judged = []
    data = data_of(head, judged)
    fitted = head.fit(data, head.choices()[0], 0)
    assert len(judged) < 50
    scores = [data.judge(tensors) for tensors in judged[: len(judged)]]
    assert data.judge(fitted) == max(scores)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "hinge"}, "adapt.loss=hinge"),
        ({"dim": 0}, "adapt.dim=0"),
        ({"dim": [4, "a"]}, "adapt.dim=a"),
        ({"learning_rate": 0}, "adapt.learning_rate=0"),
        ({"weight_decay": -1}, "adapt.weight_decay=-1"),
        ({"epochs": 0}, "adapt.epochs=0"),
        ({"patience": 1.5}, "adapt.patience=1.5"),
        ({"per_class": 1}, "adapt.per_class=1"),
    ],
)
def test_values_that_cannot_be(options, said):
    with pytest.raises(UserError) as refused:
        made(**options)
    assert said in str(refused.value)


def test_a_training_that_leaves_all_bounds_is_said():
    head = made(learning_rate=1e30)
    with pytest.raises(UserError, match="left all bounds"):
        head.fit(data_of(head), head.choices()[0], 0)


def test_a_device_that_is_not_here_is_said():
    head = made(device="cuda:9")
    with pytest.raises(UserError, match="device=cuda:9: not available here"):
        head.fit(data_of(head), head.choices()[0], 0)


def test_a_run_with_a_head_says_what_a_run_with_a_closed_form_says(write_npz, config):
    write_npz(n=40)
    words = ("dataset=breastmnist", "encoder=pixels", "encoder.side=7", "evaluation.ks=[1,3]")
    head = ("adapt=mlp_head", "adapt.hidden=8", "adapt.dim=4", "adapt.epochs=2", "adapt.refits=1")
    report = run(config(*words, *head, "adapt.learning_rate=0.01", "audit.enabled=false")).report
    assert report.encoder.dimension == 4
    assert len(report.adapt.refits) == 1
    assert report.adapt.shuffled is not None
    assert report.adapt.out_of_fold is not None


def test_shuffled_labels_are_held_against_what_a_head_does_without_labels():
    """It subtracts the mean of train, which changes cosines whatever the labels are."""
    other = made().without_labels()
    assert isinstance(other, Center)
    data = data_of(other)
    centered = other.apply(other.fit(data, {}, 0), data.vectors)
    assert np.allclose(centered, data.vectors - data.vectors.mean(axis=0), atol=1e-5)
