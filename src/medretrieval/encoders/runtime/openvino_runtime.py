"""A model on OpenVINO, on the CPU: converted from torch in memory, several requests at a time."""

import importlib.util
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.runtime import openvino_graph
from medretrieval.encoders.runtime.preprocess import Preprocess
from medretrieval.encoders.runtime.torch_runtime import Loaded, convolutional
from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

# Images a request. Fixed, and the last request filled up, so that no vector depends on its batch.
CONVOLUTIONAL_REQUEST_IMAGES, TRANSFORMER_REQUEST_IMAGES = (
    4,
    8,
)  # measured: activations in the cache, against larger matrices
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def installed() -> bool:
    """Whether OpenVINO can be imported, found without importing it."""
    return importlib.util.find_spec("openvino") is not None


def import_openvino() -> Any:
    """The module openvino, without its telemetry, which sends usage data unless opted out of.

    Raises:
        UserError: it is not installed.
    """
    name = "openvino_telemetry"
    before = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = None  # type: ignore[assignment]  # its import fails, and a stub takes its place
    try:
        import openvino
        import openvino.tools.ovc
    except ImportError as error:
        raise UserError(
            f"encoder.runtime=openvino: not available here ({first_line(error)}); "
            "pip install 'medretrieval[openvino]', or set encoder.runtime=torch"
        ) from error
    finally:
        del sys.modules[name]
        sys.modules.update(before)
    return openvino


class OpenVinoRuntime:
    """Runs a model's features on OpenVINO.

    Args:
        loaded: the model, on the CPU; stays as it is.
        preprocess: gives the batches; its normalization becomes part of the converted model.
        precision: "fp32", "bf16" or "fp16".
        threads: of the CPU.

    Raises:
        UserError: OpenVINO is not installed, cannot convert the model, or lacks the precision on this CPU.
    """

    def __init__(
        self,
        loaded: Loaded,
        preprocess: Preprocess,
        precision: str,
        threads: int,
    ) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision.upper() not in able:
            has = [p for p in HINTS if p.upper() in able]
            raise UserError(
                f"encoder.precision={precision}: OpenVINO does not support it on this CPU, which "
                f"supports {', '.join(has)}; choose one of these, or encoder.runtime=torch"
            )
        self.preprocess = preprocess
        self.images = (
            CONVOLUTIONAL_REQUEST_IMAGES if convolutional(loaded.module) else TRANSFORMER_REQUEST_IMAGES
        )
        self._core = core
        self._hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            # Pinned, two runs beside each other would share the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        example = preprocess.normalize(preprocess(np.zeros((2, 32, 32), np.uint8)))
        with _refusing_model():
            self._model = openvino_graph.converted(loaded.module, loaded.features, example, self.images)
        self._channels = 0
        self._requests: list[Any] = []

    def prepare(self, images: NDArray[np.uint8]) -> "torch.Tensor":
        """A batch as the converted model takes it (see Preprocess)."""
        return self.preprocess(images)

    def run(self, batches: Iterable["torch.Tensor"]) -> Iterator[NDArray[np.float32]]:
        """The vectors of prepared batches, in order (float32 [n, dimension] each)."""
        parts = deque[int]()

        def split() -> Iterator[NDArray[Any]]:
            for batch in batches:
                parts.append(-(-len(batch) // self.images))
                yield from (batch[b : b + self.images].numpy() for b in range(0, len(batch), self.images))

        done: list[NDArray[np.float32]] = []
        for vectors in self._infer(split()):
            done.append(vectors)
            if len(done) == parts[0]:
                parts.popleft()
                yield np.concatenate(done)
                done = []

    def _compile(self, channels: int) -> None:
        """Make the requests for gray (1) or RGB (3) images; those for the others are given up."""
        if channels == self._channels:
            return
        raw = None if self.preprocess.geometry is None else self.preprocess
        with _refusing_model():
            model = openvino_graph.fed(self._model, channels, raw)
            compiled = self._core.compile_model(model, "CPU", self._hints)
        # Twice as many as run at once, so that none waits for this thread.
        requests = 2 * compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [compiled.create_infer_request() for _ in range(requests)]
        self._channels = channels

    def _infer(self, chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        idle, busy = deque[Any](), deque[tuple[Any, int]]()

        def take() -> NDArray[np.float32]:
            request, n = busy.popleft()
            request.wait()
            idle.append(request)
            vectors: NDArray[np.float32] = request.get_output_tensor(0).data[:n].astype(np.float32)
            return vectors

        try:
            for chunk in chunks:
                if not idle and not busy:
                    self._compile(chunk.shape[1])
                    idle.extend(self._requests)
                if not idle:
                    yield take()
                request = idle.popleft()
                missing = self.images - len(chunk)
                filled = np.concatenate([chunk, np.zeros_like(chunk, shape=(missing, *chunk.shape[1:]))])
                request.start_async({0: filled if missing else chunk})
                busy.append((request, len(chunk)))
            while busy:
                yield take()
        finally:
            for request, _ in busy:  # a consumer that stopped early leaves some running
                request.wait()


@contextmanager
def _refusing_model() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever operation OpenVINO lacks makes it raise anything
        raise UserError(
            f"encoder.runtime=openvino: cannot convert this model ({first_line(error)}); "
            "set encoder.runtime=torch"
        ) from error
