"""Models of transformers (Wolf et al.): vision models, and those with a text tower (CLIP, SigLIP)."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.runtime.huggingface import (
    CONFIG,
    PREPROCESSOR,
    TEXT_BATCH_SENTENCES,
    WEIGHTS,
    Source,
    filled,
    quiet,
    require_context,
    require_transformers,
    tokenizer_of,
)
from medretrieval.encoders.runtime.torch_runtime import Loaded
from medretrieval.encoders.runtime.weights import HubFiles, read_state
from medretrieval.encoders.torch_model import TorchEncoder
from medretrieval.errors import UserError, choices, first_line
from medretrieval.files import file_sha256
from medretrieval.vectors import l2_normalize

if TYPE_CHECKING:
    import torch

CLS, MEAN, POOLER = POOLINGS = ("cls", "mean", "pooler")
ASIDE = ("classifier.",)  # comes after the vector
# What a preprocessor may do; anything else it does is refused.
KNOWN_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
KEPT_SETTINGS = ("size", "resample", "crop_size", "crop_pct", "rescale_factor", "image_mean", "image_std")


class HubEncoder(TorchEncoder):
    """What both kinds of models of transformers share.

    `model` is a repository of the hub ("owner/name") or a local folder with the same files: config.json,
    preprocessor_config.json, and model.safetensors or pytorch_model.bin, which `pretrained: hub` takes;
    `checkpoint` is another file of weights, and `pretrained: null` means random ones. Preprocessing is that
    of preprocessor_config.json. Weights have to be the model's, tensor for tensor.

    Args:
        revision: a commit, tag or branch of a repository; None for its main branch.
        kwargs: see TorchEncoder.

    Raises:
        UserError: as TorchEncoder, a model that is neither, or another `pretrained`.
    """

    library = "transformers"
    weights: tuple[str, ...] = WEIGHTS  # names that the weights' file may have
    settings: tuple[str, ...] = (CONFIG, PREPROCESSOR)  # files that change the vectors beside it
    pooled: str  # how the model comes to one vector an image, in words
    aside: tuple[str, ...] = ASIDE  # beginnings of names of tensors that do not reach the vector

    def __init__(self, revision: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.pretrained not in ("hub", None):
            raise UserError(
                f"encoder.pretrained={self.pretrained}: a model of transformers takes hub (the weights of "
                "encoder.model, a repository or a folder) or null (random weights)"
            )
        self.revision = revision
        self.source = Source(self.name, self.model, revision)
        _ = self.source.folder  # refuses what is neither

    @property
    def distribution(self) -> str:
        """The PyPI name of the model library."""
        return "transformers"

    @functools.cached_property
    def file(self) -> Path | None:
        """The weights' file where it is known without asking the hub."""
        if self.checkpoint is None and self.pretrained is not None and self.source.folder is not None:
            return self.source.file(*self.weights)
        return super().file

    def signature(self) -> dict[str, Any]:
        """As every torch encoder, with the revision, or the hashes of a folder's settings for its name."""
        beside = {} if self.source.folder is None else self._settings_hashes()
        return super().signature() | {"revision": self.revision} | self._named() | beside

    def identity(self) -> dict[str, Any]:
        """As every torch encoder, with the hashes of the settings' files."""
        return super().identity() | self._named() | self._settings_hashes()

    def hub(self) -> HubFiles:
        """What a run of images takes from the hub."""
        groups = (self.weights, *((name,) for name in self.settings))
        return HubFiles(self.model, self.revision, groups)

    def require_packages(self) -> None:
        """As TorchEncoder: transformers."""
        require_transformers(self.name)

    def _settings_hashes(self) -> dict[str, Any]:
        return {f"{name}_sha256": file_sha256(self.source.file(name)) for name in self.settings}

    def _named(self) -> dict[str, Any]:
        """A folder goes by what is in it, wherever it lies."""
        return {} if self.source.folder is None else {"model": "folder"}

    def load(self, device: "torch.device") -> Loaded:
        """Build the model and read its weights.

        Raises:
            UserError: unknown architecture, missing files, weights of another model, or preprocessing that
                has no like in torchvision.
        """
        self.require_packages()
        file = self.file
        if file is None and not self.random_weights:
            file = self.source.file(*self.weights)
        module = self._module(file).to(device)
        settings = self._preprocessor()
        transform = transform_of(settings, f"encoder={self.name}: {PREPROCESSOR} of {self.model}")
        return Loaded(
            module=module,
            features=self.features(module, transform),
            transform=transform,
            preprocessing=settings,
            pooling=self.pooled,
            weights_sha256=self.weights_hash(file, module),
        )

    def features(self, module: Any, transform: Any) -> Callable[["torch.Tensor"], "torch.Tensor"]:
        """Pixels to vectors; refuses a model that cannot."""
        raise NotImplementedError

    def _module(self, file: Path | None) -> Any:
        import torch
        from transformers import AutoConfig, AutoModel

        folder = self.source.file(CONFIG).parent
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"), quiet():
                cls = type(AutoModel.from_config(config, trust_remote_code=False))
        except Exception as error:  # an unknown or damaged configuration makes it raise anything
            raise UserError(
                f"encoder={self.name}: {self.model} is no model that transformers builds without code of its "
                f"repository ({first_line(error)})"
            ) from error
        self.require(cls, config)
        if file is None:
            with quiet():
                return cls(config).eval()
        return filled(cls, config, read_state(file), file, aside=self.aside)

    def require(self, cls: Any, config: Any) -> None:
        """Refuse an architecture that this encoder is not for, before weights are read."""

    def _preprocessor(self) -> dict[str, Any]:
        from transformers import AutoImageProcessor

        folder = self.source.file(PREPROCESSOR).parent
        try:
            with quiet():
                processor = AutoImageProcessor.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # whatever is wrong with the file
            raise UserError(
                f"encoder={self.name}: no preprocessing can be read from {PREPROCESSOR} of {self.model} "
                f"({first_line(error)})"
            ) from error
        said = {key: _plain(value) for key, value in processor.to_dict().items() if value is not None}
        return {key: value for key, value in said.items() if key.startswith("do_") or key in KEPT_SETTINGS}


