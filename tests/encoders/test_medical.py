"""Encoders of published files: their layout with random weights, against another way to compute the vectors.

MedCLIP's, whose package cannot load its file, is written again here after its source; BioViL-T's is compared
with hi-ml-multimodal where that is installed, and with its formula everywhere; TorchXRayVision's with
the library.
"""

import functools
import json

import numpy as np
import pytest
from PIL import Image
from tests.refusals import refusal
from tests.tiny_models import OPTIONS
from tests.tiny_models import images as noise

from medretrieval.encoders.medical import biovil
from medretrieval.encoders.medical.biovil import BioVilTEncoder
from medretrieval.encoders.medical.medclip import MedClipEncoder
from medretrieval.encoders.medical.xrayvision import FILES, XrayVisionEncoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "pleural", "effusion", "large", "a"]
TINY_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 224, "patch_size": 16}
TINY_BERT = {
    "vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 80,
}  # fmt: skip
SENTENCES = ["no pleural effusion", "large pleural effusion", "effusion", "a large effusion"]


class TinyMedClip(MedClipEncoder):
    swin, bert = TINY_SWIN, TINY_BERT


def words(folder):
    """A folder with a tokenizer of BERT's kind."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


def randomized(module):
    """Every tensor at random, those of normalizations too, in evaluation mode."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                low, high = (0.5, 1.5) if "var" in name else (-0.3, 0.3)
                tensor.copy_(torch.empty_like(tensor).uniform_(low, high, generator=generator))
    return module.eval()


def saved(path, state, change=None):
    state = dict(state)
    if change is not None:
        change(state)
    torch.save(state, path)
    return path


def pixels_of(encoder, images):
    transform = encoder.loaded.transform
    return torch.stack([transform(Image.fromarray(image).convert("RGB")) for image in images])


CHANGES = {
    "missing": lambda name: lambda state: state.pop(name),
    "left over": lambda name: lambda state: state.update({name: torch.zeros(2)}),
}


# MedCLIP


@functools.cache
def medclip_modules(model):
    """Both towers, in the modules whose state the published file holds."""
    import torchvision
    from transformers import BertConfig, BertModel, SwinConfig, SwinModel

    swin, bert = SwinConfig(**TINY_SWIN), BertConfig(**TINY_BERT)
    whole, vision, text = torch.nn.Module(), torch.nn.Module(), torch.nn.Module()
    if model == "medclip-vit":
        vision.model = SwinModel(swin)
        vision.projection_head = torch.nn.Linear(swin.hidden_size, 512, bias=False)
    else:
        vision.model = torchvision.models.resnet50(weights=None)
        vision.model.fc = torch.nn.Linear(2048, 512, bias=False)
    text.model = BertModel(bert)
    text.projection_head = torch.nn.Linear(16, 512, bias=False)
    whole.vision_model, whole.text_model = vision, text
    whole.logit_scale = torch.nn.Parameter(torch.tensor(2.6))
    return randomized(whole)


def medclip(tmp_path, model="medclip-vit", change=None, **changes):
    whole = medclip_modules(model)
    state = whole.state_dict() | {"text_model.model.embeddings.position_ids": torch.arange(80)[None]}
    file = saved(tmp_path / "pytorch_model.bin", state, change)
    own = {"model": model, "pretrained": "published", "tokenizer": str(words(tmp_path / "words"))}
    return whole, TinyMedClip(**(OPTIONS | own | {"checkpoint": str(file)} | changes))


@pytest.mark.parametrize("model", ["medclip-vit", "medclip-resnet"])
def test_medclip_s_images_are_the_projected_output_of_its_tower(tmp_path, model):
    whole, encoder = medclip(tmp_path, model)
    images = noise(2, 40, 30, 3)
    pixels = pixels_of(encoder, images)
    assert pixels.shape == (2, 3, 224, 224)
    with torch.inference_mode():
        tower = whole.vision_model
        wanted = tower.model(pixels)
        if model == "medclip-vit":
            wanted = tower.projection_head(wanted["pooler_output"])
    assert wanted.shape == (2, 512)
    assert np.allclose(encoder.encode(images), wanted.numpy(), rtol=1e-3, atol=1e-4)


