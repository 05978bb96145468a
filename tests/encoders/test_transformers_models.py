"""Tiny models in the published file layout, loaded by the published way, against the library's own pass."""

import json

import numpy as np
import pytest
from tests.refusals import refusal
from tests.tiny_models import OPTIONS
from tests.tiny_models import images as noise

from medretrieval.encoders.transformers_models import (
    TransformersClipEncoder,
    TransformersEncoder,
    transform_of,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PLACES = {"image_size": 32, "patch_size": 16}
WORDS = ["a", "chest", "radiograph", "with", "fluid", "no"]
PROCESSOR = {
    "image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 36},
    "resample": 3, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4], "do_convert_rgb": True,
}  # fmt: skip


def vision_model(name):
    from transformers import Dinov2Config, Dinov2Model, ResNetConfig, ResNetModel, ViTConfig, ViTModel

    torch.manual_seed(3)
    made = {
        "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES, **PLACES, mlp_ratio=2)),
        "vit": lambda: ViTModel(ViTConfig(**SIZES, **PLACES)),
        "resnet": lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
    }
    return made[name]().eval()


def clip_model():
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(3)
    text = SIZES | {"vocab_size": 64, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 0}
    config = CLIPConfig(
        text_config=text | {"pad_token_id": 1}, vision_config=SIZES | PLACES, projection_dim=8
    )
    return CLIPModel(config).eval()


def siglip_model():
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(3)
    text = SIZES | {"vocab_size": 64, "max_position_embeddings": 8}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=SIZES | PLACES)).eval()


def published(folder, model, **processor):
    """The files of a repository: settings, weights, preprocessing, and a tokenizer of few words."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | processor))
    return folder


def add_words(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>")
    fast.save_pretrained(folder)


def encoder_of(cls, folder, **changes):
    own = {"model": str(folder), "pretrained": "hub", "revision": None}
    own |= {"pooling": "cls"} if cls is TransformersEncoder else {}
    return cls(**(OPTIONS | own | changes))


def pixels_of(folder, images):
    """The library's own preprocessing."""
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)
    pictures = [Image.fromarray(image).convert("RGB") for image in images]
    return processor(pictures, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(
    ("name", "pooling", "of"),
    [
        ("dinov2", "cls", lambda out: out.last_hidden_state[:, 0]),
        ("dinov2", "mean", lambda out: out.last_hidden_state[:, 1:].mean(1)),
        ("dinov2", "pooler", lambda out: out.pooler_output),
        ("vit", "pooler", lambda out: out.pooler_output),
        ("resnet", "pooler", lambda out: out.pooler_output.flatten(1)),
        ("resnet", "mean", lambda out: out.last_hidden_state.mean((2, 3))),
    ],
)
def test_vectors_are_those_of_the_library_on_the_same_pixels(tmp_path, name, pooling, of):
    model = vision_model(name)
    encoder = encoder_of(TransformersEncoder, published(tmp_path, model), pooling=pooling)
    images = noise(3, 40, 40, 3)
    pixels = torch.stack([encoder.loaded.transform(_picture(image)) for image in images])
    with torch.inference_mode():
        wanted = of(model(pixel_values=pixels)).numpy()
    assert np.allclose(encoder.encode(images), wanted, atol=1e-5)
    assert not encoder.random_weights


def _picture(image):
    from PIL import Image

    return Image.fromarray(image).convert("RGB")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resample": 2},
        {"size": {"height": 48, "width": 40}},
        {"do_center_crop": False},
        {"do_normalize": False},
    ],
    ids=str,
)
def test_preprocessing_is_the_library_s_to_a_value_of_255(tmp_path, changes):
    folder = published(tmp_path, vision_model("vit"), **changes)
    images = noise(2, 80, 80, 3) // 2 + 60
    settings = {**PROCESSOR, **changes}
    ours = torch.stack([transform_of(settings, "x")(_picture(image)) for image in images])
    theirs = pixels_of(folder, images)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1.01 / 255 / 0.2


