"""What encoders on torch share: device, precision, the loop body, and the identity of the weights."""

import functools
import logging
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.base import Encoder, l2_normalize
from medretrieval.encoders.weights import file_sha256, hub_state, local_file, package_file, state_sha256
from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

log = logging.getLogger(__name__)
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Loaded:
    """A model ready to embed.

    Attributes:
        module: in evaluation mode, on its device.
        features: float tensor [n, 3, h, w] -> float tensor [n, dimension].
        transform: the checkpoint's own preprocessing of one RGB image.
        preprocessing: the same in words, for the key of the embeddings.
        pooling: how the model comes to one vector an image.
        weights_sha256: of the file, or of the tensors where there is none.
    """

    module: "torch.nn.Module"
    features: Callable[["torch.Tensor"], "torch.Tensor"]
    transform: Callable[["Image.Image"], "torch.Tensor"]
    preprocessing: dict[str, Any]
    pooling: str
    weights_sha256: str


class TorchEncoder(Encoder):
    """An encoder whose model runs on torch; it is loaded when first needed.

    Args:
        name: short name.
        model: the library's name of the architecture.
        pretrained: where weights come from (see the subclass); None for random weights.
        checkpoint: a local file that takes the place of `pretrained`.
        normalize: scale every vector to length 1.
        precision: "fp32", "bf16" or "fp16" (autocast).
        batch_size: images at a time.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        seed: of random weights.

    Raises:
        UserError: unknown precision, or a checkpoint that is not there.
    """

    library: str

    def __init__(
        self,
        name: str,
        model: str,
        pretrained: str | None,
        checkpoint: str | None,
        normalize: bool,
        precision: str,
        batch_size: int,
        device: str,
        seed: int,
    ) -> None:
        super().__init__(name, batch_size)
        if precision not in PRECISIONS:
            raise UserError(f"encoder.precision={precision}: choose from: {', '.join(PRECISIONS)}")
        self.model = model
        self.pretrained = pretrained
        self.checkpoint = checkpoint
        self.normalize = normalize
        self.precision = precision
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

    def signature(self) -> dict[str, Any]:
        """Model, source of weights, precision and the library's version, without importing torch."""
        return {
            "kind": self.library,
            "model": self.model,
            "pretrained": self.pretrained,
            "file_sha256": file_sha256(self.file) if self.file else None,
            "hub": hub_state() if self.pretrained is not None and self.file is None else None,
            "seed": self.seed if self.random_weights else None,
            "precision": self.precision,
            "normalize": self.normalize,
            "versions": self.versions,
        }

    @property
    def versions(self) -> dict[str, str]:
        """Of the model library and of torch: another one may compute other vectors."""
        return {name: version(name) for name in (self.distribution, "torch")}

    @property
    @abstractmethod
    def distribution(self) -> str:
        """The PyPI name of the model library."""

    def identity(self) -> dict[str, Any]:
        """Weights, preprocessing, pooling, precision and runtime; loads the model."""
        loaded = self.loaded
        return {
            "kind": self.library,
            "model": self.model,
            "weights_sha256": loaded.weights_sha256,
            "random_weights": self.random_weights,
            "preprocessing": loaded.preprocessing,
            "pooling": loaded.pooling,
            "precision": self.precision,
            "normalize": self.normalize,
            "runtime": "torch",
            "versions": self.versions,
        }

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The model, built and filled on first use."""
        import torch

        torch.manual_seed(self.seed)
        if self.random_weights:
            log.warning("encoder=%s has RANDOM WEIGHTS: its scores say nothing about the model", self.name)
        # "fp32" has to mean it: cuDNN would take TF32 by itself.
        torch.backends.cudnn.allow_tf32 = self.precision != "fp32"
        return self.load(self._resolve_device())

    @abstractmethod
    def load(self, device: "torch.device") -> Loaded:
        """Build the model and read its weights.

        Raises:
            UserError: unknown model, missing weights, or a checkpoint of another architecture.
        """

    def weights_hash(self, file: Path | None, module: "torch.nn.Module") -> str:
        """Hash of the file the weights were read from, or of random weights themselves."""
        return file_sha256(file) if file else state_sha256(module.state_dict())

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Preprocess and embed a batch (float32 [n, dimension])."""
        import torch
        from PIL import Image

        loaded, device = self.loaded, self._resolve_device()
        batch = torch.stack([loaded.transform(Image.fromarray(image).convert("RGB")) for image in images])
        with torch.inference_mode(), self._autocast(device):
            vectors = loaded.features(batch.to(device, memory_format=torch.channels_last))
        array: NDArray[np.float32] = vectors.float().cpu().numpy()
        return l2_normalize(array) if self.normalize else array

    def _autocast(self, device: "torch.device") -> AbstractContextManager[Any]:
        import torch

        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(
            device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        )

    def _resolve_device(self) -> "torch.device":
        import torch

        if self.device != "auto":
            try:
                torch.empty(0, device=self.device)
                return torch.device(self.device)
            except (RuntimeError, AssertionError) as error:
                raise UserError(
                    f"device={self.device}: not to be had here ({first_line(error)}); use device=auto"
                ) from error
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
