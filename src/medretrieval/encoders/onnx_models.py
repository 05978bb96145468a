"""Any model in an ONNX file (https://onnx.ai), run by ONNX Runtime or OpenVINO.

No library of custom operations is ever loaded.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.base import Encoder
from medretrieval.encoders.classic import luma
from medretrieval.encoders.runtime.onnx_file import external_data
from medretrieval.encoders.runtime.onnx_sessions import OnnxRuntimeSession, OpenVinoSession, Port, Session
from medretrieval.encoders.runtime.weights import local_file
from medretrieval.encoders.torch_model import CHECKPOINT, MAX_ROUNDED_SHARE, VIEWS, WHOLE, accelerators
from medretrieval.errors import UserError, choices
from medretrieval.files import file_sha256
from medretrieval.images.geometry import placement
from medretrieval.vectors import l2_normalize

if TYPE_CHECKING:
    from PIL import Image

LAYOUTS = ("nchw", "nhwc")
SCALES = {"0-1": 255.0, "0-255": 1.0}  # what pixel values are divided by
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
POOLINGS = ("cls", "mean")
RUNTIMES = ("auto", "onnxruntime", "openvino")
# The PyPI names under which a runtime may be installed.
DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
PRECISIONS = {"float32": "fp32", "float16": "fp16", "float64": "fp64"}  # of the input, as the runs name them


class OnnxEncoder(Encoder):
    """A model in an ONNX file; it is loaded when first needed.

    Args:
        name: short name.
        checkpoint: the file.
        layout: of the input, "nchw" or "nhwc".
        size: pixels a side of the input.
        channels: of the input, 3 or 1.
        scale: of the pixels before normalization, "0-1" or "0-255".
        mean: subtracted from the scaled pixels: a number, or one a channel.
        std: what the result is divided by, likewise.
        interpolation: of the resize, by Pillow's name.
        view: "whole" (the whole image resized, no crop) or "checkpoint" (shorter side resized to
            floor(size / crop_pct), and the center cropped, as timm has it).
        crop_pct: above 0 and at most 1, for view "checkpoint"; None for "whole".
        output: name of the output; None for the only one.
        pooling: of an output [n, tokens, d]: "cls" (the first token) or "mean" (of all tokens); else None.
        normalize: scale every vector to length 1.
        runtime: "onnxruntime", "openvino" or "auto" (onnxruntime where it is installed, else openvino).
        batch_size: images at a time.
        threads: of the CPU; None for OMP_NUM_THREADS, or all.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        UserError: a value that is no choice, or options that exclude each other.
    """

    def __init__(
        self,
        name: str,
        checkpoint: str,
        layout: str,
        size: int,
        channels: int,
        scale: str,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        interpolation: str,
        view: str,
        crop_pct: float | None,
        output: str | None,
        pooling: str | None,
        normalize: bool,
        runtime: str,
        batch_size: int,
        threads: int | None,
        device: str,
    ) -> None:
        super().__init__(name, batch_size)
        _require_choices(
            layout=(layout, LAYOUTS),
            channels=(channels, (1, 3)),
            scale=(scale, tuple(SCALES)),
            interpolation=(interpolation, INTERPOLATIONS),
            view=(view, VIEWS),
            pooling=(pooling, (None, *POOLINGS)),
            runtime=(runtime, RUNTIMES),
        )
        if size < 1:
            raise UserError(f"encoder.size={size}: must be 1 or more")
        _require_together(view, crop_pct, runtime, device)
        self.checkpoint = checkpoint
        self.layout = layout
        self.size = size
        self.channels = channels
        self.scale = scale
        self.mean = _by_channel("mean", mean, channels)
        self.std = _by_channel("std", std, channels)
        if min(self.std) <= 0:
            raise UserError(f"encoder.std={std}: must be above 0")
        self.interpolation = interpolation
        self.view = view
        self.crop_pct = crop_pct
        self.output = None if output is None else str(output)
        self.pooling = pooling
        self.normalize = normalize
        self.runtime = runtime
        self.threads = threads
        self.device = device

    @functools.cached_property
    def file(self) -> Path:
        """The file, which is there."""
        return local_file(self.name, self.checkpoint)

    @property
    def _where(self) -> str:
        return f"encoder.checkpoint={self.checkpoint}"

    @functools.cached_property
    def _hashes(self) -> dict[str, str]:
        """SHA-256 of the file and of those that hold its external data, by name ("" for the file itself)."""
        found = {"": file_sha256(self.file)}
        for place in sorted(external_data(self.file)):
            found[place] = file_sha256(self.file.parent / place)
        return found

    @functools.cached_property
    def _runtime(self) -> str:
        """The runtime that is meant.

        Raises:
            UserError: it is not installed, or for "auto" none is.
        """
        there = [name for name in RUNTIMES[1:] if importlib.util.find_spec(name) is not None]
        if self.runtime == "auto" and there:
            gpu = self.device not in ("auto", "cpu")
            if gpu and "onnxruntime" not in there:
                raise UserError(
                    f"device={self.device}: needs onnxruntime-gpu, which is not installed; set device=cpu"
                )
            return there[0]
        if self.runtime not in there:
            wanted = RUNTIMES[1:] if self.runtime == "auto" else (self.runtime,)
            extra = "onnx" if wanted[0] == "onnxruntime" else "openvino"
            raise UserError(
                f"encoder={self.name}: an ONNX file is run by {' or '.join(wanted)}, which is not installed; "
                f"pip install 'medretrieval[{extra}]'"
            )
        return self.runtime

    def signature(self) -> dict[str, Any]:
        """Hashes of the file and its external data, all options, runtime and versions.

        Raises:
            UserError: no ONNX file, external data that is missing, or no runtime.
        """
        name = self._runtime
        return {
            "kind": "onnx",
            "weights_sha256": self._hashes[""],
            "external_data_sha256": {place: digest for place, digest in self._hashes.items() if place},
            "preprocessing": {
                "layout": self.layout,
                "size": self.size,
                "channels": self.channels,
                "scale": self.scale,
                "mean": list(self.mean),
                "std": list(self.std),
                "interpolation": self.interpolation,
                "crop_pct": self.crop_pct,
            },
            "view": self.view,
            "output": self.output,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "runtime": name,
            "device": self.device,
            # What "auto" stands for depends on the machine, and caches are shared between machines.
            "accelerators": accelerators() if self.device == "auto" and name == "onnxruntime" else None,
            "versions": {name: _version(DISTRIBUTIONS[name]), "pillow": _version(("pillow",))},
        }

    def identity(self) -> dict[str, Any]:
        """As the signature, with the device and the precision that were found; loads the model."""
        said = {key: value for key, value in self.signature().items() if key != "accelerators"}
        session, _ = self._loaded
        return said | {"device": session.device, "precision": PRECISIONS[session.inputs[0].dtype]}

    @functools.cached_property
    def _loaded(self) -> tuple[Session, int]:
        """The model and the number of its output, checked against the options and tried on a black image."""
        external_data(self.file)  # refuses what is no ONNX file before a runtime guesses what it is
        make = OnnxRuntimeSession if self._runtime == "onnxruntime" else OpenVinoSession
        try:
            session: Session = make(self.file, self.device, _threads(self.threads))
        except UserError:
            raise
        except Exception as error:  # a runtime raises anything, for a damaged file or an unknown operation
            raise UserError(
                f"{self._where}: {self._runtime} cannot load it ({_reason(error)}); "
                "export it again, with standard operations alone"
            ) from error
        self._require_input(session.inputs)
        output = self._chosen(session.outputs)
        self._pooled(
            self._infer(session, output, np.zeros((1, 1, 1), np.uint8)), session.outputs[output].name
        )
        return session, output

    def _require_input(self, inputs: list[Port]) -> None:
        """Refuse an input that is not one batch of such images."""
        where = self._where
        if len(inputs) != 1:
            names = ", ".join(port.name for port in inputs)
            raise UserError(
                f"{where}: takes {len(inputs)} inputs ({names}), not one; export the image model alone"
            )
        (port,) = inputs
        if port.dtype not in PRECISIONS:
            raise UserError(
                f"{where}: its input {port.name} is of {port.dtype}; export it with one of "
                f"{', '.join(PRECISIONS)}"
            )
        if port.shape is None:
            return
        shown = f"its input {port.name} is {_shown(port.shape)}"
        if len(port.shape) != 4:
            raise UserError(
                f"{where}: {shown}, and a batch of images has 4 dimensions; export an image model"
            )
        at = self.layout.index
        n, channels = port.shape[0], port.shape[at("c")]
        if channels not in (None, self.channels):
            raise UserError(
                f"{where}: {shown}, with {channels} channels where encoder.channels={self.channels} and "
                f"encoder.layout={self.layout}; set these to the file's"
            )
        for side in (port.shape[at("h")], port.shape[at("w")]):
            if side not in (None, self.size):
                raise UserError(f"{where}: {shown}, not {self.size} pixels a side; set encoder.size={side}")
        if n not in (None, 1):
            raise UserError(
                f"{where}: {shown}: its batch is fixed to {n} images; export it with an open batch, or with 1"
            )

    def _chosen(self, outputs: list[Port]) -> int:
        """The number of the output that is wanted."""
        names = [port.name for port in outputs]
        if self.output is None and len(names) == 1:
            return 0
        if self.output in names:
            return names.index(self.output)
        said = f"encoder.output={'null' if self.output is None else self.output}"
        why = f"has {len(names)} outputs" if self.output is None else "has no such output"
        raise UserError(f"{said}: {self.checkpoint} {why}; {choices(names)}")

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Preprocess and embed a batch (float32 [n, dimension]).

        Raises:
            UserError: what the file or the runtime does not allow.
        """
        session, output = self._loaded
        vectors = self._pooled(self._infer(session, output, images), session.outputs[output].name)
        return l2_normalize(vectors) if self.normalize else vectors

    def _infer(self, session: Session, output: int, images: NDArray[np.uint8]) -> NDArray[Any]:
        """The output of images; one by one where the file's batch is fixed to 1."""
        (port,) = session.inputs
        batch = self.prepare(images).astype(port.dtype)
        one_by_one = port.shape is not None and port.shape[0] == 1
        parts = [batch[i : i + 1] for i in range(len(batch))] if one_by_one else [batch]
        try:
            return np.concatenate([session.run(np.ascontiguousarray(part), output) for part in parts])
        except Exception as error:  # a runtime raises anything, also for lack of memory
            raise UserError(
                f"{self._where}: {self._runtime} fails on an input of {_shown(parts[0].shape)} "
                f"({_reason(error)}); check encoder.size and encoder.layout, or make encoder.batch_size "
                "smaller"
            ) from error

    def _pooled(self, found: NDArray[Any], name: str) -> NDArray[np.float32]:
        """The vectors (float32 [n, d]) of an output."""
        if found.ndim == 3 and self.pooling is not None:
            found = found[:, 0] if self.pooling == "cls" else found.mean(axis=1, dtype=np.float64)
        elif found.ndim == 3:
            raise UserError(
                f"encoder.pooling=null: the output {name} of {self.checkpoint} is [n, {found.shape[1]}, "
                f"{found.shape[2]}], tokens and not one vector an image; {choices(POOLINGS)}"
            )
        elif self.pooling is not None and found.ndim == 2:
            raise UserError(
                f"encoder.pooling={self.pooling}: the output {name} of {self.checkpoint} is one vector an "
                "image, with no tokens to pool; set it to null"
            )
        if found.ndim != 2:
            raise UserError(
                f"{self._where}: its output {name} is {_shown((None, *found.shape[1:]))}, not [n, d]; choose "
                "another with encoder.output, or export the model with pooled features"
            )
        return found.astype(np.float32)

    def prepare(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's input of images.

        Args:
            images: uint8 [n, height, width] or [n, height, width, 3].

        Returns:
            float32 [n, channels, size, size], or with the channels last.
        """
        from PIL import Image

        if self.channels == 1:
            images = luma(images)
        placed = []
        for image in images:
            picture = Image.fromarray(image)
            for step in self.steps:
                picture = step(picture)
            placed.append(np.asarray(picture))
        pixels = np.stack(placed).astype(np.float32)
        pixels = pixels[..., None].repeat(self.channels, -1) if images.ndim == 3 else pixels
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        batch = (pixels / np.float32(SCALES[self.scale]) - mean) / std
        return batch if self.layout == "nhwc" else np.ascontiguousarray(batch.transpose(0, 3, 1, 2))

    @property
    def steps(self) -> list[Callable[["Image.Image"], "Image.Image"]]:
        """From image to image: a resize, and for a crop the crop."""
        from PIL import Image

        kind = Image.Resampling[self.interpolation.upper()]
        if self.view == WHOLE:
            return [lambda picture: picture.resize((self.size, self.size), kind)]
        assert self.crop_pct is not None
        shorter = int(self.size / self.crop_pct)

        def resized(picture: "Image.Image") -> "Image.Image":
            least = min(picture.size)
            width, height = (
                shorter if side == least else int(shorter * side / least) for side in picture.size
            )
            return picture.resize((width, height), kind)

        def cropped(picture: "Image.Image") -> "Image.Image":
            left, top = (round((side - self.size) / 2) for side in picture.size)
            return picture.crop((left, top, left + self.size, top + self.size))

        return [resized, cropped]

    def unseen(self, height: int, width: int) -> float | None:
        """As Encoder.unseen, found by sending coordinates through the steps."""
        share = 1 - placement(self.steps, height, width).share
        return share if share > MAX_ROUNDED_SHARE else 0.0


def _require_choices(**chosen: tuple[Any, Sequence[Any]]) -> None:
    for key, (value, known) in chosen.items():
        if value not in known:
            raise UserError(
                f"encoder.{key}={value}: {choices(['null' if k is None else str(k) for k in known])}"
            )


def _require_together(view: str, crop_pct: float | None, runtime: str, device: str) -> None:
    """Refuse options that exclude each other."""
    if view == CHECKPOINT and crop_pct is None:
        raise UserError(
            "encoder.view=checkpoint: needs encoder.crop_pct, such as 0.875; give it, or view=whole"
        )
    if view == WHOLE and crop_pct is not None:
        raise UserError(
            f"encoder.crop_pct={crop_pct}: has no effect while encoder.view=whole; set it to null, or "
            "encoder.view=checkpoint"
        )
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise UserError(f"encoder.crop_pct={crop_pct}: must be above 0 and at most 1")
    if runtime == "openvino" and device not in ("auto", "cpu"):
        raise UserError(
            f"encoder.runtime=openvino: runs on the CPU only, not on device={device}; set device=cpu"
        )
    if device not in ("auto", "cpu") and not device.startswith("cuda"):
        raise UserError(f"device={device}: an ONNX file runs on cpu or cuda; use device=auto")


def _by_channel(key: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """A number for each channel."""
    if isinstance(value, int | float):
        return (float(value),) * channels
    if len(value) not in (1, channels):
        raise UserError(
            f"encoder.{key}={list(value)}: {len(value)} numbers, and encoder.channels={channels}; give one a "
            "channel, or one"
        )
    return tuple(float(v) for v in value) * (channels // len(value))


def _threads(threads: int | None) -> int:
    """Threads as the runtimes take them: 0 for all."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return threads or (int(said) if said.isdecimal() else 0)


def _reason(error: Exception) -> str:
    """What a runtime says, in one line; OpenVINO begins with places in its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return " ".join(said)[:300] or type(error).__name__


def _version(names: Sequence[str]) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('n' if side is None else str(side) for side in shape)}]"