def test_the_whole_image_is_shown_where_that_is_wanted(tmp_path):
    folder = published(tmp_path, vision_model("vit"))
    own, whole = (encoder_of(TransformersEncoder, folder, view=view) for view in ("checkpoint", "whole"))
    assert own.unseen(72, 36) == pytest.approx(1 - (32 / 36) ** 2 / 2, abs=0.01)
    assert whole.unseen(72, 36) == 0
    assert own.loaded.preprocessing["size"] == {"shortest_edge": 36}
    assert own.signature() != whole.signature()


@pytest.mark.parametrize(
    ("name", "pooling", "line"),
    [
        ("resnet", "cls", "ResNetModel of .* has none; choose from: mean, pooler"),
        ("vit", "average", "encoder.pooling=average: choose from: cls, mean, pooler"),
    ],
)
def test_a_pooling_that_the_model_lacks_is_refused(tmp_path, name, pooling, line):
    folder = published(tmp_path, vision_model(name))
    with pytest.raises(Exception, match=line):
        encoder_of(TransformersEncoder, folder, pooling=pooling).identity()


def test_the_two_kinds_of_models_are_told_apart(tmp_path):
    vision, clip = tmp_path / "v", tmp_path / "c"
    published(vision, vision_model("vit"))
    published(clip, clip_model())
    line = refusal(lambda: encoder_of(TransformersEncoder, clip).identity())
    assert line.endswith("CLIPModel has a text tower; use encoder=transformers_clip")
    line = refusal(lambda: encoder_of(TransformersClipEncoder, vision).identity())
    assert line.endswith("ViTModel has no text tower; use encoder=transformers")


@pytest.mark.parametrize("make", [clip_model, siglip_model])
def test_images_and_sentences_are_the_library_s_own_features(tmp_path, make):
    model = make()
    folder = published(tmp_path, model)
    add_words(folder)
    encoder = encoder_of(TransformersClipEncoder, folder)
    images, texts = noise(3), ["a chest radiograph", "no fluid"]
    pixels = torch.stack([encoder.loaded.transform(_picture(image)) for image in images])
    ids = torch.tensor([[0, 3, 4, 5, 1, 1, 1, 1], [0, 8, 7, 1, 1, 1, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]])
    with torch.inference_mode():
        image_features = model.get_image_features(pixel_values=pixels)
        text_features = model.get_text_features(input_ids=ids, attention_mask=mask)
    wanted = [f if isinstance(f, torch.Tensor) else f.pooler_output for f in (image_features, text_features)]
    assert np.allclose(encoder.encode(images), wanted[0].numpy(), atol=1e-5)
    assert np.allclose(encoder.encode_text(texts), wanted[1].numpy(), atol=1e-5)
    assert np.allclose(encoder.encode_text(texts[1:]), encoder.encode_text(texts)[1:], atol=1e-5)
    line = refusal(lambda: encoder.encode_text(["a chest radiograph with no fluid a chest"]))
    assert "longer than the 8 tokens" in line


# Weights


def rewritten(folder, change):
    """The weights' file with a change, and back as .bin with plain tensors."""
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    change(state)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda s: s.pop("layernorm.weight"), "it has no tensor 'layernorm.weight'"),
        (lambda s: s.update({"extra.weight": torch.zeros(2)}), "it also has 'extra.weight'"),
        (lambda s: s.update({"layernorm.bias": torch.zeros(2)}), "'layernorm.bias' is [2], not [16]"),
    ],
)
def test_weights_of_another_model_are_refused_by_the_tensor_s_name(tmp_path, change, detail):
    folder = published(tmp_path, vision_model("vit"))
    rewritten(folder, change)
    line = refusal(lambda: encoder_of(TransformersEncoder, folder).identity())
    assert line.startswith(f"encoder.checkpoint={folder / 'pytorch_model.bin'}: a checkpoint of another")
    assert detail in line