def test_medclip_s_sentences_are_means_of_three_layers_over_tokens(tmp_path):
    whole, encoder = medclip(tmp_path)
    tokens = {"no": 5, "pleural": 6, "effusion": 7, "large": 8, "a": 9}
    wanted = []
    for sentence in SENTENCES:  # upstream's forward, of one sentence
        ids = torch.tensor([[2, *(tokens[word] for word in sentence.split()), 3]])
        with torch.inference_mode():
            output = whole.text_model.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
            )
            layers = torch.stack([output["hidden_states"][i] for i in (1, 2, -1)])
            wanted.append(whole.text_model.projection_head(layers.permute(1, 0, 2, 3).mean(2).mean(1)))
    assert np.allclose(encoder.encode_text(SENTENCES), torch.cat(wanted).numpy(), atol=1e-5)
    assert np.allclose(encoder.encode_text(SENTENCES[::-1])[::-1], encoder.encode_text(SENTENCES), atol=1e-6)
    assert "longer than the 77 tokens" in refusal(lambda: encoder.encode_text(["effusion " * 76]))


@pytest.mark.parametrize(
    ("model", "how", "name", "said"),
    [
        ("medclip-vit", "missing", "logit_scale", "no tensor 'logit_scale'"),
        (
            "medclip-vit",
            "missing",
            "vision_model.projection_head.weight",
            "no tensor 'vision_model.projection_",
        ),
        (
            "medclip-vit",
            "missing",
            "text_model.model.pooler.dense.bias",
            "no tensor 'text_model.model.pooler",
        ),
        ("medclip-vit", "left over", "vision_model.model.x", "also has 'vision_model.model.x'"),
        ("medclip-vit", "left over", "text_model.x", "also has 'text_model.x'"),
        (
            "medclip-resnet",
            "missing",
            "vision_model.model.fc.weight",
            "no tensor 'vision_model.model.fc.weight'",
        ),
        ("medclip-resnet", "left over", "vision_model.projection_head.weight", "also has 'vision_model.proj"),
    ],
)
def test_medclip_s_file_holds_exactly_its_tensors(tmp_path, model, how, name, said):
    _, encoder = medclip(tmp_path, model, CHANGES[how](name))
    line = refusal(encoder.identity)
    assert line.startswith(f"encoder.checkpoint={tmp_path / 'pytorch_model.bin'}: a checkpoint of another")
    assert said in line


def test_medclip_without_its_file_says_how_to_get_it(tmp_path):
    _, encoder = medclip(tmp_path, checkpoint=None)
    line = refusal(encoder.signature)
    assert line.startswith("encoder=e: its weights are not here; give their file with encoder.checkpoint=")


def test_medclip_pads_what_is_no_square_with_black_and_knows_no_color(tmp_path):
    _, encoder = medclip(tmp_path)
    black = (0 - 0.5862785803043838) / 0.27950088968644304
    white = pixels_of(encoder, np.full((1, 100, 50), 255, np.uint8))[0]
    assert torch.allclose(white[:, 112, 5], torch.tensor(black), atol=1e-5)
    assert white[0, 112, 112] > 1
    assert encoder.unseen(100, 50) == 0
    color = pixels_of(encoder, noise(1, 50, 50, 3))[0]
    assert torch.equal(color[0], color[2])
    whole = medclip(tmp_path, view="whole")[1]
    assert pixels_of(whole, np.full((1, 100, 50), 255, np.uint8)).min() > 1


# BioViL-T


@functools.cache
def biovil_state():
    """The image file's tensors, of the names and shapes that hi-ml-multimodal's ImageModel has."""
    parts = biovil._parts()
    state = {prefix + n: t for prefix, m in parts.items() for n, t in randomized(m).state_dict().items()}
    return state | {name: torch.rand(tensor.shape) for name, tensor in biovil._pooler().items()}


def biovil_folder(tmp_path, change=None, change_text=None):
    from transformers import BertConfig, BertForMaskedLM

    folder = words(tmp_path / "biovil")
    saved(folder / biovil.IMAGE_WEIGHTS, biovil_state(), change)
    config = BertConfig(**TINY_BERT)
    bert, head = randomized(BertForMaskedLM(config)), randomized(biovil._text_head(16, 128))
    state = bert.state_dict() | {f"cls_projection_head.{n}": t for n, t in head.state_dict().items()}
    saved(folder / "pytorch_model.bin", state, change_text)
    said = {"model_type": "cxr-bert", "auto_map": {"AutoModel": "x.Y"}, "projection_size": 128}
    (folder / "config.json").write_text(json.dumps(TINY_BERT | said))
    return folder, bert, head


