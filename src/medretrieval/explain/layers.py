"""Which layer of a model still knows where things are: found by watching one forward pass, by no table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medretrieval.errors import UserError

if TYPE_CHECKING:
    import torch

MOST_PREFIX = 16  # class, distillation and register tokens before those of the patches


@dataclass(frozen=True)
class Layer:
    """The last activations of a model that have places.

    Attributes:
        name: the module's name in the model.
        module: whose activations they are.
        tokens: true for the input of a transformer's last block: tokens of patches after `prefix` others.
            Its output would not do: with a class token as the embedding nothing flows back to the rest.
        last: channels are the last axis of the activations, not the second.
        grid: rows and columns of places.
        prefix: tokens before those of the patches.
    """

    name: str
    module: "torch.nn.Module"
    tokens: bool
    last: bool
    grid: tuple[int, int]
    prefix: int = 0

    def on_grid(self, values: "torch.Tensor") -> "torch.Tensor":
        """Sum over channels, laid out as the image.

        Args:
            values: of one image's activations, [1, c, rows, columns], [1, rows, columns, c], [1, t, c] or
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
    """The last map of a convolutional model, or the input of the last block of a transformer.

    Args:
        module: the model, in evaluation mode.
        features: its forward pass, [1, 3, h, w] -> [1, d].
        pixels: one image as the model takes it, float [1, 3, h, w].

    Raises:
        UserError: no layer with places.
    """
    calls = _watch(module, features, pixels)
    shape = (int(pixels.shape[2]), int(pixels.shape[3]))
    blocks = _blocks(calls)
    for place in range(len(calls) - 1, -1, -1):
        call = calls[place]
        if call.module in blocks:
            return _token_layer(call, calls[:place], shape)
        if (found := _map(call.output, shape)) is not None:
            return Layer(call.name, call.module, False, found[1], found[0])
    raise UserError(
        "explain: no layer of this model keeps the image's layout, so there is no map; "
        "use a convolutional encoder or a vision transformer"
    )


@dataclass(frozen=True)
class _Call:
    """One call of a submodule: the shapes that went in and came out (empty for what is no tensor)."""

    name: str
    module: "torch.nn.Module"
    input: tuple[int, ...]
    output: tuple[int, ...]


def _watch(
    module: "torch.nn.Module", features: Callable[["torch.Tensor"], "torch.Tensor"], pixels: "torch.Tensor"
) -> list[_Call]:
    """Calls of all submodules in the order in which they end."""
    import torch

    calls: list[_Call] = []

    def shape(value: Any) -> tuple[int, ...]:
        return tuple(value.shape) if isinstance(value, torch.Tensor) else ()

    def note(name: str) -> Callable[..., None]:
        def hook(part: "torch.nn.Module", inputs: tuple[Any, ...], output: Any) -> None:
            calls.append(_Call(name, part, shape(inputs[0]) if inputs else (), shape(output)))

        return hook

    handles = [part.register_forward_hook(note(name)) for name, part in module.named_modules() if name]
    try:
        with torch.no_grad():
            features(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _map(shape: tuple[int, ...], image: tuple[int, int]) -> tuple[tuple[int, int], bool] | None:
    """Rows and columns of a map of one image, and whether channels are last; None for anything else."""
    if len(shape) != 4 or shape[0] != 1:
        return None
    for last, (rows, columns) in ((False, shape[2:]), (True, shape[1:3])):
        alike = abs(rows * image[1] - columns * image[0]) < max(image)
        if rows * columns > 1 and alike and rows <= image[0] and columns <= image[1]:
            return (rows, columns), last
    return None


def _blocks(calls: list[_Call]) -> set["torch.nn.Module"]:
    """Innermost modules that turn tokens into as many tokens by an attention they hold."""
    holders = {
        call.module
        for call in calls
        if len(call.input) == 3
        and call.input == call.output
        and 1 in call.input[:2]
        and any(_is_attention(part) for part in call.module.modules() if part is not call.module)
    }
    return {h for h in holders if not any(part in holders for part in h.modules() if part is not h)}


def _is_attention(part: "torch.nn.Module") -> bool:
    return "attention" in type(part).__name__.lower()


def _token_layer(call: _Call, before: list[_Call], image: tuple[int, int]) -> Layer:
    """The block's tokens on the grid of the patches, which the convolution that cut them shows."""
    tokens = call.input[0] * call.input[1]
    for earlier in reversed(before):
        if (found := _map(earlier.output, image)) is not None:
            (rows, columns), _ = found
            if 0 <= (prefix := tokens - rows * columns) <= MOST_PREFIX:
                return Layer(call.name, call.module, True, True, (rows, columns), prefix)
    raise UserError(
        f"explain: the {tokens} tokens of {call.name} lie on no known grid, so there is no map; "
        "use another encoder"
    )