class TransformersEncoder(HubEncoder):
    """Any vision model of transformers, through AutoModel.

    Args:
        pooling: "cls" (the class token), "mean" (of the patches' tokens, or of a map's places) or "pooler"
            (the model's own pooled output).
        kwargs: see HubEncoder and TorchEncoder.

    Raises:
        UserError: as HubEncoder, an unknown pooling, or (when loading) one that the model lacks.
    """

    def __init__(self, pooling: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise UserError(f"encoder.pooling={pooling}: {choices(POOLINGS)}")
        self.pooling = self.pooled = pooling
        if pooling != POOLER:
            self.aside = (*ASIDE, "pooler.")

    def signature(self) -> dict[str, Any]:
        """As HubEncoder, with the pooling."""
        return super().signature() | {"pooling": self.pooling}

    def require(self, cls: Any, config: Any) -> None:
        """Refuse models with a text tower, and those that take no images."""
        if hasattr(config, "text_config"):
            raise UserError(
                f"encoder.model={self.model}: {cls.__name__} has a text tower; use encoder=transformers_clip"
            )
        if cls.main_input_name != "pixel_values":
            raise UserError(f"encoder.model={self.model}: {cls.__name__} takes no images")

    def features(self, module: Any, transform: Any) -> Callable[["torch.Tensor"], "torch.Tensor"]:
        """The pooled output, after a trial on a black image.

        Raises:
            UserError: the model has no such pooling, and which it has.
        """
        import torch
        from PIL import Image

        black = transform(Image.new("RGB", (64, 64)))[None].to(next(module.parameters()).device)
        with torch.inference_mode():
            output = module(pixel_values=black)
        hidden, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
        prefix = _prefix_tokens(module.config, hidden, black)
        has = {CLS: prefix > 0, MEAN: True, POOLER: pooled is not None}
        if not has[self.pooling]:
            raise UserError(
                f"encoder.pooling={self.pooling}: {type(module).__name__} of {self.model} has none; "
                + choices([name for name in POOLINGS if has[name]])
            )

        def vectors(pixels: "torch.Tensor") -> "torch.Tensor":
            found = module(pixel_values=pixels)
            if self.pooling == POOLER:
                return found.pooler_output.flatten(1)
            tokens = found.last_hidden_state
            if self.pooling == CLS:
                return tokens[:, 0]
            return tokens.mean(dim=(2, 3)) if tokens.ndim == 4 else tokens[:, prefix:].mean(dim=1)

        return vectors


class TransformersClipEncoder(HubEncoder):
    """A model of transformers with an image and a text tower: CLIP, SigLIP and the like.

    Args:
        kwargs: see HubEncoder and TorchEncoder.
    """

    pooled = "projected"

    def require(self, cls: Any, config: Any) -> None:
        """Refuse models without a text tower in the same space."""
        if not (hasattr(config, "text_config") and hasattr(cls, "get_text_features")):
            raise UserError(
                f"encoder.model={self.model}: {cls.__name__} has no text tower; use encoder=transformers"
            )

    def features(self, module: Any, transform: Any) -> Callable[["torch.Tensor"], "torch.Tensor"]:
        """The model's own image features, projected into the common space."""
        return lambda pixels: _features(module.get_image_features(pixel_values=pixels))

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The model's own."""
        return tokenizer_of(self.source)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As Encoder.encode_text, by the model's own tokenizer and text tower, on torch in fp32."""
        import torch

        module: Any = self.loaded.module
        context, parts = module.config.text_config.max_position_embeddings, []
        require_context(self.name, texts, self.tokenizer(list(texts))["input_ids"], context)
        for begin in range(0, len(texts), TEXT_BATCH_SENTENCES):
            tokens = self.tokenizer(
                list(texts[begin : begin + TEXT_BATCH_SENTENCES]),
                padding="max_length",  # SigLIP was trained with it, and CLIP is told where a sentence ends
                max_length=context,
                return_tensors="pt",
            ).to(self._resolve_device())
            with torch.inference_mode():
                parts.append(_features(module.get_text_features(**tokens)).float().cpu().numpy())
        vectors = np.concatenate(parts)
        return l2_normalize(vectors) if self.normalize else vectors


def _features(output: Any) -> "torch.Tensor":
    """The vectors of get_image_features, which transformers 5 hands out in an object."""
    import torch

    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _prefix_tokens(config: Any, hidden: "torch.Tensor", pixels: "torch.Tensor") -> int:
    """Tokens before those of the patches (class, distillation, registers); 0 where there are none."""
    patch = getattr(config, "patch_size", None)
    if hidden.ndim != 3 or patch is None:
        return 0
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    return max(0, hidden.shape[1] - (pixels.shape[2] // rows) * (pixels.shape[3] // columns))


def _plain(value: Any) -> Any:
    """As JSON has it; sizes are objects in transformers 5."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, bool, int, float)) else getattr(value, "value", str(value))


def transform_of(settings: Mapping[str, Any], where: str) -> Any:
    """A preprocessor of transformers as a transform of torchvision, of one RGB image.

    Resizing is Pillow's, as of its slow processors; the fast ones may differ by a value of 255.

    Args:
        settings: its keys, unset ones left out.
        where: for messages.

    Raises:
        UserError: it does something that is no resize, crop, scaling to [0, 1] or normalization.
    """
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    odd = [key for key, value in settings.items() if key.startswith("do_") and value is True]
    odd = [key for key in odd if key not in KNOWN_STEPS] + [key for key in ("crop_pct",) if key in settings]
    factor = settings.get("rescale_factor", 0) if settings.get("do_rescale") else 0
    if odd or abs(factor * 255 - 1) > 1e-6:
        raise UserError(
            f"{where}: {odd[0] if odd else 'its scaling of values, not to [0, 1],'} is not supported here"
        )
    modes = dict(enumerate(("NEAREST_EXACT", "LANCZOS", "BILINEAR", "BICUBIC", "BOX", "HAMMING")))
    steps: list[Any] = []
    if settings.get("do_resize"):
        mode = InterpolationMode[modes[settings["resample"]]]
        steps.append(Resize(_size(settings["size"], where), mode, antialias=True))
    if settings.get("do_center_crop"):
        crop = settings["crop_size"]
        steps.append(CenterCrop((crop["height"], crop["width"])))
    normalized = settings.get("do_normalize")
    mean, std = (settings["image_mean"], settings["image_std"]) if normalized else ([0.0] * 3, [1.0] * 3)
    return Compose([*steps, ToTensor(), Normalize(mean, std)])


def _size(size: Mapping[str, int], where: str) -> Any:
    if {"height", "width"} <= size.keys():
        return (size["height"], size["width"])
    if set(size) == {"shortest_edge"}:
        return size["shortest_edge"]
    raise UserError(f"{where}: its size ({', '.join(size)}) is not supported here")
