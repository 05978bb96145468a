import functools
import importlib.util
import json
import shutil

import numpy as np
import pytest
import yaml
from tests.refusals import refusal
from tests.tiny_models import images as noise
from tests.tiny_models import timm_encoder

from medretrieval.config import root
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.runtime.onnx_file import external_data
from medretrieval.instantiate import instantiate

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper

SIZE = 16
BOTH = [
    "onnxruntime",
    pytest.param(
        "openvino", marks=pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="no openvino")
    ),
]
both = pytest.mark.parametrize("runtime", BOTH)
PLAIN = {
    "scale": "0-1",
    "mean": 0.0,
    "std": 1.0,
    "size": SIZE,
    "threads": 1,
    "device": "cpu",
    "batch_size": 4,
}


@functools.cache
def defaults():
    return yaml.safe_load((root() / "conf" / "encoder" / "onnx.yaml").read_text())


def made(file, **changes):
    return instantiate(defaults() | PLAIN | {"checkpoint": str(file)} | changes, Encoder, "encoder")


@pytest.fixture(scope="module")
def weights():
    """Of a projection of 4 x 4 patches to 6 numbers, of gray and of RGB images."""
    rng = np.random.default_rng(0)
    return {channels: rng.normal(size=(6, channels, 4, 4)).astype(np.float32) for channels in (1, 3)}


def write(path, nodes, inputs, outputs, tensors=(), domains=()):
    """A model of nodes; inputs and outputs are name -> shape."""

    def ports(shapes):
        return [helper.make_tensor_value_info(n, k, s) for n, (k, s) in shapes.items()]

    kinds = {n: s if isinstance(s, tuple) else (TensorProto.FLOAT, s) for n, s in inputs.items()}
    out = {n: (TensorProto.FLOAT, s) for n, s in outputs.items()}
    initializers = [numpy_helper.from_array(array, name) for name, array in dict(tensors).items()]
    graph = helper.make_graph(nodes, "g", ports(kinds), ports(out), initializers)
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def patches(path, weights, shape, tokens=False, transpose=False, more=()):
    """A convolution over patches, and the mean over them or the patches as tokens.

    The outputs: `vector` [n, 6] or `tokens` [n, 16, 6], and those of `more`.
    """
    node = helper.make_node
    nodes = [node("Transpose", ["pixels"], ["moved"], perm=[0, 3, 1, 2])] if transpose else []
    nodes.append(node("Conv", ["moved" if transpose else "pixels", "w"], ["map"], strides=[4, 4]))
    if tokens:
        nodes += [
            node("Reshape", ["map", "flat"], ["rows"]),
            node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
        ]
        outputs = {"tokens": ["n", 16, 6]}
    else:
        nodes.append(node("ReduceMean", ["map"], ["vector"], axes=[2, 3], keepdims=0))
        outputs = {"vector": ["n", 6]}
    known = {"map": ["n", 6, 4, 4]}
    tensors = {"w": weights} | ({"flat": np.array([0, 6, 16], np.int64)} if tokens else {})
    return write(path, nodes, {"pixels": shape}, outputs | {name: known[name] for name in more}, tensors)


def forward(batch, weights):
    """The convolution in NumPy (float64 [n, 6, 4, 4])."""
    n, c = batch.shape[:2]
    cut = batch.astype(np.float64).reshape(n, c, 4, 4, 4, 4)  # row, within, column, within
    return np.einsum("ncrycx,ocyx->norc".replace("ncrycx", "ncrysx").replace("norc", "nors"), cut, weights)


@pytest.fixture
def rgb(tmp_path, weights):
    return patches(tmp_path / "model.onnx", weights[3], ["n", 3, SIZE, SIZE])


# Against NumPy


@both
@pytest.mark.parametrize("scale", ["0-1", "0-255"])
def test_vectors_are_those_of_the_model_on_normalized_pixels(rgb, weights, runtime, scale):
    images = noise(5, SIZE, SIZE, 3)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.5]
    encoder = made(rgb, runtime=runtime, scale=scale, mean=mean, std=std)
    pixels = images / (255 if scale == "0-1" else 1)
    batch = ((pixels - np.array(mean)) / std).transpose(0, 3, 1, 2)
    wanted = forward(batch, weights[3]).mean(axis=(2, 3))
    found = encoder.encode(images)
    assert found.dtype == np.float32
    assert found == pytest.approx(wanted, abs=1e-5 * np.abs(wanted).max())
    assert np.allclose(
        np.concatenate([encoder.encode(images[i : i + 1]) for i in range(5)]), found, atol=1e-4
    )
    unit = made(rgb, runtime=runtime, scale=scale, mean=mean, std=std, normalize=True).encode(images)
    assert np.allclose(
        unit * np.linalg.norm(wanted, axis=1, keepdims=True), wanted, atol=1e-4 * np.abs(wanted).max()
    )


