"""An image tower as a front, blocks in a row, and what follows, so that the front need run only once."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medretrieval.errors import UserError

if TYPE_CHECKING:
    import torch

MIN_SAME_COSINE = 0.9999  # between the vectors in two parts and those of the whole
SERVED = (
    "timm's VisionTransformer, EfficientNet, ResNet and ConvNeXt, open_clip's VisionTransformer and "
    "ModifiedResNet"
)


@dataclass(frozen=True)
class Family:
    """How one kind of image tower is cut.

    Attributes:
        before: the tower and pixels [n, 3, h, w] -> what the first block reads.
        blocks: name of the module that holds the blocks, or the blocks' own names.
        after: the tower and what the last block gives -> vectors [n, d].
        ends: starts of the names of the parameters that follow the blocks.
    """

    before: Callable[[Any, "torch.Tensor"], "torch.Tensor"]
    blocks: str | tuple[str, ...]
    after: Callable[[Any, "torch.Tensor"], "torch.Tensor"]
    ends: tuple[str, ...]


@dataclass(frozen=True)
class Tower:
    """An image tower that can be cut before its last blocks.

    Attributes:
        module: the model; its state dict names the parameters.
        root: name of the tower within it, "" for the model itself.
        family: how it is cut.
        blocks: names of the blocks within the tower, in order.
    """

    module: "torch.nn.Module"
    root: str
    family: Family
    blocks: tuple[str, ...]

    def front(self, pixels: "torch.Tensor", last: int) -> "torch.Tensor":
        """What the first of the last blocks reads, flattened: float tensor [n, ...] -> [n, numbers]."""
        return self.unflattened(pixels, last).flatten(1)

    def unflattened(self, pixels: "torch.Tensor", last: int) -> "torch.Tensor":
        """As `front`, in its own shape."""
        tower: Any = self.module.get_submodule(self.root)
        x = self.family.before(tower, pixels)
        for name in self.blocks[: len(self.blocks) - last]:
            x = tower.get_submodule(name)(x)
        return x

    def tail(self, module: "torch.nn.Module", x: "torch.Tensor", last: int) -> "torch.Tensor":
        """Vectors [n, d] from what the first of the last blocks reads.

        Args:
            module: the model, or a copy of it.
            x: as `unflattened` gives it.
            last: how many blocks.
        """
        tower: Any = module.get_submodule(self.root)
        for name in self.blocks[len(self.blocks) - last :]:
            x = tower.get_submodule(name)(x)
        return self.family.after(tower, x)

    def names(self, last: int) -> tuple[str, ...]:
        """Names of the parameters of the last blocks and of what follows them, as in the state dict."""
        start = f"{self.root}." if self.root else ""
        blocks = tuple(f"{start}{name}." for name in self.blocks[len(self.blocks) - last :])
        ends = tuple(start + end for end in self.family.ends)
        return tuple(name for name, _ in self.module.named_parameters() if name.startswith(blocks + ends))

    def require_blocks(self, last: int) -> None:
        """Refuse more blocks than there are.

        Raises:
            UserError: naming how many there are.
        """
        if last > len(self.blocks):
            raise UserError(f"adapt.blocks={last}: this model has {len(self.blocks)} blocks; give fewer")


def part(module: "torch.nn.Module", forward: Callable[..., "torch.Tensor"]) -> "torch.nn.Module":
    """A module that runs part of another, whose parameters it has under "module."."""
    import torch

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return forward(self.module, *inputs)

    return Part().eval()


def call(
    whole: "torch.nn.Module", weights: Mapping[str, "torch.Tensor"], *inputs: "torch.Tensor"
) -> "torch.Tensor":
    """Run a `part` with other weights in the place of its own, which stay as they are."""
    import torch

    replaced = {f"module.{name}": tensor for name, tensor in weights.items()}
    found: torch.Tensor = torch.func.functional_call(whole, replaced, inputs)
    return found


def tower_of(module: "torch.nn.Module", what: str) -> Tower:
    """The image tower of a model of timm or open_clip.

    Args:
        module: the model.
        what: names it in messages.

    Raises:
        UserError: a model that cannot be cut.
    """
    for root in ("", "visual", "visual.trunk"):
        try:
            tower = module.get_submodule(root)
        except AttributeError:
            continue
        family = _family(tower)
        if family is None:
            continue
        blocks = family.blocks
        if isinstance(blocks, str):
            blocks = tuple(f"{blocks}.{name}" for name, _ in tower.get_submodule(blocks).named_children())
        if root == "visual.trunk":
            family = _with_head(family)
            return Tower(module, "visual", family, tuple(f"trunk.{name}" for name in blocks))
        return Tower(module, root, family, blocks)
    raise UserError(
        f"{what}: its blocks cannot be trained one by one; that is possible for {SERVED}; "
        "use adapt=linear_head, which trains on the vectors"
    )


def _with_head(family: Family) -> Family:
    """Of a timm trunk within an open_clip model, which has a head of its own."""
    return Family(
        lambda tower, x: family.before(tower.trunk, x),
        family.blocks,
        lambda tower, x: tower.head(family.after(tower.trunk, x)),
        (*(f"trunk.{end}" for end in family.ends), "head."),
    )


def _family(tower: "torch.nn.Module") -> Family | None:
    return next((family for kind, family in _families() if isinstance(tower, kind)), None)


@functools.cache
def _families() -> tuple[tuple[type, Family], ...]:
    """Kinds of image towers; each says what its own `forward` does, and `require_same` compares."""
    from timm.models.convnext import ConvNeXt
    from timm.models.efficientnet import EfficientNet
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer

    timm = (
        (
            VisionTransformer,
            Family(
                lambda m, x: m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(x)))),
                "blocks",
                lambda m, x: m.forward_head(m.norm(x)),
                ("norm.", "fc_norm.", "attn_pool."),
            ),
        ),
        (
            EfficientNet,
            Family(
                lambda m, x: m.bn1(m.conv_stem(x)),
                "blocks",
                lambda m, x: m.forward_head(m.bn2(m.conv_head(x))),
                ("conv_head.", "bn2."),
            ),
        ),
        (
            ResNet,
            Family(
                lambda m, x: m.maxpool(m.act1(m.bn1(m.conv1(x)))),
                ("layer1", "layer2", "layer3", "layer4"),
                lambda m, x: m.forward_head(x),
                (),
            ),
        ),
        (
            ConvNeXt,
            Family(
                lambda m, x: m.stem(x),
                "stages",
                lambda m, x: m.forward_head(m.norm_pre(x)),
                ("norm_pre.", "head."),
            ),
        ),
    )
    return timm + _of_open_clip()


def _of_open_clip() -> tuple[tuple[type, Family], ...]:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    def projected(tower: Any, x: "torch.Tensor") -> "torch.Tensor":
        pooled: torch.Tensor = tower._pool(x)[0]
        return pooled if tower.proj is None else pooled @ tower.proj

    return (
        (
            VisionTransformer,
            Family(
                lambda m, x: m._embeds(x),
                "transformer.resblocks",
                projected,
                ("ln_post.", "proj", "attn_pool."),
            ),
        ),
        (
            ModifiedResNet,
            Family(
                lambda m, x: m.stem(x),
                ("layer1", "layer2", "layer3", "layer4"),
                lambda m, x: m.attnpool(x),
                ("attnpool.",),
            ),
        ),
    )


def require_same(
    tower: Tower,
    whole: Callable[["torch.Tensor"], "torch.Tensor"],
    pixels: "torch.Tensor",
    last: int,
    what: str,
) -> None:
    """Refuse a model whose parts, one after the other, are not the whole.

    Args:
        tower: the model cut.
        whole: its own way to vectors.
        pixels: float32 [n, 3, h, w] to try.
        last: how many blocks are cut off.
        what: names the model in messages.

    Raises:
        UserError: the vectors differ.
    """
    import torch

    with torch.inference_mode():
        ours = tower.tail(tower.module, tower.unflattened(pixels, last), last)
        cosine = torch.nn.functional.cosine_similarity(ours, whole(pixels)).min()
    if not cosine >= MIN_SAME_COSINE:
        raise UserError(
            f"{what}: the model does more than its blocks one after the other (cosine {float(cosine):.4f} "
            "between both ways), so they cannot be trained by themselves; use adapt=linear_head"
        )