def test_what_does_not_reach_the_vector_may_be_there_or_not(tmp_path):
    folder = published(tmp_path, vision_model("vit"))
    before = encoder_of(TransformersEncoder, folder).encode(noise(2))

    def change(state):
        for name in [name for name in state if name.startswith("pooler.")]:
            del state[name]
        state["classifier.weight"] = torch.zeros(3, 16)
        state["embeddings.position_ids"] = torch.arange(5)

    rewritten(folder, change)
    assert np.allclose(encoder_of(TransformersEncoder, folder).encode(noise(2)), before, atol=1e-6)
    line = refusal(lambda: encoder_of(TransformersEncoder, folder, pooling="pooler").identity())
    assert "it has no tensor 'pooler.dense." in line


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch evil",)


def test_nothing_is_unpickled_and_no_code_of_a_repository_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = published(tmp_path, vision_model("vit"))
    (folder / "model.safetensors").unlink()
    torch.save({"layernorm.weight": Evil()}, folder / "pytorch_model.bin")
    line = refusal(lambda: encoder_of(TransformersEncoder, folder).identity())
    assert "not a checkpoint that can be read safely" in line
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "code.Evil", "AutoModel": "code.Evil"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": auto}))
    (folder / "code.py").write_text("open('evil', 'w')\nclass Evil: pass\n")
    line = refusal(lambda: encoder_of(TransformersEncoder, folder).identity())
    assert "is no model that transformers builds without code of its repository" in line
    assert not (tmp_path / "evil").exists()


def test_a_folder_goes_by_what_is_in_it(tmp_path):
    one, other = tmp_path / "1", tmp_path / "2"
    for place in (one, other):
        published(place, vision_model("vit"))
    first, second = (encoder_of(TransformersEncoder, place) for place in (one, other))
    assert first.signature() == second.signature()
    assert first.identity() == second.identity()
    published(other, vision_model("vit"), image_std=[0.1, 0.1, 0.1])
    changed = encoder_of(TransformersEncoder, other)
    assert changed.signature() != first.signature()
    assert changed.identity() != first.identity()
    assert encoder_of(TransformersEncoder, one, pooling="mean").signature() != first.signature()


def test_random_weights_come_from_the_seed_and_say_so(tmp_path):
    folder = published(tmp_path, vision_model("vit"))
    first, again, other = (
        encoder_of(TransformersEncoder, folder, pretrained=None, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.encode(noise(2)), again.encode(noise(2)))
    assert not np.allclose(first.encode(noise(2)), other.encode(noise(2)), atol=1e-4)
    assert first.random_weights


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"model": "/nowhere"},
            "encoder.model=/nowhere: no folder, and no repository of the hub; give owner/",
        ),
        ({"model": "rad-dino"}, "encoder.model=rad-dino: no folder, and no repository of the hub"),
        ({"pretrained": "imagenet"}, "encoder.pretrained=imagenet: a model of transformers takes hub"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, changes, line):
    assert refusal(lambda: encoder_of(TransformersEncoder, tmp_path, **changes)).startswith(line)


def test_a_folder_has_no_revisions_and_needs_its_files(tmp_path):
    assert "only a repository of the hub has revisions" in refusal(
        lambda: encoder_of(TransformersEncoder, tmp_path, revision="v1")
    )
    line = refusal(lambda: encoder_of(TransformersEncoder, tmp_path).identity())
    assert line.endswith("that folder holds none of model.safetensors, pytorch_model.bin")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_pad": True}, "do_pad is not supported"),
        ({"crop_pct": 0.9}, "crop_pct is not supported"),
        ({"rescale_factor": 1 / 127.5}, "its scaling of values, not to [0, 1], is not supported"),
        ({"size": {"longest_edge": 3}}, "its size (longest_edge) is not supported"),
    ],
)
def test_preprocessing_without_a_like_is_refused(settings, said):
    assert said in refusal(lambda: transform_of(PROCESSOR | settings, "here"))