@both
def test_gray_images_are_seen_as_rgb_images_of_equal_channels(rgb, runtime):
    gray, encoder = noise(3, 20, 24), made(rgb, runtime=runtime)
    assert np.array_equal(encoder.encode(gray), encoder.encode(gray[..., None].repeat(3, 3)))


@both
def test_the_channels_come_last_where_the_file_has_them_so(tmp_path, weights, rgb, runtime):
    images = noise(3, SIZE, SIZE, 3)
    last = patches(tmp_path / "last.onnx", weights[3], ["n", SIZE, SIZE, 3], transpose=True)
    wanted = made(rgb, runtime=runtime).encode(images)
    assert np.allclose(made(last, runtime=runtime, layout="nhwc").encode(images), wanted, atol=1e-5)


@both
def test_a_model_of_one_channel_gets_gray_images_and_the_luma_of_rgb_ones(tmp_path, weights, runtime):
    file = patches(tmp_path / "gray.onnx", weights[1], ["n", 1, SIZE, SIZE])
    encoder, gray = made(file, channels=1, runtime=runtime), noise(3, SIZE, SIZE)
    wanted = forward(gray[:, None] / 255, weights[1]).mean(axis=(2, 3))
    assert encoder.encode(gray) == pytest.approx(wanted, abs=1e-5)
    assert encoder.encode(gray[..., None].repeat(3, 3)) == pytest.approx(wanted, abs=1e-5)


@both
def test_tokens_are_pooled(tmp_path, weights, runtime):
    images = noise(3, SIZE, SIZE, 3)
    file = patches(tmp_path / "tokens.onnx", weights[3], ["n", 3, SIZE, SIZE], tokens=True)
    rows = forward(images.transpose(0, 3, 1, 2) / 255, weights[3]).reshape(3, 6, 16)
    for pooling, wanted in (("cls", rows[:, :, 0]), ("mean", rows.mean(axis=2))):
        assert made(file, runtime=runtime, pooling=pooling).encode(images) == pytest.approx(wanted, abs=1e-5)
    line = refusal(made(file, runtime=runtime).identity)
    assert line == (
        f"encoder.pooling=null: the output tokens of {file} is [n, 16, 6], tokens and not one vector an "
        "image; choose from: cls, mean"
    )


@both
def test_an_output_is_chosen_by_its_name(tmp_path, weights, runtime):
    file = patches(tmp_path / "two.onnx", weights[3], ["n", 3, SIZE, SIZE], more=["map"])
    images = noise(2, SIZE, SIZE, 3)
    alone = patches(tmp_path / "one.onnx", weights[3], ["n", 3, SIZE, SIZE])
    assert np.array_equal(
        made(file, runtime=runtime, output="vector").encode(images),
        made(alone, runtime=runtime).encode(images),
    )
    assert refusal(made(file, runtime=runtime).identity) == (
        f"encoder.output=null: {file} has 2 outputs; choose from: map, vector"
    )
    assert "encoder.output=vectors: " in refusal(made(file, runtime=runtime, output="vectors").identity)
    line = refusal(made(file, runtime=runtime, output="map").identity)
    assert "its output map is [n, 6, 4, 4], not [n, d]; choose another with encoder.output" in line


@both
def test_a_batch_that_is_fixed_to_one_is_gone_through_image_by_image(tmp_path, weights, rgb, runtime):
    one = patches(tmp_path / "one.onnx", weights[3], [1, 3, SIZE, SIZE])
    images = noise(5, SIZE, SIZE, 3)
    assert np.allclose(
        made(one, runtime=runtime).encode(images), made(rgb, runtime=runtime).encode(images), atol=1e-5
    )


