"""Tuned encoders: cut where the whole is the sum of its parts, merged as LoRA says, strict about files."""

import copy

import numpy as np
import pytest
import torch
from tests.conftest import NO_PICTURES

from medretrieval import run
from medretrieval.adapt import training
from medretrieval.adapt.base import FitData
from medretrieval.adapt.fit import read_tensors, write_tensors
from medretrieval.adapt.tuning.blocks import LastBlocks
from medretrieval.adapt.tuning.lora import A, B, Lora, inject, merged
from medretrieval.adapt.tuning.tower import call, part, tower_of
from medretrieval.adapt.tuning.tuned import Front
from medretrieval.datasets.base import Split
from medretrieval.encoders.baselines import PixelEncoder
from medretrieval.encoders.timm_models import TimmEncoder
from medretrieval.errors import UserError
from medretrieval.query.search import SearchableRun
from medretrieval.runs.report import read_report
from medretrieval.verify import verify

PLAIN = {
    "name": "tuned", "loss": "cross_entropy", "blocks": 1, "learning_rate": 0.01, "weight_decay": 0.01,
    "epochs": 2, "steps": 2, "patience": 9, "per_class": 4, "device": "cpu", "refits": 0, "seed": 0,
}  # fmt: skip
RESNET = {"model": "resnet18", "model_args": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}}
VIT = {"model": "vit_tiny_patch16_224", "model_args": {"embed_dim": 24, "depth": 3}}
MODELS = {
    "resnet18": RESNET["model_args"],
    "vit_tiny_patch16_224": VIT["model_args"] | {"img_size": 32},
    "tf_efficientnet_lite0": {},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)},
}


def encoder_of(model, runtime="torch"):
    return TimmEncoder(
        name="tiny", pretrained=None, checkpoint=None, view="whole", normalize=True, runtime=runtime,
        precision="fp32", compile=False, batch_size=8, device="cpu", seed=0, **model,
    )  # fmt: skip


