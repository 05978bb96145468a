"""LoRA: a low-rank update of the linear layers in the MLPs of a vision transformer's last blocks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from medretrieval.adapt.training import require_numbers
from medretrieval.adapt.tuning.blocks import LabelTuning
from medretrieval.adapt.tuning.tower import Tower
from medretrieval.adapt.tuning.tuned import require_names
from medretrieval.encoders.composed.composed import Tensors
from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

LAYERS = ("fc1", "fc2", "c_fc", "c_proj")  # of timm's and of open_clip's MLPs
A, B = ".lora_A", ".lora_B"


class Lora(LabelTuning):
    """W + alpha / rank B A (Hu et al. 2021, arXiv:2106.09685) by peft, with W as it is.

    Targets are the MLPs' linear layers by name and never attention: peft on torch's MultiheadAttention, which
    open_clip has, merges the update of its projection twice (peft PR 3774). What is kept are the factors;
    the encoder embeds with the merged weights.

    Args:
        rank: of the update.
        alpha: its scale is alpha / rank.
        kwargs: see LabelTuning.

    Raises:
        UserError: a value out of its range.
    """

    def __init__(self, rank: int, alpha: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_numbers("rank", [rank], whole=True, least=1)
        require_numbers("alpha", [alpha], whole=False, least=0, above=True)
        self.rank, self.alpha = rank, alpha

    def signature(self) -> dict[str, Any]:
        """What determines the fit beside data and choice."""
        return super().signature() | {"rank": self.rank, "alpha": self.alpha}

    def learned(self, module: "torch.nn.Module", tower: Tower) -> Mapping[str, "torch.nn.Parameter"]:
        """The factors, which are put into the copy of the model.

        Raises:
            UserError: peft is not installed, or the blocks have no such layers.
        """
        targets = self._targets(module, tower)
        inject(module, targets, self.rank, self.alpha)
        return {
            f"{name}{end}": getattr(module.get_submodule(name), end[1:]).default.weight
            for name in targets
            for end in (A, B)
        }

    def weights(self, module: "torch.nn.Module", tower: Tower, fitted: Tensors) -> dict[str, "torch.Tensor"]:
        """The merged weights of the layers.

        Raises:
            UserError: the factors are not exactly those of the model's layers, by name and shape.
        """
        wanted: dict[str, tuple[int, ...]] = {}
        for name in self._targets(module, tower):
            out, into = module.get_parameter(f"{name}.weight").shape
            wanted |= {f"{name}{A}": (self.rank, int(into)), f"{name}{B}": (int(out), self.rank)}
        require_names(fitted, wanted, f"adapt={self.name}")
        return {
            f"{name}.weight": merged(
                module.get_parameter(f"{name}.weight").detach().cpu(),
                fitted[f"{name}{A}"],
                fitted[f"{name}{B}"],
                self.alpha / self.rank,
            )
            for name in self._targets(module, tower)
        }

    def _targets(self, module: "torch.nn.Module", tower: Tower) -> list[str]:
        """Names of the MLPs' linear layers in the last blocks."""
        import torch

        targets = [
            name.removesuffix(".weight")
            for name in tower.names(self.blocks)
            if ".mlp." in name
            and name.endswith(".weight")
            and name.split(".")[-2] in LAYERS
            and isinstance(module.get_submodule(name.removesuffix(".weight")), torch.nn.Linear)
        ]
        if not targets:
            raise UserError(
                f"adapt={self.name}: the last blocks of this model have no MLP with linear layers "
                f"({', '.join(LAYERS)}), which a vision transformer has; use adapt=last_blocks"
            )
        return targets


def inject(module: "torch.nn.Module", targets: list[str], rank: int, alpha: float) -> None:
    """Put peft's LoRA layers in the place of linear layers, in place.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(
            f"adapt=lora: needs the package peft ({first_line(error)}); pip install 'medretrieval[peft]'"
        ) from error
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, bias="none")
    inject_adapter_in_model(config, module)


def merged(weight: "torch.Tensor", a: Any, b: Any, scale: float) -> "torch.Tensor":
    """W + scale B A.

    Args:
        weight: float32 [out, in].
        a: float32 [rank, in].
        b: float32 [out, rank].
        scale: alpha / rank.
    """
    import torch

    return weight + scale * torch.from_numpy(np.asarray(b) @ np.asarray(a)).to(weight.dtype)
