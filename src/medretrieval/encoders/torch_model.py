"""What encoders on torch share: device, runtime, precision, and the identity of the weights."""

import functools
import logging
import os
import platform
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.base import Encoder
from medretrieval.encoders.runtime import fidelity, openvino_runtime
from medretrieval.encoders.runtime.openvino_runtime import OpenVinoRuntime
from medretrieval.encoders.runtime.preprocess import Preprocess, ahead, single, vectorize, whole
from medretrieval.encoders.runtime.torch_runtime import Loaded, TorchRuntime
from medretrieval.encoders.runtime.weights import (
    HubFiles,
    MissingWeightsError,
    hub_state,
    local_file,
    package_file,
    state_sha256,
)
from medretrieval.errors import UserError, first_line
from medretrieval.files import file_sha256
from medretrieval.images.geometry import placement
from medretrieval.vectors import l2_normalize

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
PRECISIONS = ("fp32", "bf16", "fp16")
RUNTIMES = ("auto", "torch", "openvino")
CHECKPOINT, WHOLE = VIEWS = ("checkpoint", "whole")
MAX_ROUNDED_SHARE = 0.005  # of an image, which a resize to whole pixels may lose
OF_CROPS = ("crop_pct", "crop_mode", "resize_mode", "fill_color")  # settings of timm and open_clip
GPU_FEEDER_THREADS = 4  # threads that prepare batches; on a CPU one is ahead of the model
AUTO_BATCH_IMAGES = {False: 16, True: 128}  # by whether there is a GPU; the first measured, the second not


