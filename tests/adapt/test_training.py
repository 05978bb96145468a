"""A training that is killed goes on where it was and ends as one that was not."""

import numpy as np
import pytest
from tests.adapt.test_heads import PLAIN, data_of

from medretrieval import run
from medretrieval.adapt import training
from medretrieval.adapt.checkpoint import Checkpoint, State
from medretrieval.adapt.heads import LinearHead
from medretrieval.adapt.losses import LOSSES


class Killed(Exception):  # noqa: N818  # in the place of a signal
    """In the place of a signal."""


def resumable(data, folder):
    from dataclasses import replace

    return replace(data, state_folder=folder)


def dying(data, after):
    """Data whose judge ends the process at its look `after`."""
    from dataclasses import replace

    looks = []

    def judge(tensors):
        looks.append(None)
        if len(looks) == after:
            raise Killed
        return data.judge(tensors)

    return replace(data, judge=judge)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_killed_training_ends_as_one_that_was_not(tmp_path, monkeypatch, loss):
    pytest.importorskip("pytorch_metric_learning")
    monkeypatch.setattr(training, "WRITE_EVERY_S", 0.0)
    head = LinearHead(**(PLAIN | {"loss": loss, "epochs": 8}))
    choice = head.choices()[0]
    whole = head.fit(data_of(head), choice, 3)
    data = resumable(data_of(head), tmp_path / "state")
    for after in (3, 1):  # at the third look, and at once when started again
        with pytest.raises(Killed):
            head.fit(dying(data, after), choice, 3)
    looks = []
    resumed = head.fit(resumable(data_of(head, looks), tmp_path / "state"), choice, 3)
    assert 0 < len(looks) <= 2
    assert set(resumed) == set(whole)
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value)


def test_a_finished_training_is_not_done_again_and_another_seed_has_its_own_state(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "WRITE_EVERY_S", 0.0)
    head, looks = LinearHead(**PLAIN), []
    choice, data = head.choices()[0], resumable(data_of(head, looks), tmp_path)
    first = head.fit(data, choice, 0)
    seen = len(looks)
    np.testing.assert_array_equal(head.fit(data, choice, 0)["0.weight"], first["0.weight"])
    assert len(looks) == seen
    head.fit(data, choice, 1)
    assert len(looks) > seen
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_checkpoint_is_said_and_training_begins_anew(tmp_path, caplog):
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    assert checkpoint.read() is None
    checkpoint.write(State({"weights/a": np.ones(2, np.float32)}, {"epoch": 1}))
    assert checkpoint.read().about == {"epoch": 1}
    checkpoint.path.write_bytes(b"half")
    assert checkpoint.read() is None
    assert "begins anew" in caplog.text


def test_the_device_is_in_no_signature():
    here, there = (LinearHead(**(PLAIN | {"device": device})) for device in ("cpu", "cuda"))
    assert here.signature() == there.signature()


def test_a_run_leaves_no_state_behind(write_npz, config, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "WRITE_EVERY_S", 0.0)
    write_npz(n=40)
    words = ("dataset=breastmnist", "encoder=pixels", "encoder.side=7", "evaluation.ks=[1,3]")
    head = ("adapt=linear_head", "adapt.dim=4", "adapt.epochs=2", "adapt.refits=1")
    run(config(*words, *head, "adapt.learning_rate=0.01", "audit.enabled=false"))
    assert list((tmp_path / "cache" / "adaptations").glob("*/*")) != []
    assert list((tmp_path / "cache" / "adaptations").glob("*/*.training")) == []
