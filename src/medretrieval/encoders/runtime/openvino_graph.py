"""From a torch module to an OpenVINO model, and what is left out of it because nothing depends on it.

Only called where openvino has been imported (see openvino_runtime.import_openvino).
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from medretrieval.encoders.runtime.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

ROWWISE = ("Add", "Subtract", "Multiply", "Divide", "Gelu", "Relu", "Swish", "Sigmoid", "MVN", "MatMul")


def converted(
    module: "torch.nn.Module",
    features: Callable[["torch.Tensor"], "torch.Tensor"],
    example: "torch.Tensor",
    images: int,
) -> Any:
    """The OpenVINO model of `features`, for float32 [images, 3, h, w].

    Args:
        module: what `features` belongs to.
        features: float tensor [n, 3, h, w] -> float tensor [n, dimension].
        example: an input of `features`.
        images: how many at a time.
    """
    import openvino
    import torch
    from openvino.passes import ConstantFolding, Manager

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return features(batch)

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about its own tracer
        # Traced here, for openvino would have torch run the model three times to check the trace.
        traced = torch.jit.trace(Whole().eval(), example, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, example_input=example, input=[-1, *example.shape[1:]])
    model.reshape([images, *example.shape[1:]])
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)
    keep_only_read_tokens(model)
    return model


def fed(model: Any, channels: int, preprocess: Preprocess | None) -> Any:
    """A copy of a converted model that takes raw images of so many channels, and normalizes them itself.

    A first convolution without a border takes the normalization into its weights, and the sum over the
    channels where these are equal: a gray image then costs a third of an RGB one there.

    Args:
        model: takes normalized float32 [n, 3, h, w].
        channels: 1 or 3, of uint8 [n, channels, h, w].
        preprocess: whose normalization; None for a model that is to stay as it is.
    """
    from openvino import opset13

    model = model.clone()
    if preprocess is None:
        return model
    before = model.get_parameters()[0]
    n, _, *size = before.get_output_shape(0)
    raw = opset13.parameter([n, channels, *size], np.uint8)
    pixels = opset13.convert(raw, "f32")
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    scale, shift = 1 / (255 * std), -mean / std
    for reader in before.output(0).get_target_inputs():
        op = reader.get_node()
        if _is_borderless_convolution(op):
            weights = op.input_value(1).get_node().data.astype(np.float64)
            scaled = weights * scale
            scaled = scaled.sum(axis=1, keepdims=True) if channels == 1 else scaled
            said = op.get_attributes()
            steps = (said[key] for key in ("strides", "pads_begin", "pads_end", "dilations"))
            convolution = opset13.convolution(pixels, opset13.constant(scaled.astype(np.float32)), *steps)
            bias = (weights * shift).sum(axis=(1, 2, 3)).reshape(1, -1, 1, 1).astype(np.float32)
            result = opset13.add(convolution, opset13.constant(bias)).output(0)
            for follower in op.output(0).get_target_inputs():
                follower.replace_source_output(result)
        else:
            scaled_pixels = opset13.multiply(pixels, opset13.constant(scale[None].astype(np.float32)))
            normal = opset13.add(scaled_pixels, opset13.constant(shift[None].astype(np.float32)))
            reader.replace_source_output(normal.output(0))
    model.remove_parameter(before)
    model.add_parameters([raw])
    model.validate_nodes_and_infer_types()
    return model


def _is_borderless_convolution(op: Any) -> bool:
    if op.get_type_name() != "Convolution" or op.input_value(1).get_node().get_type_name() != "Constant":
        return False
    said = op.get_attributes()
    return said["auto_pad"] in ("explicit", "valid") and not any([*said["pads_begin"], *said["pads_end"]])


def keep_only_read_tokens(model: Any) -> int:
    """Leave out what a transformer computes for tokens that nothing reads (mutates an OpenVINO model).

    Where the vector is one token of [n, tokens, d], what comes before it and works on each token by itself
    (the last block's projection and MLP) is done for this token alone: the same vectors, and 6 % more
    images a second of a ViT-B/32 in fp32 (12.2 against 11.5 a second of one core, medians of 8 turns).

    Returns:
        How many operations were narrowed.
    """
    from openvino import opset13

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
