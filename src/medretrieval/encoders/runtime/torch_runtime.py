"""A model on torch: autocast, the memory format that suits it, and transfers that overlap on a GPU."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.runtime.preprocess import Preprocess, Transform
from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Loaded:
    """A model ready to embed.

    Attributes:
        module: in evaluation mode, on its device.
        features: float tensor [n, 3, h, w] -> float tensor [n, dimension].
        transform: preprocessing of one RGB image: the checkpoint's own, or that without its crop.
        preprocessing: the same in words, for the key of the embeddings.
        pooling: how the model comes to one vector an image.
        weights_sha256: of the file, or of the tensors where there is none.
    """

    module: "torch.nn.Module"
    features: Callable[["torch.Tensor"], "torch.Tensor"]
    transform: Transform
    preprocessing: dict[str, Any]
    pooling: str
    weights_sha256: str


class TorchRuntime:
    """Runs a model's features on torch.

    Args:
        loaded: the model, on its device.
        preprocess: gives the batches and normalizes them on the device.
        device: where the model is.
        precision: "fp32", or "bf16" or "fp16" (autocast; the weights stay as they are).
        compile: through torch.compile.
    """

    def __init__(
        self,
        loaded: Loaded,
        preprocess: Preprocess,
        device: "torch.device",
        precision: str,
        compile: bool,
    ) -> None:
        import torch

        # NHWC is what convolutions are fastest in on CPUs and on tensor cores.
        self.format = torch.channels_last if convolutional(loaded.module) else torch.contiguous_format
        loaded.module.to(memory_format=self.format)
        self.features = torch.compile(loaded.features) if compile else loaded.features
        self.preprocess = preprocess
        self.device = device
        self.precision = precision

    def prepare(self, images: NDArray[np.uint8]) -> "torch.Tensor":
        """A batch ready for its way to the device (see Preprocess), in pinned memory for a GPU."""
        batch = self.preprocess(images)
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def run(self, batches: Iterable["torch.Tensor"]) -> Iterator[NDArray[np.float32]]:
        """The vectors of prepared batches, in order (float32 [n, dimension] each).

        Raises:
            UserError: the device's memory does not hold a batch, or torch.compile finds no compiler.
        """
        fetch: Callable[[], NDArray[np.float32]] | None = None
        for batch in batches:
            launched = self._launch(batch)
            if fetch is not None:
                yield fetch()
            fetch = launched
        if fetch is not None:
            yield fetch()

    def _launch(self, batch: "torch.Tensor") -> Callable[[], NDArray[np.float32]]:
        """Start a batch, which on a GPU does not wait for its end; the result fetches the vectors."""
        import torch

        # "fp32" has to mean it: cuDNN would take TF32 by itself.
        torch.backends.cudnn.allow_tf32 = self.precision != "fp32"
        try:
            with torch.inference_mode(), self._autocast():
                pixels = self.preprocess.normalize(batch.to(self.device, non_blocking=True))
                vectors = self.features(pixels.contiguous(memory_format=self.format)).float()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"encoder.batch_size={len(batch)}: does not fit into the memory of {self.device}; "
                "make it smaller"
            ) from error
        except Exception as error:
            if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                raise
            raise UserError(
                f"encoder.compile=true: torch.compile fails here ({first_line(error)}); set it to false"
            ) from error
        if self.device.type != "cuda":
            return lambda: vectors.cpu().numpy()
        host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        host.copy_(vectors, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self.device))

        def fetch() -> NDArray[np.float32]:
            done.synchronize()
            array: NDArray[np.float32] = host.numpy()
            return array

        return fetch

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        if self.precision == "fp32":
            return nullcontext()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return torch.autocast(self.device.type, dtype=dtype)


def convolutional(module: "torch.nn.Module") -> bool:
    """Whether a model is made of convolutions; a transformer has a few at most, which cut the patches."""
    import torch

    return sum(isinstance(part, torch.nn.Conv2d) for part in module.modules()) > 4
