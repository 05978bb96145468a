"""Embedding against the loops that people write, and against the model's multiplications alone.

Real PneumoniaMNIST images where they are at hand, else random ones; random weights, whose speed is the same.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.bench.measure import Row, row, seconds

from medretrieval.checks import check
from medretrieval.config import compose
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.torch_model import TorchEncoder
from medretrieval.instantiate import instantiate

BATCH = 16
CLIP = ("encoder=open_clip", "encoder.model=ViT-B-32")
LITE0 = ("encoder=efficientnet_lite0",)

Call = Callable[[], object]


def by_turns(contestants: Mapping[str, Call], turns: int) -> dict[str, list[float]]:
    """Seconds of each contestant's turns, after one of each that does not count."""
    for call in contestants.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, call in contestants.items():
            times[name].append(seconds(call))
    return times


def images(n: int) -> NDArray[np.uint8]:
    """The first images of PneumoniaMNIST's training split, or random ones alike (uint8 [n, 28, 28])."""
    for root in (
        os.environ.get("MEDRETRIEVAL_DATA"),
        Path(__file__).resolve().parents[3] / "shared" / "data",
    ):
        file = Path(root or ".") / "pneumoniamnist.npz"
        if file.exists():
            with np.load(file, allow_pickle=False) as content:
                return content["train_images"][:n]
    return np.random.default_rng(0).integers(0, 256, (n, 28, 28)).astype(np.uint8)


def encoder_of(*overrides: str) -> TorchEncoder:
    found = instantiate(check(compose(*overrides)).encoder, Encoder, "encoder")
    assert isinstance(found, TorchEncoder)
    return found


def plain_loop(encoder: TorchEncoder, pictures: NDArray[np.uint8]) -> Call:
    """As in open_clip's README: one image at a time, with the checkpoint's own transform."""
    import torch
    from PIL import Image

    loaded = encoder.loaded

    def run() -> None:
        with torch.no_grad():
            for picture in pictures:
                loaded.features(loaded.transform(Image.fromarray(picture).convert("RGB")).unsqueeze(0))

    return run


def batched_loop(encoder: TorchEncoder, pictures: NDArray[np.uint8], channels_last: bool = False) -> Call:
    """The transform image by image, the model batch by batch."""
    import torch
    from PIL import Image

    loaded = encoder.loaded
    layout = torch.channels_last if channels_last else torch.contiguous_format
    loaded.module.to(memory_format=layout)

    def run() -> None:
        with torch.no_grad():
            for begin in range(0, len(pictures), BATCH):
                batch = [
                    loaded.transform(Image.fromarray(picture).convert("RGB"))
                    for picture in pictures[begin : begin + BATCH]
                ]
                loaded.features(torch.stack(batch).contiguous(memory_format=layout))

    return run


def ours(encoder: TorchEncoder, pictures: NDArray[np.uint8]) -> Call:
    return lambda: list(encoder.stream(pictures))


def matmul_shapes(
    images: int, width: int = 768, layers: int = 12, tokens: int = 50, patch: int = 32
) -> list[tuple[int, ...]]:
    """[m, k, n] of every multiplication by weights in a ViT-B/32, for so many images at once."""
    m = tokens * images
    patches = (images * (tokens - 1), 3 * patch * patch, width)
    block = [(m, width, 3 * width), (m, width, width), (m, width, 4 * width), (m, 4 * width, width)]
    return [patches, *layers * block, (images, width, 512)]


def bare_torch(batches: int) -> Call:
    """The model's multiplications alone, each on weights of its own, as torch does them."""
    import torch

    pairs = [(torch.randn(m, k), torch.randn(n, k)) for m, k, n in matmul_shapes(BATCH)]

    def run() -> None:
        with torch.inference_mode():
            for _ in range(batches):
                for x, w in pairs:
                    torch.nn.functional.linear(x, w)

    return run


def bare_openvino(images: int) -> Call | None:
    """Likewise on OpenVINO, with as many threads, images a request and requests at once as ours has.

    None where it is not installed.
    """
    from medretrieval.encoders.runtime.openvino_runtime import (
        TRANSFORMER_REQUEST_IMAGES,
        import_openvino,
        installed,
    )

    if not installed():
        return None
    import torch

    openvino = import_openvino()
    from openvino import opset13 as op

    rng = np.random.default_rng(0)
    shapes = matmul_shapes(TRANSFORMER_REQUEST_IMAGES)
    inputs = {(m, k): op.parameter([m, k], np.float32) for m, k, _ in shapes}
    products = [
        op.matmul(inputs[m, k], op.constant(rng.standard_normal((n, k), dtype=np.float32)), False, True)
        for m, k, n in shapes
    ]
    # Reduced, for a result that is handed out would be copied.
    results = [op.reduce_max(product, op.constant(np.array([0, 1])), False) for product in products]
    hints = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(openvino.Model(results, list(inputs.values())), "CPU", hints)
    feeds = [rng.standard_normal(shape, dtype=np.float32) for shape in inputs]
    at_once = 2 * compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    requests = [compiled.create_infer_request() for _ in range(at_once)]

    def run() -> None:
        idle, busy = deque(requests), deque[Any]()
        for _ in range(-(-images // TRANSFORMER_REQUEST_IMAGES)):
            if not idle:
                busy[0].wait()
                idle.append(busy.popleft())
            busy.append(idle.popleft())
            busy[-1].start_async(feeds)
        for request in busy:
            request.wait()

    return run


def clip_rows(turns: int, n: int) -> list[Row]:
    """ViT-B/32 with random weights."""
    pictures, base = images(n), encoder_of(*CLIP, "encoder.runtime=torch")
    contestants = {
        "plain loop of open_clip's README": plain_loop(base, pictures),
        "batched torch loop": batched_loop(base, pictures),
        "runtime=torch": ours(base, pictures),
        "ours": ours(encoder_of(*CLIP), pictures),
        "bare multiplications (torch)": bare_torch(len(pictures) // BATCH),
    }
    if bare := bare_openvino(len(pictures)):
        contestants["bare multiplications (OpenVINO, as many requests)"] = bare
    return _rows("ViT-B/32", by_turns(contestants, turns), n)


def lite0_rows(turns: int, n: int) -> list[Row]:
    """efficientnet_lite0."""
    pictures = images(n)
    nchw, nhwc, torch_only = (encoder_of(*LITE0, "encoder.runtime=torch") for _ in range(3))
    contestants = {
        "batched torch loop (NCHW)": batched_loop(nchw, pictures),
        "batched torch loop (channels last)": batched_loop(nhwc, pictures, channels_last=True),
        "runtime=torch": ours(torch_only, pictures),
        "ours": ours(encoder_of(*LITE0), pictures),
    }
    return _rows("efficientnet_lite0", by_turns(contestants, turns), n)


def _rows(model: str, times: Mapping[str, list[float]], n: int) -> list[Row]:
    mine = times["ours"]
    return [
        row(f"embed {n} images, {model}: {what} / ours", list(zip(theirs, mine, strict=True)))
        for what, theirs in times.items()
        if what != "ours"
    ]
