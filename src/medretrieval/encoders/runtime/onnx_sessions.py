"""A model in an ONNX file as ONNX Runtime and OpenVINO run it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from medretrieval.encoders.runtime import openvino_runtime
from medretrieval.errors import UserError


@dataclass(frozen=True)
class Port:
    """An input or output of a model: its name, its shape (None where it is open), and its type as NumPy's."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str


class Session(Protocol):
    """A model that a runtime has loaded.

    Attributes:
        inputs: what it takes.
        outputs: what it gives.
        device: what it runs on.
    """

    inputs: list[Port]
    outputs: list[Port]
    device: str

    def run(self, batch: NDArray[Any], output: int) -> NDArray[Any]:
        """One output of a batch for the only input."""


class OnnxRuntimeSession:
    """A model on ONNX Runtime; see `Session`.

    Args:
        file: the ONNX file.
        device: "auto", "cpu", "cuda" or "cuda:1".
        threads: of the CPU, 0 for all.

    Raises:
        UserError: a device that this ONNX Runtime cannot use.
    """

    TYPES: ClassVar = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}

    def __init__(self, file: Path, device: str, threads: int) -> None:
        import onnxruntime

        cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
        gpu = device.startswith("cuda") or (
            device == "auto" and cuda in onnxruntime.get_available_providers()
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors alone
        number = device.partition(":")[2] or "0"
        wanted: list[Any] = [(cuda, {"device_id": number}), cpu] if gpu else [cpu]
        if gpu and cuda not in onnxruntime.get_available_providers():
            raise UserError(
                f"device={device}: this onnxruntime has no {cuda}; install onnxruntime-gpu, or use cpu"
            )
        self._session = onnxruntime.InferenceSession(file, options, providers=wanted)
        self.device = "cuda" if cuda in self._session.get_providers() else "cpu"
        if device.startswith("cuda") and self.device == "cpu":
            raise UserError(f"device={device}: not available here; use device=auto")
        self.inputs = [self._port(port) for port in self._session.get_inputs()]
        self.outputs = [self._port(port) for port in self._session.get_outputs()]

    def _port(self, port: Any) -> Port:
        shape = tuple(side if isinstance(side, int) else None for side in port.shape)
        return Port(port.name, shape or None, self.TYPES.get(port.type, port.type))

    def run(self, batch: NDArray[Any], output: int) -> NDArray[Any]:
        """One output of a batch for the only input."""
        name = self.outputs[output].name
        found: NDArray[Any] = self._session.run([name], {self.inputs[0].name: batch})[0]
        return found


class OpenVinoSession:
    """A model on OpenVINO, on the CPU; see `Session`.

    Args:
        file: the ONNX file.
        device: "auto" or "cpu".
        threads: of the CPU, 0 for all.
    """

    TYPES: ClassVar = {"f32": "float32", "f16": "float16", "f64": "float64"}

    def __init__(self, file: Path, device: str, threads: int) -> None:
        openvino = openvino_runtime.import_openvino()
        core = openvino.Core()
        model = core.read_model(file)
        hints = {
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": threads,
        }
        self.device = "cpu"
        self.inputs = [self._port(port) for port in model.inputs]
        self.outputs = [self._port(port) for port in model.outputs]
        self._request = core.compile_model(model, "CPU", hints).create_infer_request()

    def _port(self, port: Any) -> Port:
        shape, kind = port.get_partial_shape(), port.get_element_type().get_type_name()
        if shape.rank.is_dynamic:
            return Port(port.get_any_name(), None, self.TYPES.get(kind, kind))
        sides = tuple(None if side.is_dynamic else side.get_length() for side in shape)
        return Port(port.get_any_name(), sides, self.TYPES.get(kind, kind))

    def run(self, batch: NDArray[Any], output: int) -> NDArray[Any]:
        """One output of a batch for the only input."""
        self._request.infer({0: batch})
        found: NDArray[Any] = self._request.get_output_tensor(output).data.copy()
        return found