def biovil_encoder(folder, **changes):
    own = {"model": str(folder), "pretrained": "hub", "revision": None}
    return BioVilTEncoder(**(OPTIONS | own | changes))


def test_biovil_s_images_are_the_mean_of_projected_patches_beside_nothing_before(tmp_path):
    import torchvision

    folder, _, _ = biovil_folder(tmp_path)
    encoder = biovil_encoder(folder)
    images = noise(1, 60, 60)
    pixels, state = pixels_of(encoder, images), torch.load(folder / biovil.IMAGE_WEIGHTS, weights_only=True)
    assert pixels.shape == (1, 3, 448, 448)
    backbone = torchvision.models.resnet50(weights=None)
    backbone.load_state_dict(
        {n.removeprefix("encoder.encoder."): t for n, t in state.items() if n.startswith("encoder.encoder.")}
    )
    trunk = torch.nn.Sequential(*list(backbone.eval().children())[:-2])
    with torch.inference_mode():
        x = torch.nn.functional.conv2d(trunk(pixels), state["encoder.backbone_to_vit.weight"])
        x = torch.cat([x, state["encoder.missing_previous_emb"].repeat(1, 1, *x.shape[2:])], dim=1)
        x = torch.nn.functional.conv2d(x, state["projector.model.0.weight"])
        norm = {n.removeprefix("projector.model.1."): t for n, t in state.items() if "model.1." in n}
        x = torch.nn.functional.batch_norm(
            x, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"]
        )
        x = torch.nn.functional.conv2d(
            x.relu(), state["projector.model.3.weight"], state["projector.model.3.bias"]
        )
    assert np.allclose(encoder.encode(images), x.mean((2, 3)).numpy(), rtol=1e-3, atol=1e-5)


def test_biovil_is_what_hi_ml_multimodal_computes(tmp_path):
    upstream = pytest.importorskip("health_multimodal.image.model.model")
    model = upstream.ImageModel("resnet50_multi_image", 128)
    randomized(model)
    folder, _, _ = biovil_folder(tmp_path)
    torch.save(model.state_dict(), folder / biovil.IMAGE_WEIGHTS)
    encoder = biovil_encoder(folder)
    images = noise(2, 60, 80)
    wanted = model(pixels_of(encoder, images)).projected_global_embedding.detach()
    assert np.allclose(encoder.encode(images), wanted.numpy(), rtol=1e-3, atol=1e-5)


def test_biovil_s_sentences_are_the_projected_class_token(tmp_path):
    folder, bert, head = biovil_folder(tmp_path)
    encoder = biovil_encoder(folder)
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    with torch.inference_mode():
        hidden = bert(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        x = torch.nn.functional.gelu(head["dense_to_hidden"](hidden.hidden_states[-1][:, 0]))
        wanted = head["dense_to_output"](head["LayerNorm"](x))
    found = encoder.encode_text(["no pleural effusion", "large", "No pleural effusion."])
    assert np.allclose(found[0], wanted[0].numpy(), atol=1e-5)
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("missing", "encoder.vit_pooler.blocks.2.attn.proj_k.weight"),
        ("left over", "classifier.fc_0.model.weight"),
    ],
)
def test_biovil_s_image_file_holds_exactly_its_tensors(tmp_path, how, name):
    encoder = biovil_encoder(biovil_folder(tmp_path, CHANGES[how](name))[0])
    assert ("it has no tensor" if how == "missing" else "it also has") + f" {name!r}" in refusal(
        encoder.identity
    )


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("missing", "cls_projection_head.LayerNorm.weight"),
        ("missing", "bert.encoder.layer.1.output.dense.bias"),
        ("left over", "cls_projection_head.x"),
        ("left over", "bert.x"),
    ],
)
def test_biovil_s_text_file_holds_exactly_its_tensors(tmp_path, how, name):
    encoder = biovil_encoder(biovil_folder(tmp_path, None, CHANGES[how](name))[0])
    line = refusal(lambda: encoder.encode_text(["effusion"]))
    assert ("it has no tensor" if how == "missing" else "it also has") + f" {name!r}" in line


