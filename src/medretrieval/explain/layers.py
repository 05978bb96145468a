"""Which layer of a model still knows where things are: found by watching one pass, by no table of models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medretrieval.errors import UserError

if TYPE_CHECKING:
    import torch

MAX_PREFIX_TOKENS = 16  # class, distillation and register tokens before those of the patches


@dataclass(frozen=True)
class Layer:
    """The last activations of a model that have places which its vector depends on.

    Attributes:
        name: the module's name in the model.
        module: whose output they are.
        grid: rows and columns of places.
        tokens: a transformer's tokens, those of patches after `prefix` others; else a map.
        last: channels are the last axis, not the second.
        prefix: tokens before those of the patches.
    """

    name: str
    module: "torch.nn.Module"
    grid: tuple[int, int]
    tokens: bool
    last: bool
    prefix: int = 0

    def on_grid(self, values: "torch.Tensor") -> "torch.Tensor":
        """Sum over channels, laid out as the image.

        Args:
            values: of one image's activations: [1, c, rows, columns], [1, rows, columns, c], [1, t, c] or
                [t, 1, c].

        Returns:
            [rows, columns].
        """
        if not self.tokens:
            return values[0].sum(dim=-1 if self.last else 0)
        return values.flatten(0, 1)[self.prefix :].sum(dim=-1).reshape(self.grid)


def find_layer(
    module: "torch.nn.Module", features: Callable[["torch.Tensor"], "torch.Tensor"], pixels: "torch.Tensor"
) -> Layer:
    """The last map of a convolutional model, or the last normalized tokens of a transformer that count.

    Of a transformer whose vector is the class token's these are what its last attention reads: later, other
    tokens count no more. Before a normalization would not do, for it takes away how long a token is, so that
    gradient times activation adds up to 0.

    Args:
        module: the model, in evaluation mode.
        features: its forward pass, [1, 3, h, w] -> [1, d].
        pixels: one image as the model takes it, float [1, 3, h, w].

    Raises:
        UserError: no layer with places.
    """
    import torch

    calls, vector = _watch(module, features, pixels)
    # Not the plain sum: a last normalization makes that a constant.
    random = torch.randn(vector.shape, generator=torch.Generator().manual_seed(0)).to(vector)
    shape = (int(pixels.shape[2]), int(pixels.shape[3]))
    for place in range(len(calls) - 1, -1, -1):
        call = calls[place]
        layer = _map_layer(call, shape) or _token_layer(call, calls[:place], shape)
        if layer is not None and _counts(layer, call.output, (vector * random).sum()):
            return layer
    raise UserError(
        "explain: no layer of this model keeps the image's layout, so there is no map; "
        "use a convolutional encoder or a vision transformer"
    )


@dataclass(frozen=True)
class _Call:
    """One call of a submodule and the tensor that it gave."""

    name: str
    module: "torch.nn.Module"
    output: "torch.Tensor"


def _watch(
    module: "torch.nn.Module", features: Callable[["torch.Tensor"], "torch.Tensor"], pixels: "torch.Tensor"
) -> tuple[list[_Call], "torch.Tensor"]:
    """Calls of all submodules in the order in which they end, and the vector, with their graph."""
    import torch

    calls: list[_Call] = []

    def note(name: str) -> Callable[..., None]:
        def hook(part: "torch.nn.Module", inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor):
                calls.append(_Call(name, part, output))

        return hook

    handles = [part.register_forward_hook(note(name)) for name, part in module.named_modules() if name]
    try:
        with torch.enable_grad():
            vector = features(pixels.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    return calls, vector


def _map_layer(call: _Call, image: tuple[int, int]) -> Layer | None:
    """A map of one image in the proportions of the input."""
    shape = tuple(call.output.shape)
    if len(shape) != 4 or shape[0] != 1:
        return None
    for last, (rows, columns) in ((False, shape[2:]), (True, shape[1:3])):
        alike = abs(rows * image[1] - columns * image[0]) < max(image)
        if rows * columns > 1 and alike and rows <= image[0] and columns <= image[1]:
            return Layer(call.name, call.module, (rows, columns), False, last)
    return None


def _token_layer(call: _Call, before: list[_Call], image: tuple[int, int]) -> Layer | None:
    """Normalized tokens on the grid of the patches, which the convolution that cut them shows."""
    shape = tuple(call.output.shape)
    if len(shape) != 3 or 1 not in shape[:2] or "norm" not in type(call.module).__name__.lower():
        return None
    for earlier in reversed(before):
        if (cut := _map_layer(earlier, image)) is not None:
            prefix = shape[0] * shape[1] - cut.grid[0] * cut.grid[1]
            if 0 <= prefix <= MAX_PREFIX_TOKENS:
                return Layer(call.name, call.module, cut.grid, True, True, prefix)
    return None


def _counts(layer: Layer, output: "torch.Tensor", value: "torch.Tensor") -> bool:
    """Whether the vector depends on what the layer says of places."""
    import torch

    if not output.requires_grad:
        return False
    (slope,) = torch.autograd.grad(value, output, retain_graph=True, allow_unused=True)
    return slope is not None and bool(layer.on_grid(slope.abs()).any())