def data_of(encoder, tuning, n=24, judged=None):
    """Random images of two classes; the judge is a fixed number's distance, so that all looks differ."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    images = rng.integers(0, 255, (n, 32, 32)).astype(np.uint8)

    def judge(tensors):
        if judged is not None:
            judged.append(tensors)
        return float(sum(np.abs(value).sum() for value in tensors.values()))

    def embedded(other):
        return np.concatenate(list(other.stream(images)))

    vectors = embedded(encoder)
    split = Split("train", images, labels)
    return FitData(split, vectors, encoder, ("a", "b"), judge, embed=embedded)


@pytest.mark.parametrize("model", MODELS)
def test_front_and_tail_are_the_whole(model):
    import timm

    module = timm.create_model(model, num_classes=0, **MODELS[model]).eval()
    tower = tower_of(module, "encoder=x")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        for last in (1, len(tower.blocks)):
            ours = tower.tail(module, tower.unflattened(pixels, last), last)
            torch.testing.assert_close(ours, module(pixels), rtol=1e-4, atol=1e-5)
    state = module.state_dict()
    assert set(tower.names(1)) < set(tower.names(2)) <= set(state)


def test_open_clip_towers_are_cut_as_well():
    from open_clip.model import CLIP

    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    conv = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    vit = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16}
    for vision in (conv, vit):
        module = CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text).eval()
        tower, pixels = tower_of(module, "encoder=x"), torch.randn(2, 3, 32, 32)
        with torch.inference_mode():
            ours = tower.tail(module, tower.unflattened(pixels, 1), 1)
            torch.testing.assert_close(ours, module.encode_image(pixels), rtol=1e-4, atol=1e-5)
        assert all(name.startswith("visual.") for name in tower.names(1))


def test_only_the_last_blocks_change_and_the_encoder_itself_stays_as_it_is():
    encoder, tuning = encoder_of(RESNET), LastBlocks(**PLAIN)
    before = copy.deepcopy(encoder.loaded.module.state_dict())
    data = data_of(encoder, tuning)
    fitted = tuning.fit(data, tuning.choices()[0], 0)
    assert all(name.startswith("layer4.") for name in fitted)
    assert not any("running" in name for name in fitted)  # the statistics of BatchNorm are frozen
    for name, value in encoder.loaded.module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    tuned = tuning.adapted(encoder, fitted, "d")
    vectors = tuned.encode(data.split.images)
    assert np.abs(vectors - data.vectors).max() > 1e-3
    whole = copy.deepcopy(encoder.loaded.module)
    whole.load_state_dict({name: torch.from_numpy(value) for name, value in fitted.items()}, strict=False)
    other = encoder_of(RESNET)
    other.__dict__["loaded"] = type(encoder.loaded)(
        **(vars(encoder.loaded) | {"module": whole, "features": whole})
    )
    np.testing.assert_allclose(vectors, other.encode(data.split.images), atol=1e-5)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_a_killed_tuning_ends_as_one_that_was_not(tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(training, "WRITE_EVERY_S", 0.0)
    encoder, tuning = encoder_of(RESNET), LastBlocks(**(PLAIN | {"epochs": 3}))
    data, choice = data_of(encoder, tuning), tuning.choices()[0]
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


def test_lora_merges_to_w_plus_the_update_and_gives_what_peft_gives():
    pytest.importorskip("peft")
    rng = np.random.default_rng(0)
    weight = torch.randn(6, 5)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5), (6, 2)))
    torch.testing.assert_close(merged(weight, a, b, 1.5), weight + 1.5 * torch.from_numpy(b @ a))

    encoder = encoder_of(VIT)
    tuning = Lora(**PLAIN, rank=2, alpha=3)
    data = data_of(encoder, tuning)
    fitted = tuning.fit(data, tuning.choices()[0], 0)
    assert {name.split(".")[-1] for name in fitted} == {"lora_A", "lora_B"}
    assert all(".mlp.fc" in name and "attn" not in name for name in fitted)
    assert all(np.abs(value).max() > 0 for value in fitted.values())
    front = tuning.front(encoder)
    tower, module = front.tower, encoder.loaded.module
    with_peft = copy.deepcopy(module)
    targets = sorted({name.rsplit(".", 1)[0] for name in fitted})
    inject(with_peft, targets, 2, 3)
    for name in targets:
        layer = with_peft.get_submodule(name)
        layer.lora_A.default.weight.data = torch.from_numpy(fitted[name + A])
        layer.lora_B.default.weight.data = torch.from_numpy(fitted[name + B])
    pixels = torch.randn(3, 3, 224, 224)
    with torch.inference_mode():
        x = tower.unflattened(pixels, 1)
        ours = call(part(module, lambda m, x: tower.tail(m, x, 1)), tuning.weights(module, tower, fitted), x)
        torch.testing.assert_close(ours, with_peft.eval()(pixels), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(ours, module(pixels), atol=1e-4)


def test_lora_is_refused_where_there_is_no_such_layer():
    pytest.importorskip("peft")
    encoder, tuning = encoder_of(RESNET), Lora(**PLAIN, rank=2, alpha=3)
    with pytest.raises(UserError, match="have no MLP with linear layers"):
        tuning.fit(data_of(encoder, tuning), tuning.choices()[0], 0)


def test_what_cannot_be_tuned_is_one_line():
    with pytest.raises(UserError, match="encoder=pixels: has no blocks"):
        Front(PixelEncoder("pixels", 1, False, 8), 1)
    with pytest.raises(UserError, match=r"adapt\.blocks=9: this model has 4 blocks"):
        _ = Front(encoder_of(RESNET), 9).tower
    with pytest.raises(UserError, match="cannot be trained one by one"):
        tower_of(torch.nn.Linear(2, 2), "encoder=x")
    for wrong in ({"blocks": 0}, {"loss": "hinge"}, {"steps": 0}, {"epochs": 0}, {"learning_rate": 0}):
        (key,) = wrong
        with pytest.raises(UserError, match=f"adapt.{key}="):
            LastBlocks(**(PLAIN | wrong))


def test_the_identity_names_the_encoder_and_what_was_fitted_and_no_device():
    encoder = encoder_of(RESNET)
    here, there = (LastBlocks(**(PLAIN | {"device": device})) for device in ("cpu", "cuda"))
    assert here.signature() == there.signature()
    one, two = (here.adapted(encoder, {}, digest) for digest in ("a", "b"))
    assert one.signature() != two.signature()
    assert one.identity()["parts"][0]["of"]["weights_sha256"] == encoder.identity()["weights_sha256"]
    assert one.identity()["parts"][0]["of"]["runtime"] == "torch"


RUN = (
    "dataset=breastmnist", "encoder=timm", "encoder.name=tiny", "encoder.model=resnet18",
    "encoder.pretrained=null",
    "+encoder.model_args={channels: [8, 8, 8, 8], layers: [1, 1, 1, 1]}", "encoder.runtime=torch",
    "encoder.device=cpu", "evaluation.ks=[1,3]", "audit.enabled=false", NO_PICTURES,
)  # fmt: skip
TUNE = (
    "adapt=last_blocks", "adapt.epochs=1", "adapt.steps=1", "adapt.per_class=2", "adapt.learning_rate=0.01",
    "adapt.refits=1", "adapt.device=cpu",
)  # fmt: skip


def test_a_run_is_kept_served_verified_and_used_again_and_files_are_read_strictly(
    write_npz, config, tmp_path
):
    write_npz(n=24)
    done = run(config(*RUN, *TUNE))
    report = done.report
    assert (len(report.adapt.refits), report.adapt.shuffled is not None) == (1, True)
    assert report.stages[0].choice == "last_blocks"
    assert verify(done.folder) == []
    encoder, changed = SearchableRun.open(done.folder).encoder()
    assert changed == []
    assert encoder.encode(np.zeros((1, 28, 28), np.uint8)).shape == (1, 8)

    file = done.folder / "adaptation.safetensors"
    again = run(config(*RUN, "adapt=saved", f"adapt.file={file}"))
    assert again.report.scores == read_report(done.folder).scores

    tensors, about = read_tensors(file)
    name = next(iter(tensors))
    for said, other in (
        ("also has 'head.weight'", tensors | {"head.weight": np.zeros(2, np.float32)}),
        (f"has no tensor {name!r}", {k: v for k, v in tensors.items() if k != name}),
    ):
        bad = tmp_path / "bad.safetensors"
        write_tensors(bad, other, about)
        with pytest.raises(UserError, match=said):
            run(config(*RUN, "adapt=saved", f"adapt.file={bad}"))
    with pytest.raises(UserError, match="was fitted to the vectors of encoder=tiny"):
        run(config(*RUN, "encoder.seed=1", "adapt=saved", f"adapt.file={file}"))