def test_biovil_stretches_gray_values_and_crops(tmp_path):
    encoder = biovil_encoder(tmp_path, pretrained=None)
    picture = np.full((1, 64, 64), 100, np.uint8)
    picture[:, :, 32:] = 150
    pixels = pixels_of(encoder, picture)[0]
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert encoder.unseen(64, 64) == pytest.approx(1 - (448 / 512) ** 2, abs=0.01)
    assert "random weights to images alone" in refusal(lambda: encoder.encode_text(["effusion"]))


# TorchXRayVision


def xray(checkpoint, **changes):
    own = {"model": "densenet121-res224-all", "pretrained": "published", "checkpoint": checkpoint}
    return XrayVisionEncoder(**(OPTIONS | own | changes))


@pytest.fixture(scope="module")
def densenet():
    models = pytest.importorskip("torchxrayvision.models")
    return randomized(models.DenseNet())


def test_xrayvision_s_vectors_are_the_library_s_features_of_its_own_range(tmp_path, densenet):
    thresholds = {"op_threshs": torch.rand(18)}
    encoder = xray(str(saved(tmp_path / "x.pt", densenet.state_dict() | thresholds)))
    images = np.repeat(np.repeat(noise(2, 28, 28), 8, 1), 8, 2)  # 224 x 224: nothing to resize
    wanted = (2 * (images[:, None].astype(np.float32) / 255) - 1) * 1024
    with torch.inference_mode():
        features = densenet.features2(torch.from_numpy(wanted)).numpy()
    assert features.shape == (2, 1024)
    assert np.allclose(encoder.encode(images), features, rtol=1e-3, atol=1e-4 * abs(features).max())


def test_xrayvision_resizes_as_the_library_does_but_for_rounding(tmp_path, densenet):
    encoder = xray(None, pretrained=None)
    images = noise(1, 300, 260)
    import torchxrayvision as xrv

    square = xrv.datasets.XRayCenterCrop()(images)[None].astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(square), size=(224, 224), mode="bilinear", antialias=True
    )
    ours = (pixels_of(encoder, images)[:, :1] + 1) / 2 * 255
    assert (ours - wanted).abs().max() <= 1.01
    assert encoder.unseen(300, 260) == pytest.approx(1 - 260 / 300, abs=0.01)


@pytest.mark.parametrize(("how", "name"), [("missing", "features.norm5.bias"), ("left over", "features.x")])
def test_xrayvision_s_file_holds_exactly_its_tensors(tmp_path, densenet, how, name):
    encoder = xray(str(saved(tmp_path / "x.pt", densenet.state_dict(), CHANGES[how](name))))
    assert ("it has no tensor" if how == "missing" else "it also has") + f" {name!r}" in refusal(
        encoder.identity
    )


def test_a_pickled_model_is_not_opened_and_its_conversion_is_said(tmp_path, densenet, monkeypatch):
    place = tmp_path / ".torchxrayvision" / "models_data" / FILES["densenet121-res224-all"]
    monkeypatch.setenv("HOME", str(tmp_path))
    missing = refusal(xray(None).identity)
    assert missing.startswith(f"encoder=e: its weights are not here at {place}; give their file with")
    place.parent.mkdir(parents=True)
    torch.save(densenet, place)  # as the library publishes it
    line = refusal(xray(None).identity)
    assert "pickled models, which run code as they are opened and are not opened here" in line
    assert "state_dict(), NEW)" in line


def test_the_names_and_files_are_the_library_s(densenet):
    from torchxrayvision.models import model_urls

    for name, file in FILES.items():
        assert model_urls[name]["weights_url"].endswith("/" + file)
        assert model_urls[name]["input_resolution"] == 224


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: xray(None, model="resnet50-res512-all"),
            "encoder.model=resnet50-res512-all: choose from: dens",
        ),
        (lambda: xray(None, pretrained="hub"), "encoder.pretrained=hub: torchxrayvision takes published"),
        (
            lambda: TinyMedClip(**(OPTIONS | {"model": "medclip", "tokenizer": "a/b"})),
            "encoder.model=medclip: choose from: medclip-resnet, medclip-vit",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(make, line):
    assert refusal(make).startswith(line)
