"""Both towers of a CLIP trained on captions: open_clip's own loss and text tower, strict files, resumed."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import NO_PICTURES
from tests.encoders.test_train_phantom_clip import encoder_of

from medretrieval import run
from medretrieval.adapt import training
from medretrieval.adapt.base import FitData
from medretrieval.adapt.fit import Fitting, read_tensors, write_tensors
from medretrieval.adapt.stage import adaptation_of
from medretrieval.adapt.tuning.captions import ClipCaptions, Pairs, _PairRun, shuffled_captions, text_names
from medretrieval.checks import check
from medretrieval.datasets.base import Split
from medretrieval.datasets.phantom import ChestPhantom
from medretrieval.encoders import train_phantom_clip
from medretrieval.errors import UserError
from medretrieval.load import load
from medretrieval.query.search import SearchableRun
from medretrieval.verify import verify

PLAIN = {
    "name": "clip_captions", "blocks": 1, "learning_rate": 0.001, "weight_decay": 0.01, "epochs": 2,
    "steps": 2, "patience": 9, "pair_batch": 8, "device": "cpu", "refits": 0, "seed": 0,
}  # fmt: skip
TEXTS = ["A small effusion.", "Clear lungs."]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("outputs") / "phantom_clip"
    train_phantom_clip.write(train_phantom_clip.CLIP(**train_phantom_clip.MODEL), folder)
    return folder


@pytest.fixture(scope="module")
def train():
    phantom = ChestPhantom(
        name="chest_phantom", size=64, n_train=24, n_val=8, n_test=8, difficulty=0.5, seed=0
    )
    return phantom.load("train")


def data_of(encoder, split):
    def embedded(other):
        return np.concatenate(list(other.stream(split.images)))

    def judge(tensors):
        return float(sum(np.abs(value).sum() for value in tensors.values()))

    return FitData(split, embedded(encoder), encoder, ("a", "b"), judge, embed=embedded)


def test_the_loss_is_that_of_open_clip_and_the_tuned_encoder_is_the_whole_model_with_its_weights(
    model, train
):
    from open_clip.loss import ClipLoss

    encoder, tuning = encoder_of(model, "encoder.device=cpu"), ClipCaptions(**PLAIN)
    before = copy.deepcopy(encoder.loaded.module.state_dict())
    seen = []

    class Watched(_PairRun):
        def loss(self, rows):
            seen.append((rows, super().loss(rows)))
            return seen[-1][1]

    data = data_of(encoder, replace(train, captions=tuple(f"{i} {c}" for i, c in enumerate(train.captions))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medretrieval.adapt.tuning.captions._PairRun", Watched)
        fitted = tuning.fit(data, tuning.choices()[0], 0)
    rows, ours = seen[0]
    module = encoder.loaded.module
    with torch.no_grad():
        text = module.encode_text(encoder.tokens([data.split.captions[i] for i in rows]), normalize=True)
        image = torch.from_numpy(data.vectors[rows])
        theirs = ClipLoss()(image, text, module.logit_scale.exp())
    torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-5)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)

    tuned = tuning.adapted(encoder, fitted, "d")
    whole = copy.deepcopy(module)
    state = {n: torch.from_numpy(v).reshape(before[n].shape) for n, v in fitted.items()}
    whole.load_state_dict(before | state)
    with torch.no_grad():
        text = whole.encode_text(encoder.tokens(TEXTS), normalize=True).numpy()
    np.testing.assert_allclose(tuned.encode_text(TEXTS), text, atol=1e-5)
    assert np.abs(tuned.encode_text(TEXTS) - encoder.encode_text(TEXTS)).max() > 1e-3
    other = encoder_of(model, "encoder.device=cpu")
    other.__dict__["loaded"] = replace(encoder.loaded, module=whole, features=whole.encode_image)
    np.testing.assert_allclose(tuned.encode(train.images), other.encode(train.images), atol=1e-5)
    trained = {name.split(".")[0] for name in fitted}
    assert trained == {"visual", "transformer", "ln_final", "text_projection", "logit_scale"}
    assert all(".resblocks.0." not in name for name in fitted)


def test_a_killed_training_ends_as_one_that_was_not(model, train, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "WRITE_EVERY_S", 0.0)
    encoder, tuning = (
        encoder_of(model, "encoder.device=cpu"),
        ClipCaptions(**(PLAIN | {"epochs": 3, "steps": 1})),
    )
    data, choice = data_of(encoder, train), tuning.choices()[0]
    whole = tuning.fit(data, choice, 0)
    looks = []

    def dies(tensors):
        looks.append(None)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return data.judge(tensors)

    with pytest.raises(KeyboardInterrupt):
        tuning.fit(replace(data, judge=dies, state_folder=tmp_path), choice, 0)
    resumed = tuning.fit(replace(data, state_folder=tmp_path), choice, 0)
    for name, value in whole.items():
        np.testing.assert_allclose(resumed[name], value, atol=1e-6)


SMALL = (
    "dataset=chest_phantom", "dataset.n_train=24", "dataset.n_val=12", "dataset.n_test=12",
    "encoder=phantom_clip", "encoder.runtime=torch", "encoder.device=cpu", "evaluation.ks=[1,3]",
    "audit.enabled=false", NO_PICTURES,
)  # fmt: skip
TUNE = (
    "adapt=clip_captions", "adapt.epochs=1", "adapt.steps=1", "adapt.pair_batch=8",
    "adapt.learning_rate=0.001", "adapt.refits=1",
)  # fmt: skip


def test_captions_that_ask_are_judged_on_val_controlled_kept_and_answered(config, model, tmp_path):
    places = (f"encoder.model=local-dir:{model}", f"encoder.checkpoint={model}/open_clip_model.safetensors")
    asks = ("protocol=text_to_image", "prompts=captions")
    done = run(config(*SMALL, *places, *asks, *TUNE))
    found = done.report.adapt
    assert (found.uses_labels, len(found.refits), found.pixels, found.out_of_fold) == (False, 1, None, None)
    assert found.shuffled is not None
    assert done.report.stages[0].choice == "clip_captions"
    assert done.report.stages[0].change is not None
    assert verify(done.folder) == []
    encoder, changed = SearchableRun.open(done.folder).encoder()
    assert changed == []
    assert encoder.encode_text(TEXTS).shape == (2, encoder.encode(np.zeros((1, 64, 64), np.uint8)).shape[1])

    file = done.folder / "adaptation.safetensors"
    again = run(config(*SMALL, *places, *asks, "adapt=saved", f"adapt.file={file}"))
    assert again.report.scores == done.report.scores

    tensors, about = read_tensors(file)
    write_tensors(tmp_path / "bad.safetensors", tensors | {"visual.extra": np.zeros(2, np.float32)}, about)
    with pytest.raises(UserError, match=r"also has 'visual\.extra'"):
        run(config(*SMALL, *places, "adapt=saved", f"adapt.file={tmp_path / 'bad.safetensors'}"))


def test_a_fit_is_known_by_who_chose_it_on_val(config, model, cache):
    places = (f"encoder.model=local-dir:{model}", f"encoder.checkpoint={model}/open_clip_model.safetensors")
    known, others = [], []
    for asks in (("protocol=leave_one_out",), ("protocol=text_to_image", "prompts=captions")):
        chosen = check(config(*SMALL, *places, *asks, *TUNE, "evaluation.objective=recall_at_3"))
        parts = Fitting(chosen, load(chosen, cache), cache).parts(adaptation_of(chosen))
        known.append(parts.pop("judge"))
        others.append(parts)
    assert others[0] == others[1]
    assert known[0] != known[1]
    assert [judge["gallery"] for judge in known] == ["val", "val"]


def test_what_cannot_be_trained_on_captions_is_refused_before_any_work(config, write_npz, model):
    write_npz(n=24)
    with pytest.raises(UserError, match=r"adapt=clip_captions: .*split train has no image with one"):
        run(config("dataset=breastmnist", "encoder=pixels", "evaluation.ks=[1]", "adapt=clip_captions"))
    with pytest.raises(UserError, match="encoder=pixels is no model of open_clip; adapt=last_blocks"):
        run(
            config(
                "dataset=chest_phantom",
                "dataset.n_train=24",
                "dataset.n_val=12",
                "dataset.n_test=12",
                "encoder=pixels",
                "evaluation.ks=[1,3]",
                *TUNE,
            )
        )
    module = encoder_of(model).loaded.module
    with pytest.raises(UserError, match=r"adapt\.blocks=99: the text tower has \d+ blocks"):
        text_names(module, 99)
    with pytest.raises(UserError, match=r"adapt\.pair_batch=1: "):
        ClipCaptions(**(PLAIN | {"pair_batch": 1}))


@given(groups=st.lists(st.integers(0, 4), min_size=2, max_size=12), seed=st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_shuffled_captions_are_those_of_other_groups(groups, seed):
    captions = tuple(f"of {group} number {i}" if i % 3 else "" for i, group in enumerate(groups))
    images, names = np.zeros((len(groups), 2, 2), np.uint8), np.array([f"g{group}" for group in groups])
    split = Split("train", images, np.zeros(len(groups), np.int64), captions, groups=names)
    dealt, pairs = shuffled_captions(split, seed), Pairs.of(split)
    assert [bool(text) for text in dealt] == [bool(text) for text in captions]
    if len(set(pairs.groups.tolist())) > 1:
        assert all(text.split()[1] != str(group) for text, group in zip(dealt, groups, strict=True) if text)
