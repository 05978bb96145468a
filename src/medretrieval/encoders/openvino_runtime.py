"""A model on OpenVINO, on the CPU: converted from torch in memory, several requests at a time."""

import importlib.util
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.preprocess import Preprocess
from medretrieval.encoders.torch_runtime import convolutional
from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

# Images a request. Fixed, and the last request filled up, so that no vector depends on its batch.
CONVOLUTIONAL, TRANSFORMER = 4, 8  # measured: activations in the cache, against larger matrices
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
ROWWISE = ("Add", "Subtract", "Multiply", "Divide", "Gelu", "Relu", "Swish", "Sigmoid", "MVN", "MatMul")


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
            f"encoder.runtime=openvino: not to be had here ({first_line(error)}); "
            "pip install 'medretrieval[openvino]', or set encoder.runtime=torch"
        ) from error
    finally:
        del sys.modules[name]
        sys.modules.update(before)
    return openvino


class OpenVinoRuntime:
    """Runs a model's features on OpenVINO.

    Args:
        module: in evaluation mode, on the CPU; stays as it is.
        features: float tensor [n, 3, h, w] -> float tensor [n, dimension].
        preprocess: gives the batches; its normalisation becomes part of the converted model.
        precision: "fp32", "bf16" or "fp16".
        threads: of the CPU.

    Raises:
        UserError: OpenVINO is not installed, cannot convert the model, or lacks the precision on this CPU.
    """

    def __init__(
        self,
        module: "torch.nn.Module",
        features: Callable[["torch.Tensor"], "torch.Tensor"],
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
                f"encoder.precision={precision}: OpenVINO lacks it on this CPU, which has {', '.join(has)}; "
                "choose one of these, or encoder.runtime=torch"
            )
        self.preprocess = preprocess
        self.images = CONVOLUTIONAL if convolutional(module) else TRANSFORMER
        try:
            model = _convert(module, features, preprocess, self.images)
            compiled = core.compile_model(
                model,
                "CPU",
                {
                    "PERFORMANCE_HINT": "THROUGHPUT",
                    "INFERENCE_PRECISION_HINT": HINTS[precision],
                    "INFERENCE_NUM_THREADS": threads,
                    # Pinned, two runs beside each other would share the first cores.
                    "ENABLE_CPU_PINNING": False,
                },
            )
        except Exception as error:  # whatever operation it lacks makes it raise anything
            raise UserError(
                f"encoder.runtime=openvino: cannot convert this model ({first_line(error)}); "
                "set encoder.runtime=torch"
            ) from error
        # Twice as many as run at once, so that none waits for this thread.
        requests = 2 * compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [compiled.create_infer_request() for _ in range(requests)]

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

    def _infer(self, chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        idle, busy = deque(self._requests), deque[tuple[Any, int]]()

        def take() -> NDArray[np.float32]:
            request, n = busy.popleft()
            request.wait()
            idle.append(request)
            vectors: NDArray[np.float32] = request.get_output_tensor(0).data[:n].astype(np.float32)
            return vectors

        try:
            for chunk in chunks:
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


def _convert(
    module: "torch.nn.Module",
    features: Callable[["torch.Tensor"], "torch.Tensor"],
    preprocess: Preprocess,
    images: int,
) -> Any:
    """The OpenVINO model of normalisation and features, for requests of so many images."""
    import openvino
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return features(preprocess.normalise(batch))

    example = preprocess(np.zeros((2, 32, 32), np.uint8))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about its own tracer
        model = openvino.convert_model(Whole().eval(), example_input=example, input=[-1, *example.shape[1:]])
    model.reshape([images, *example.shape[1:]])
    keep_only_read_tokens(model)
    return model


def keep_only_read_tokens(model: Any) -> int:
    """Leave out what a transformer computes for tokens that nothing reads (mutates an OpenVINO model).

    Where the vector is one token of [n, tokens, d], what comes before it and works on each token by itself
    (the last block's projection and MLP: one twentieth of a ViT-B/32) is done for this token alone.

    Returns:
        How many operations were narrowed.
    """
    from openvino import opset13
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)
    narrowed = 0
    for pick in [op for op in model.get_ordered_ops() if _picks_a_token(op)]:
        inside = _read_only_by(pick, model)
        index, cuts = opset13.constant(pick.input_value(1).get_node().data.reshape(1)), {}
        for op in inside.values():
            for at in range(op.get_input_size()):
                source = op.input_value(at)
                producer = source.get_node()
                if producer.get_name() in inside or len(source.get_partial_shape()) < 3 or _is_shared(source):
                    continue
                key = producer.get_name(), source.get_index()
                if key not in cuts:
                    cuts[key] = opset13.gather(source, index, opset13.constant(1)).output(0)
                op.input(at).replace_source_output(cuts[key])
        if inside:
            shape = pick.input_value(1).get_shape()
            pick.input(1).replace_source_output(opset13.constant(np.zeros(shape, np.int64)).output(0))
        narrowed += len(inside)
    model.validate_nodes_and_infer_types()
    return narrowed


def _picks_a_token(op: Any) -> bool:
    """Whether this is x[:, i] of [n, tokens, d]."""
    if op.get_type_name() != "Gather" or op.get_attributes()["batch_dims"] != 0:
        return False
    index, axis = (op.input_value(i).get_node() for i in (1, 2))
    constant = all(node.get_type_name() == "Constant" for node in (index, axis))
    return (
        constant
        and len(op.input_value(0).get_partial_shape()) == 3
        and axis.data == 1
        and index.data.size == 1
    )


def _read_only_by(pick: Any, model: Any) -> dict[str, Any]:
    """The operations by name that work on each token by itself and whose tokens only `pick` reads."""
    inside = {pick.get_name(): pick}
    for op in reversed(model.get_ordered_ops()):
        readers = [
            reader.get_node().get_name() for output in op.outputs() for reader in output.get_target_inputs()
        ]
        if readers and all(name in inside for name in readers) and _works_by_token(op):
            inside[op.get_name()] = op
    del inside[pick.get_name()]
    return inside


def _works_by_token(op: Any) -> bool:
    shapes = [list(op.input_value(i).get_shape()) for i in range(op.get_input_size())]
    if op.get_type_name() not in ROWWISE or len(op.output(0).get_partial_shape()) != 3:
        return False
    if op.get_type_name() == "MatMul":
        return len(shapes[0]) == 3 and len(shapes[1]) == 2 and not op.get_attributes()["transpose_a"]
    if op.get_type_name() == "MVN":
        return list(op.input_value(1).get_node().data) in ([-1], [2])
    return all(len(shape) == 3 or len(shape) < 2 or shape[-2] == 1 for shape in shapes)


def _is_shared(source: Any) -> bool:
    """Whether a value is the same for every token."""
    return source.get_shape()[1] == 1