@both
def test_half_precision_is_said(tmp_path, runtime):
    half = (TensorProto.FLOAT16, ["n", 3, SIZE, SIZE])
    nodes = [
        helper.make_node("Cast", ["pixels"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide"], ["vector"], axes=[2, 3], keepdims=0),
    ]
    file = write(tmp_path / "half.onnx", nodes, {"pixels": half}, {"vector": ["n", 3]})
    encoder, images = made(file, runtime=runtime), noise(2, SIZE, SIZE, 3)
    assert encoder.encode(images) == pytest.approx(images.mean(axis=(1, 2)) / 255, abs=1e-3)
    assert encoder.identity()["precision"] == "fp16"


# Preprocessing


@pytest.mark.parametrize("shape", [(28, 28), (70, 45), (45, 70, 3), (33, 90, 3)])
@pytest.mark.parametrize(("view", "crop_pct"), [("whole", None), ("checkpoint", 0.875), ("checkpoint", 0.9)])
def test_images_are_prepared_as_torchvision_does(rgb, shape, view, crop_pct):
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    size, bicubic = 32, InterpolationMode.BICUBIC
    mean, std = defaults()["mean"], defaults()["std"]
    squeeze = (
        Resize((size, size), bicubic) if view == "whole" else Resize(int(size / (crop_pct or 1)), bicubic)
    )
    theirs = Compose([squeeze, CenterCrop(size), ToTensor(), Normalize(mean, std)])
    images = noise(2, *shape)
    encoder = made(rgb, size=size, view=view, crop_pct=crop_pct, mean=mean, std=std)
    wanted = np.stack([theirs(Image.fromarray(image).convert("RGB")).numpy() for image in images])
    assert np.allclose(encoder.prepare(images), wanted, atol=1e-5)


def test_the_share_that_is_cut_off_is_told(rgb):
    assert made(rgb).unseen(28, 40) == 0
    cut = made(rgb, size=224, view="checkpoint", crop_pct=0.875)
    assert cut.unseen(28, 28) == pytest.approx(1 - 0.875**2, abs=0.01)


@pytest.mark.parametrize(
    ("runtime", "exporter"),
    [
        ("onnxruntime", False),
        pytest.param("openvino", False, marks=BOTH[1].marks),
        pytest.param("onnxruntime", True, marks=pytest.mark.slow),
    ],
    ids=["traced", "traced openvino", "dynamo"],
)
def test_an_exported_model_of_timm_gives_the_vectors_of_timm(tmp_path, runtime, exporter):
    import torch

    if exporter:
        pytest.importorskip("onnxscript")
    theirs = timm_encoder(view="whole")
    said, module = theirs.identity()["preprocessing"], theirs.loaded.module
    side = said["input_size"][1]
    words = (
        {"dynamic_axes": {"pixels": {0: "n"}}}
        if not exporter
        else {"dynamic_shapes": ({0: torch.export.Dim("n")},)}
    )
    torch.onnx.export(
        module, (torch.zeros(2, 3, side, side),), str(tmp_path / "m.onnx"), input_names=["pixels"],
        output_names=["vector"], dynamo=exporter, **words,
    )  # fmt: skip
    own = {key: said[key] for key in ("mean", "std", "interpolation")}
    ours = made(tmp_path / "m.onnx", runtime=runtime, size=side, **own)
    for images in (noise(5), noise(5, 60, 41, 3)):
        assert np.abs(ours.encode(images) - theirs.encode(images)).max() < 1e-4


# What vectors are known by


def test_the_identity_is_of_the_file_and_of_every_option(rgb, tmp_path, weights):
    encoder = made(rgb)
    said, known = encoder.signature(), encoder.identity()
    json.dumps([said, known])
    assert known["runtime"] == "onnxruntime"
    assert known["versions"]["onnxruntime"]
    assert (known["device"], known["precision"]) == ("cpu", "fp32")
    shutil.copy(rgb, tmp_path / "copy.onnx")
    assert made(tmp_path / "copy.onnx", name="other", batch_size=9, threads=2).identity() == known
    changes = {
        "layout": "nhwc", "size": 20, "channels": 1, "scale": "0-255", "mean": 0.5, "std": 0.5,
        "output": "vector", "interpolation": "bilinear", "pooling": "cls", "normalize": True,
        "device": "auto",
    }  # fmt: skip
    for key, value in changes.items():
        assert made(rgb, **{key: value}).signature() != said, key
    assert made(rgb, view="checkpoint", crop_pct=1).signature() != said
    assert {*changes, "view", "crop_pct", "runtime", "name", "batch_size", "threads", "checkpoint"} == (
        set(defaults()) - {"_target_", "card"}
    )
    other = patches(tmp_path / "other.onnx", weights[3] + 1, ["n", 3, SIZE, SIZE])
    assert made(other).identity()["weights_sha256"] != known["weights_sha256"]


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="no openvino")
def test_the_runtime_is_part_of_the_identity_and_auto_is_onnx_runtime(rgb, monkeypatch):
    assert made(rgb, runtime="auto").signature() == made(rgb, runtime="onnxruntime").signature()
    assert made(rgb, runtime="openvino").signature() != made(rgb).signature()
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    assert made(rgb).identity()["runtime"] == "openvino"
    line = refusal(made(rgb, runtime="onnxruntime").signature)
    assert line == (
        "encoder=onnx: an ONNX file is run by onnxruntime, which is not installed; "
        "pip install 'medretrieval[onnx]'"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "is run by onnxruntime or openvino, which is not installed" in refusal(made(rgb).signature)


@both
def test_weights_beside_the_file_are_hashed(rgb, tmp_path, weights, runtime):
    folder = tmp_path / "apart"
    folder.mkdir()
    onnx.save(
        onnx.load(rgb), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    assert external_data(folder / "m.onnx") == {"m.data"}
    assert external_data(rgb) == set()
    images = noise(2, SIZE, SIZE, 3)
    encoder = made(folder / "m.onnx", runtime=runtime)
    assert np.array_equal(encoder.encode(images), made(rgb, runtime=runtime).encode(images))
    before = encoder.signature()
    data = bytearray((folder / "m.data").read_bytes())
    data[3] ^= 1
    (folder / "m.data").write_bytes(data)
    after = made(folder / "m.onnx", runtime=runtime).signature()
    assert before["weights_sha256"] == after["weights_sha256"]
    assert before["external_data_sha256"].keys() == {"m.data"}
    assert before != after
    (folder / "m.data").unlink()
    assert "has its weights in m.data, which is not beside it" in refusal(
        made(folder / "m.onnx", runtime=runtime).signature
    )


def test_weights_outside_the_folder_are_refused(rgb, tmp_path):
    model = onnx.load(rgb)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../../etc/secret")
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    line = refusal(made(tmp_path / "bad.onnx").identity)
    assert "has its weights outside its own folder, in ../../etc/secret; put them beside it" in line


# Refusals


@both
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no model", b"\x00" * 64, b"\x08\x09", b"\x80" * 30])
def test_what_is_no_onnx_file_is_refused(tmp_path, content, runtime):
    (tmp_path / "x.onnx").write_bytes(content)
    encoder = made(tmp_path / "x.onnx", runtime=runtime)
    line = f"encoder.checkpoint={tmp_path / 'x.onnx'}: not an ONNX file; give one that was exported with ONNX"
    assert refusal(encoder.signature) == refusal(encoder.identity) == line


def test_a_file_that_is_not_there_and_one_that_is_cut_off_are_refused(rgb, tmp_path):
    assert refusal(made(tmp_path / "no.onnx").signature).endswith("no.onnx: there is no such file")
    (tmp_path / "cut.onnx").write_bytes(rgb.read_bytes()[:-40])
    assert "not an ONNX file" in refusal(made(tmp_path / "cut.onnx").signature)


@both
@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        (["n", 3, SIZE], {}, "its input pixels is [n, 3, 16], and a batch of images has 4 dimensions"),
        (["n", 1, SIZE, SIZE], {}, "with 1 channels where encoder.channels=3 and encoder.layout=nchw"),
        (["n", 3, SIZE, SIZE], {"channels": 1}, "with 3 channels where encoder.channels=1"),
        (["n", 3, SIZE, SIZE], {"layout": "nhwc"}, "with 16 channels where encoder.channels=3"),
        (["n", 3, 8, 8], {}, "its input pixels is [n, 3, 8, 8], not 16 pixels a side; set encoder.size=8"),
        ([4, 3, SIZE, SIZE], {}, "its batch is fixed to 4 images; export it with an open batch, or with 1"),
        ((TensorProto.UINT8, ["n", 3, SIZE, SIZE]), {}, "export it with one of float32, float16, float64"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(tmp_path, shape, options, says, runtime):
    nodes = [
        helper.make_node("Cast", ["pixels"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["wide"], ["vector"]),
    ]
    file = write(tmp_path / "m.onnx", nodes, {"pixels": shape}, {"vector": ["n", "d"]})
    assert says in refusal(made(file, runtime=runtime, **options).identity)


@both
def test_a_second_input_is_refused(tmp_path, runtime):
    nodes = [helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Flatten", ["c"], ["vector"])]
    shape = ["n", 3, SIZE, SIZE]
    file = write(tmp_path / "m.onnx", nodes, {"a": shape, "b": shape}, {"vector": ["n", "d"]})
    assert "takes 2 inputs (a, b), not one" in refusal(made(file, runtime=runtime).identity)


@both
def test_operations_that_only_a_library_of_their_own_has_are_refused(tmp_path, runtime):
    nodes = [helper.make_node("Magic", ["pixels"], ["vector"], domain="com.example")]
    shape = {"pixels": ["n", 3, SIZE, SIZE]}
    file = write(tmp_path / "m.onnx", nodes, shape, {"vector": ["n", 3]}, domains=["com.example"])
    line = refusal(made(file, runtime=runtime).identity)
    assert f"{runtime} cannot load it (" in line
    assert "Magic" in line
    assert "with standard operations alone" in line


def test_a_size_that_only_the_graph_knows_is_refused_by_onnx_runtime(tmp_path):
    nodes = [
        helper.make_node("Add", ["pixels", "b"], ["sum"]),
        helper.make_node("Flatten", ["sum"], ["vector"]),
    ]
    tensors = {"b": np.ones((1, 3, 8, 8), np.float32)}
    file = write(tmp_path / "m.onnx", nodes, {"pixels": ["n", 3, "h", "w"]}, {"vector": ["n", "d"]}, tensors)
    assert "onnxruntime fails on an input of [1, 3, 16, 16] (" in refusal(made(file).identity)


@both
def test_pooling_of_a_vector_is_refused(rgb, runtime):
    line = refusal(made(rgb, runtime=runtime, pooling="mean").identity)
    assert line.startswith("encoder.pooling=mean: the output vector of ")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layout": "chw"}, "encoder.layout=chw: choose from: nchw, nhwc"),
        ({"channels": 2}, "encoder.channels=2: choose from: 1, 3"),
        ({"scale": "0-2"}, "encoder.scale=0-2: choose from: 0-1, 0-255"),
        ({"interpolation": "cubic"}, "encoder.interpolation=cubic: choose from: bicubic, "),
        ({"view": "crop"}, "encoder.view=crop: choose from: checkpoint, whole"),
        ({"pooling": "max"}, "encoder.pooling=max: choose from: cls, mean, null"),
        ({"runtime": "torch"}, "encoder.runtime=torch: choose from: auto, onnxruntime, openvino"),
        ({"size": 0}, "encoder.size=0: must be 1 or more"),
        ({"mean": [0.5, 0.5]}, "encoder.mean=[0.5, 0.5]: 2 numbers, and encoder.channels=3"),
        ({"channels": 1, "std": [1, 1, 1]}, "encoder.std=[1, 1, 1]: 3 numbers, and encoder.channels=1"),
        ({"std": 0.0}, "encoder.std=0.0: must be above 0"),
        ({"view": "checkpoint"}, "encoder.view=checkpoint: needs encoder.crop_pct"),
        ({"crop_pct": 0.9}, "encoder.crop_pct=0.9: has no effect while encoder.view=whole"),
        ({"view": "checkpoint", "crop_pct": 1.5}, "encoder.crop_pct=1.5: must be above 0 and at most 1"),
        ({"runtime": "openvino", "device": "cuda"}, "encoder.runtime=openvino: runs on the CPU only"),
        ({"device": "mps"}, "device=mps: an ONNX file runs on cpu or cuda"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(changes, says):
    assert refusal(lambda: made("m.onnx", **changes)).startswith(says)


def test_a_gpu_that_is_not_there_is_refused(rgb):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has a GPU")
    assert refusal(made(rgb, device="cuda").identity).startswith("device=cuda: this onnxruntime has no CUDA")
