"""Weights from a hub's cache, as published: timm's revisions and other repositories, and open_clip's."""

import numpy as np
import pytest
from PIL import Image
from tests.refusals import refusal
from tests.tiny_models import OPTIONS, clip_encoder, timm_encoder
from tests.tiny_models import images as noise

from medretrieval import compose
from medretrieval.checks import check
from medretrieval.encoders import open_clip_models
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.timm_models import TimmEncoder
from medretrieval.instantiate import instantiate

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")

# As conf/encoder/uni.yaml, of a small model.
UNI = {
    "model": "test_vit", "pretrained": "hf-hub:MahmoodLab/UNI", "revision": None,
    "model_args": {"init_values": 1e-5, "dynamic_img_size": True},
    "data_config": {
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bilinear",
        "crop_pct": 1.0,
    },
}  # fmt: skip


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a file into the local hub cache: hub(repo, name, write, revision)."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def put(repo, name, write, revision="main"):
        place = tmp_path / f"models--{repo.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / revision).write_text(f"commit-{revision}")
        snapshot = place / "snapshots" / f"commit-{revision}"
        snapshot.mkdir(parents=True, exist_ok=True)
        write(snapshot / name)

    return put


def vit(seed, **arguments):
    torch.manual_seed(seed)
    model = timm.create_model("test_vit", num_classes=0, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model


def uni(**changes):
    return TimmEncoder(**(OPTIONS | UNI | changes))


def saving(state):
    return lambda path: torch.save(state, path)


def test_uni_s_layout_gives_the_vectors_and_the_preprocessing_of_its_authors_code(hub):
    from torchvision import transforms

    model = vit(1, **UNI["model_args"])
    hub("MahmoodLab/UNI", "pytorch_model.bin", saving(model.state_dict()))
    encoder, images = uni(), noise(3, 200, 200, 3)
    size = model.patch_embed.img_size[0]
    theirs = transforms.Compose(
        [
            transforms.Resize(size),
            transforms.ToTensor(),
            transforms.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )
    pixels = torch.stack([theirs(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        assert np.allclose(encoder.encode(images), model(pixels).numpy(), atol=1e-4)
    assert not encoder.random_weights


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda s: s.pop("blocks.0.ls1.gamma"), "it has no tensor 'blocks.0.ls1.gamma'"),
        (lambda s: s.update({"head.weight": torch.zeros(2)}), "it also has 'head.weight'"),
        (lambda s: s.update({"norm.bias": torch.zeros(2)}), "'norm.bias' is [2], not "),
    ],
)
def test_uni_s_file_holds_exactly_its_tensors(hub, tmp_path, change, detail):
    state = dict(vit(1, **UNI["model_args"]).state_dict())
    change(state)
    hub("MahmoodLab/UNI", "pytorch_model.bin", saving(state))
    assert detail in refusal(uni().identity)
    torch.save(state, tmp_path / "own.bin")
    assert detail in refusal(uni(checkpoint=str(tmp_path / "own.bin")).identity)


def test_without_the_files_the_line_says_how_to_get_them(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, repo in (("uni", "MahmoodLab/UNI"), ("medsiglip", "google/medsiglip-448")):
        encoder = instantiate(check(compose(f"encoder={name}")).encoder, Encoder, "encoder")
        line = refusal(encoder.identity)
        assert line.startswith(f"encoder={name}: its weights are missing ({repo} (")
        assert line.endswith(encoder.card.access)


def test_a_revision_of_a_repository_is_taken(hub):
    from safetensors.torch import save_file

    for revision, seed in (("main", 1), ("abc", 2)):
        state = vit(seed).state_dict()
        hub("timm/test_vit.r160_in1k", "model.safetensors", lambda p, s=state: save_file(s, p), revision)
    main, pinned = (timm_encoder(model="test_vit", pretrained="hub", revision=r) for r in (None, "abc"))
    images = noise(2)
    assert not np.allclose(main.encode(images), pinned.encode(images), atol=1e-3)
    assert main.signature() != pinned.signature()
    assert main.hub().are_here()
    assert pinned.hub().are_here()
    assert not timm_encoder(model="test_vit", pretrained="hub", revision="none").hub().are_here()


def test_what_is_not_given_is_no_part_of_the_key():
    plain = timm_encoder()
    assert not {"revision", "model_args", "data_config"} & set(plain.signature() | plain.identity())
    given = timm_encoder(model_args={"drop_rate": 0.1}, data_config={"crop_pct": 0.5})
    assert given.signature() != plain.signature()
    assert given.identity()["preprocessing"]["crop_pct"] == 0.5


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"revision": "main", "pretrained": None}, "encoder.revision=main: only weights of the hub have"),
        ({"data_config": {"size": 3}}, "encoder.data_config.size: choose from: crop_mode, crop_pct, interp"),
    ],
)
def test_what_has_no_effect_is_refused(changes, line):
    assert refusal(lambda: timm_encoder(**changes)).startswith(line)