class TorchEncoder(Encoder):
    """An encoder whose model comes from a torch library; it is loaded when first needed.

    Args:
        name: short name.
        model: the library's name of the architecture.
        pretrained: where weights come from (see the subclass); None for random weights.
        checkpoint: a local file that takes the place of `pretrained`.
        view: "checkpoint" (its own resize and crop) or "whole" (the whole image resized, no crop).
        normalize: scale every vector to length 1.
        runtime: "torch", "openvino" (on the CPU) or "auto": openvino for fp32 on the CPU where it is
            installed and as good as equal to torch, else torch.
        precision: "fp32", "bf16" or "fp16".
        compile: through torch.compile; wants runtime "torch".
        batch_size: images at a time, or "auto".
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        seed: of random weights.

    Raises:
        UserError: unknown view, runtime or precision, options that exclude each other, or a checkpoint that
            is not there.
    """

    library: str

    def __init__(
        self,
        name: str,
        model: str,
        pretrained: str | None,
        checkpoint: str | None,
        view: str,
        normalize: bool,
        runtime: str,
        precision: str,
        compile: bool,
        batch_size: int | str,
        device: str,
        seed: int,
    ) -> None:
        if isinstance(batch_size, str):
            if batch_size != "auto":
                raise UserError(f"encoder.batch_size={batch_size}: give auto or a number")
            batch_size = AUTO_BATCH_IMAGES[
                device.startswith("cuda") or (device == "auto" and bool(accelerators()))
            ]
        super().__init__(name, batch_size)
        _require_choices(
            {"view": (view, VIEWS), "precision": (precision, PRECISIONS), "runtime": (runtime, RUNTIMES)}
        )
        _require_together(runtime, compile, device)
        if not isinstance(pretrained, str | None):
            raise UserError(f"encoder.pretrained={pretrained}: give a name, or null for random weights")
        self.model = model
        self.pretrained = pretrained
        self.checkpoint = checkpoint
        self.view = view
        self.normalize = normalize
        self.runtime = runtime
        self.precision = precision
        self.compile = compile
        self.device = device
        self.seed = seed
        self.random_weights = pretrained is None and checkpoint is None

    @functools.cached_property
    def file(self) -> Path | None:
        """The weights' file where it is known without asking a model library or the hub."""
        if self.checkpoint is not None:
            return local_file(self.name, self.checkpoint)
        if self.pretrained is not None and self.pretrained.startswith("package:"):
            return package_file(self.name, self.pretrained.removeprefix("package:"))
        return None

    def require_packages(self) -> None:
        """Refuse to go on without packages that not every installation has.

        Raises:
            UserError: how to install what is missing.
        """

    def hub(self) -> HubFiles:
        """What a run takes from the hub, where its weights are there; may import the model's library."""
        raise NotImplementedError

    def here(self) -> tuple[bool, str]:
        """As Encoder.here, of the file of weights or the local hub cache."""
        access = "" if self.card is None or self.card.access is None else f". {self.card.access}"
        try:
            self.require_packages()
            if self.random_weights:
                return True, "random weights"
            if self.file is not None:
                return True, "installed package" if self.checkpoint is None else "file"
            files = self.hub()
        except MissingWeightsError as error:
            return False, str(error)
        except UserError as error:
            return False, f"{error}{access}"
        if files.are_here():
            return True, "hub cache"
        return False, f"{files.repo} is not in the hub's cache; run once with a network{access}"

    def signature(self) -> dict[str, Any]:
        """Model, source of weights, runtime, precision and versions, without importing torch."""
        return {
            "kind": self.library,
            "model": self.model,
            "pretrained": self.pretrained,
            "view": self.view,
            "file_sha256": file_sha256(self.file) if self.file else None,
            "hub": hub_state() if self.pretrained is not None and self.file is None else None,
            "seed": self.seed if self.random_weights else None,
            "runtime": self.runtime,
            # What "auto" stands for depends on the machine, and caches are shared between machines.
            "accelerators": accelerators() if self.runtime == self.device == "auto" else None,
            "device": self.device if self.runtime == "auto" else None,
            "precision": self.precision,
            "compile": self.compile,
            "normalize": self.normalize,
            "versions": self._versions(openvino=self.runtime != "torch" and openvino_runtime.installed()),
        }

    def _versions(self, openvino: bool) -> dict[str, str]:
        """Of what computes the vectors: another version may compute others."""
        names = [self.distribution, "torch", "torchvision", "pillow"] + (["openvino"] if openvino else [])
        return {name: _version(name) for name in names}

    @property
    @abstractmethod
    def distribution(self) -> str:
        """The PyPI name of the model library."""

    def identity(self) -> dict[str, Any]:
        """Weights, preprocessing, pooling, precision and runtime; loads the model."""
        loaded, (runtime, _) = self.loaded, self._chosen
        return {
            "kind": self.library,
            "model": self.model,
            "weights_sha256": loaded.weights_sha256,
            "random_weights": self.random_weights,
            "view": self.view,
            "preprocessing": loaded.preprocessing | {"implementation": self._preprocess.implementation},
            "pooling": loaded.pooling,
            "precision": self.precision,
            "compile": self.compile,
            "normalize": self.normalize,
            "runtime": runtime,
            "versions": self._versions(openvino=runtime == "openvino"),
        }

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The model, built and filled on first use."""
        import torch

        torch.manual_seed(self.seed)
        if self.random_weights:
            log.warning("encoder=%s has RANDOM WEIGHTS: its scores say nothing about the model", self.name)
        try:
            loaded = self.load(self._resolve_device())
        except MissingWeightsError as error:
            if self.card is None or self.card.access is None:
                raise
            raise MissingWeightsError(f"{error}. {self.card.access}") from error
        if self.view == CHECKPOINT:
            return loaded
        said = {key: value for key, value in loaded.preprocessing.items() if key not in OF_CROPS}
        return replace(loaded, transform=whole(loaded.transform), preprocessing=said)

    @abstractmethod
    def load(self, device: "torch.device") -> Loaded:
        """Build the model and read its weights; the transform is the checkpoint's own.

        Raises:
            UserError: unknown model, missing weights, or a checkpoint of another architecture.
        """

    def weights_hash(self, file: Path | None, module: "torch.nn.Module") -> str:
        """Hash of the file the weights were read from, or of random weights themselves."""
        return file_sha256(file) if file else state_sha256(module.state_dict())

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Preprocess and embed a batch (float32 [n, dimension])."""
        runtime = self._chosen[1]
        (vectors,) = runtime.run([runtime.prepare(images)])
        return l2_normalize(vectors) if self.normalize else vectors

    def stream(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """As Encoder.stream; the next batches are prepared while the model runs."""
        size = self.batch_size
        batches = (images[begin : begin + size] for begin in range(0, len(images), size))
        runtime = self._chosen[1]
        threads = 1 if self._resolve_device().type == "cpu" else GPU_FEEDER_THREADS
        with closing(ahead(runtime.prepare, batches, threads)) as prepared:
            for vectors in runtime.run(prepared):
                yield l2_normalize(vectors) if self.normalize else vectors

    def fidelity(self, images: NDArray[np.uint8]) -> dict[str, Any] | None:
        """As Encoder.fidelity, against torch in fp32 with the transform image by image."""
        if self._chosen[0] == "torch" and self.precision == "fp32" and not self.compile:
            return None
        transform = self.loaded.transform
        reference = self._on_torch(Preprocess(transform))
        batches = (single(transform, images[b : b + 16]) for b in range(0, len(images), 16))
        exact = np.concatenate(list(reference.run(batches)))
        return {"against": "torch fp32"} | fidelity.compare(np.concatenate(list(self.stream(images))), exact)

    def unseen(self, height: int, width: int) -> float | None:
        """As Encoder.unseen, found by sending coordinates through the transform; loads the model."""
        steps = self._preprocess.geometry
        if steps is None:
            return None
        try:
            share = 1 - placement(steps, height, width).share
        except UserError:  # steps that turn or bend the image
            return None
        return share if share > MAX_ROUNDED_SHARE else 0.0

    @functools.cached_property
    def _preprocess(self) -> Preprocess:
        return vectorize(self.loaded.transform)

    @functools.cached_property
    def _chosen(self) -> tuple[str, TorchRuntime | OpenVinoRuntime]:
        """The name of the runtime and the runtime; the same on every machine of a kind, without timing."""
        if self.runtime == "openvino" or self._auto_openvino():
            try:
                runtime = self._on_openvino()
                cosine = self._trial(runtime)
                if self.precision != "fp32" or cosine >= fidelity.MIN_SAME_COSINE:
                    return "openvino", runtime
                line = f"OpenVINO's vectors are far from torch's (cosine {cosine:.6f})"
                if self.runtime == "openvino":
                    log.warning("encoder=%s: %s", self.name, line)
                    return "openvino", runtime
            except UserError as error:
                if self.runtime == "openvino":
                    raise
                line = str(error)
            log.warning("encoder=%s runs on torch: %s", self.name, line)
        return "torch", self._on_torch(self._preprocess, self.precision, self.compile)

    def _auto_openvino(self) -> bool:
        wanted = self.runtime == "auto" and self.precision == "fp32" and openvino_runtime.installed()
        return wanted and self._resolve_device().type == "cpu"

    def _on_openvino(self) -> OpenVinoRuntime:
        import torch

        threads = torch.get_num_threads()
        return openvino_runtime.OpenVinoRuntime(self.loaded, self._preprocess, self.precision, threads)

    def _on_torch(
        self, preprocess: Preprocess, precision: str = "fp32", compile: bool = False
    ) -> TorchRuntime:
        return TorchRuntime(self.loaded, preprocess, self._resolve_device(), precision, compile)

    def _trial(self, runtime: OpenVinoRuntime) -> float:
        """The least cosine between this runtime's and torch's vectors of RGB and of gray images."""
        torch_runtime, least = self._on_torch(self._preprocess), 1.0
        images = fidelity.trial_images()
        for sample in (images, images[..., 0]):  # gray last: what is compiled for it stays for the run
            ours, theirs = (next(iter(r.run([r.prepare(sample)]))) for r in (runtime, torch_runtime))
            least = min(least, fidelity.compare(ours, theirs)["cosine_min"])
        return least

    def _resolve_device(self) -> "torch.device":
        import torch

        if self.runtime == "openvino":
            return torch.device("cpu")
        if self.device != "auto":
            try:
                torch.empty(0, device=self.device)
                return torch.device(self.device)
            except (RuntimeError, AssertionError) as error:
                raise UserError(
                    f"device={self.device}: not available here ({first_line(error)}); use device=auto"
                ) from error
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@functools.cache
def _version(name: str) -> str:
    return version(name)  # reads files; asked for each run of a sweep


def _require_choices(chosen: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Refuse a value that is none of its key's choices."""
    for key, (value, known) in chosen.items():
        if (key, value) == ("precision", "int8"):
            raise UserError(
                "encoder.precision=int8: not offered, because it needs calibration on images of your own; "
                "encoder.runtime=openvino encoder.precision=bf16 is the fastest there is"
            )
        if value not in known:
            raise UserError(f"encoder.{key}={value}: choose from: {', '.join(known)}")


def _require_together(runtime: str, compile: bool, device: str) -> None:
    """Refuse options that exclude each other."""
    if compile and runtime != "torch":
        raise UserError(f"encoder.compile=true: needs encoder.runtime=torch, not {runtime}")
    if runtime == "openvino" and device not in ("auto", "cpu"):
        raise UserError(
            f"encoder.runtime=openvino: runs on the CPU only, not on device={device}; set device=cpu"
        )


def accelerators() -> list[str]:
    """Signs of a GPU that torch may use, without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    signs = ("/proc/driver/nvidia/version", "/dev/kfd", r"C:\Windows\System32\nvcuda.dll")
    mps = ["mps"] if (sys.platform, platform.machine()) == ("darwin", "arm64") else []
    return [sign for sign in signs if Path(sign).exists()] + mps