def test_arguments_that_timm_does_not_know_are_refused():
    line = refusal(timm_encoder(model_args={"layers_of_gold": 3}).identity)
    assert line.startswith("encoder=e: timm refuses encoder.model=test_resnet (")
    assert "layers_of_gold" in line


def test_a_tag_of_open_clip_takes_a_revision_where_its_weights_are_on_a_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(open_clip_models, "hub_file", lambda *words: asked.append(words) or "file")
    encoder = clip_encoder(model="ViT-B-16-SigLIP2-256", pretrained="webli", revision="abc")
    assert encoder._source()[1] == "file"
    assert asked == [
        ("e", "timm/ViT-B-16-SigLIP2-256", open_clip_models.HUB_WEIGHTS, "abc"),
    ]
    assert encoder.signature() != clip_encoder(model="ViT-B-16-SigLIP2-256", pretrained="webli").signature()
    at_an_address = clip_encoder(model="RN50-quickgelu", pretrained="cc12m", revision="abc")
    monkeypatch.setitem(
        __import__("open_clip").pretrained._PRETRAINED["RN50-quickgelu"], "cc12m", {"url": "https://x/y.pt"}
    )
    assert "are on no hub; set it to null" in refusal(at_an_address._source)
    assert at_an_address.here() == (False, "https://x/y.pt is not downloaded; run once with a network")


def test_a_tokenizer_of_a_hub_that_is_not_here_is_said_at_once(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = clip_encoder(model="ViT-B-16-SigLIP2-256")
    line = refusal(lambda: encoder._tokenizer)
    assert line.startswith(
        "encoder=e: its weights are missing (timm/ViT-B-16-SigLIP2-256 (tokenizer_config.json)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobileclip_s2"])  # siglip2 goes the same way, and takes a minute
def test_the_whole_model_of_an_entry_of_open_clip_is_built_from_its_layout(hub, name):
    import open_clip
    from safetensors.torch import save_file

    words = (f"encoder={name}", "device=cpu", "encoder.runtime=torch", "encoder.view=checkpoint")
    encoder = instantiate(check(compose(*words)).encoder, Encoder, "encoder")
    of_tag = open_clip.get_pretrained_cfg(encoder.model, encoder.pretrained)
    torch.manual_seed(1)
    model, _, transform = open_clip.create_model_and_transforms(
        encoder.model,
        load_weights=False,
        image_mean=of_tag["mean"],
        image_std=of_tag["std"],
        image_interpolation=of_tag["interpolation"],
        image_resize_mode=of_tag["resize_mode"],
    )
    files = encoder.hub()
    hub(files.repo, files.groups[0][0], lambda path: save_file(model.state_dict(), path))
    pixels = torch.stack([transform(Image.fromarray(image)) for image in noise(1, 300, 300, 3)])
    with torch.inference_mode():
        wanted = model.eval().encode_image(pixels, normalize=True).numpy()
    assert np.allclose(encoder.encode(noise(1, 300, 300, 3)), wanted, atol=1e-4)
    assert wanted.shape[1] == encoder.card.dimension
