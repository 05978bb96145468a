"""Models of open_clip (Ilharco et al.): the image tower of a CLIP."""

import functools
import importlib.util
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.runtime.huggingface import TOKENIZER, require_transformers
from medretrieval.encoders.runtime.torch_runtime import Loaded
from medretrieval.encoders.runtime.weights import HubFiles, hub_file, hub_files, require_network
from medretrieval.encoders.torch_model import TorchEncoder
from medretrieval.errors import UserError, first_line
from medretrieval.files import file_sha256
from medretrieval.vectors import l2_normalize

if TYPE_CHECKING:
    import torch

HUB = "hf-hub:"
LOCAL = "local-dir:"  # a folder with open_clip_config.json, for an architecture of one's own
SETTINGS = "open_clip_config.json"
TEXT_BATCH_SENTENCES = 256  # sentences at a time
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class OpenClipEncoder(TorchEncoder):
    """Any model of open_clip.

    `pretrained` is one of open_clip's tags ("openai", "laion2b_s34b_b79k"), "hub" for a model named
    "hf-hub:owner/name", or None (random weights). Preprocessing is the checkpoint's own. A model named
    "local-dir:<folder>" is built from the open_clip_config.json there, with `checkpoint` for weights.

    Args:
        revision: a commit, tag or branch of the hub's repository, of a "hf-hub:" model or of a tag's weights;
            None for its main branch.
        kwargs: see TorchEncoder.
    """

    library = "open_clip"

    def __init__(self, revision: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if revision is not None and not self.model.startswith(HUB) and self.pretrained is None:
            raise UserError(
                f"encoder.revision={revision}: only a model named hf-hub:owner/name and weights of the hub "
                "(encoder.pretrained=<tag>) have revisions"
            )
        if self.pretrained is not None and self.model.startswith(LOCAL):
            raise UserError(
                f"encoder.pretrained={self.pretrained}: a model named local-dir:<folder> has no tags; give "
                "its weights with encoder.checkpoint=<path>, or null for random ones"
            )
        self.revision = revision

    @property
    def distribution(self) -> str:
        """The PyPI name of the model library."""
        return "open_clip_torch"

    def signature(self) -> dict[str, Any]:
        """As every torch encoder, and the hub's revision or the settings beside a checkpoint."""
        hashed = {"settings_sha256": None} | self._settings_hash()
        return super().signature() | {"revision": self.revision} | hashed

    def identity(self) -> dict[str, Any]:
        """As every torch encoder, and the settings that a local file has for the architecture."""
        return super().identity() | self._settings_hash()

    def _settings_hash(self) -> dict[str, Any]:
        """The hash of the settings; of a local-dir: model it stands for the name, wherever the folder is."""
        settings = self._settings
        hashed = {} if settings is None else {"settings_sha256": file_sha256(settings)}
        return hashed | ({"model": LOCAL.rstrip(":")} if self.model.startswith(LOCAL) else {})

    @property
    def _settings(self) -> Path | None:
        """The file of a local-dir: model's settings; of a hf-hub: model's where it lies by the weights."""
        if self.model.startswith(LOCAL):
            file = Path(self.model.removeprefix(LOCAL)).expanduser().absolute() / SETTINGS
            if not file.is_file():
                raise UserError(
                    f"encoder.model={self.model}: there is no {SETTINGS} in that folder; "
                    "give a folder with one (python -m medretrieval.encoders.train_phantom_clip writes one)"
                )
            return file
        if self.file is None or not self.model.startswith(HUB):
            return None
        beside = self.file.with_name(SETTINGS)
        return beside if beside.exists() else None

    def load(self, device: "torch.device") -> Loaded:
        """Build the model and read its weights.

        Raises:
            UserError: unknown model or tag, missing weights, or a checkpoint of another architecture.
        """
        import open_clip

        name, file, preprocessing = self._source()
        try:
            with _quiet():
                module, _, transform = open_clip.create_model_and_transforms(
                    name, device=device, load_weights=False, pretrained_text=False, **preprocessing
                )
        except Exception as error:  # a wrong open_clip_config.json makes it raise anything
            raise UserError(
                f"encoder={self.name}: {name} could not be built ({first_line(error)})"
            ) from error
        if file:
            self._fill(module, file)
        module.eval()
        config = module.visual.preprocess_cfg
        return Loaded(
            module=module,
            features=module.encode_image,
            transform=transform,
            preprocessing=asdict(config)
            if is_dataclass(config) and not isinstance(config, type)
            else dict(config),
            pooling=str(getattr(module.visual, "pool_type", "model default")),
            weights_sha256=self.weights_hash(file, module),
        )

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As Encoder.encode_text, by the model's own tokenizer and text tower, on torch in fp32."""
        import torch

        module: Any = self.loaded.module
        device, parts = self._resolve_device(), []
        for begin in range(0, len(texts), TEXT_BATCH_SENTENCES):
            tokens = self.tokens(texts[begin : begin + TEXT_BATCH_SENTENCES])
            with torch.inference_mode():
                parts.append(module.encode_text(tokens.to(device)).float().cpu().numpy())
        vectors = np.concatenate(parts)
        return l2_normalize(vectors) if self.normalize else vectors

    def tokens(self, texts: Sequence[str]) -> "torch.Tensor":
        """What the text tower reads: token ids, int64 [n, context].

        Raises:
            UserError: a sentence of more tokens; the tokenizers themselves cut it without a word.
        """
        module: Any = self.loaded.module
        # Of towers from Hugging Face the module says how many places there are, not how many were trained.
        context = min(n for n in (module.context_length, self._tokenizer.context_length) if n)
        return self._tokens(texts, context)

    def _tokens(self, texts: Sequence[str], context: int) -> "torch.Tensor":
        """As `tokens`, for so many places."""
        tokens: torch.Tensor = self._tokenizer(list(texts), context_length=context + 1)
        inner = getattr(self._tokenizer, "tokenizer", None)
        pad = getattr(inner, "pad_token_id", 0) or 0
        ends = {getattr(inner, name, None) for name in ("eos_token_id", "sep_token_id")}
        ends |= {pad, getattr(self._tokenizer, "eot_token_id", None)}
        for text, row in zip(texts, tokens, strict=True):
            # Some pad with what they end with, so the last place alone does not tell.
            if row[context] != pad or int(row[context - 1]) not in ends:
                raise UserError(
                    f"text={text[:40]!r}...: longer than the {context} tokens that encoder={self.name} "
                    "reads; shorten it"
                )
        return tokens[:, :context]

    @functools.cached_property
    def _tokenizer(self) -> Any:
        import open_clip

        name = self._source()[0]
        config = open_clip.get_model_config(name) or {}
        if repo := config.get("text_cfg", {}).get("hf_tokenizer_name"):
            require_transformers(self.name)
            hub_files(self.name, repo, TOKENIZER)  # else the hub's client retries for minutes
        with _quiet():
            return open_clip.get_tokenizer(name)

    def _fill(self, module: "torch.nn.Module", file: Path) -> None:
        import open_clip

        try:
            open_clip.load_checkpoint(module, str(file), strict=True, weights_only=True)
        except Exception as error:  # a damaged file makes the readers raise anything
            raise UserError(
                f"{file}: not a checkpoint of {self.model} that can be read safely ({first_line(error)}); "
                "give a file of this model, or set encoder.model to the file's"
            ) from error

    def _source(self) -> tuple[str, Path | None, dict[str, Any]]:
        """Name to build, weights' file (None: random) and preprocessing that goes with the tag."""
        import open_clip

        if self.model.startswith((HUB, LOCAL)):
            return self._source_with_settings()
        if self.model not in open_clip.list_models():
            close = get_close_matches(self.model, open_clip.list_models(), n=4) or ["ViT-B-32", "RN50"]
            raise UserError(
                f"encoder.model={self.model}: open_clip has no such model; the closest: {', '.join(close)}"
            )
        if self.pretrained is None:
            return self.model, self.file, {}
        config: dict[str, Any] = open_clip.get_pretrained_cfg(self.model, self.pretrained)
        if not config:
            tags = open_clip.list_pretrained_tags_by_model(self.model)
            raise UserError(
                f"encoder.pretrained={self.pretrained}: open_clip has no such weights for {self.model}; "
                f"choose from: {', '.join(tags) or 'none, give encoder.checkpoint=<path>'}"
            )
        # A path loses the tag's own preprocessing, so it is handed over beside it.
        preprocessing = {
            argument: config[key]
            for argument, key in (
                ("image_mean", "mean"),
                ("image_std", "std"),
                ("image_interpolation", "interpolation"),
                ("image_resize_mode", "resize_mode"),
            )
            if key in config
        }
        return self.model, self.file or self._tag_file(config), preprocessing

    def _tag_file(self, config: dict[str, Any]) -> Path:
        import open_clip

        if config.get("hf_hub"):
            files = self._tag_on_hub(config)
            return hub_file(self.name, files.repo, files.groups[0], self.revision)
        if self.revision is not None:
            raise UserError(
                f"encoder.revision={self.revision}: the weights {self.pretrained} of {self.model} are on no "
                "hub; set it to null"
            )
        if not (cached := _downloaded(config)).exists():
            require_network(self.name, config["url"], config["url"])
            return Path(open_clip.download_pretrained(config, prefer_hf_hub=False))
        return cached

    def _tag_on_hub(self, config: dict[str, Any]) -> HubFiles:
        repo, _, name = config["hf_hub"].rpartition("/")
        names = (Path(name).with_suffix(".safetensors").name, name) if name else HUB_WEIGHTS
        return HubFiles(repo, self.revision, (names,))

    def hub(self) -> HubFiles:
        """What a run takes from the hub."""
        if self.model.startswith(HUB):
            return HubFiles(self.model.removeprefix(HUB), self.revision, ((SETTINGS,), HUB_WEIGHTS))
        import open_clip

        return self._tag_on_hub(open_clip.get_pretrained_cfg(self.model, self.pretrained))

    def here(self) -> tuple[bool, str]:
        """As TorchEncoder, and of weights that are on no hub but at an address."""
        import open_clip

        config = open_clip.get_pretrained_cfg(self.model, self.pretrained) if self.pretrained else {}
        if self.checkpoint is None and config and not config.get("hf_hub"):
            there = _downloaded(config).exists()
            return (
                there,
                "downloaded" if there else f"{config['url']} is not downloaded; run once with a network",
            )
        return super().here()

    def _source_with_settings(self) -> tuple[str, Path | None, dict[str, Any]]:
        repo = self.model.removeprefix(HUB)
        config = self._settings or hub_file(self.name, repo, (SETTINGS,), self.revision)
        try:
            text = json.loads(config.read_text())["model_cfg"]["text_cfg"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{config}: not the settings of an open_clip model ({type(error).__name__}: {error})"
            ) from error
        if "hf_model_name" in text and importlib.util.find_spec("transformers") is None:
            raise UserError(
                f"encoder={self.name}: {self.model} needs the package transformers; "
                "pip install 'medretrieval[biomedclip]'"
            )
        file = self.file
        if self.pretrained is not None and file is None:
            file = hub_file(self.name, repo, HUB_WEIGHTS, self.revision)
        return f"local-dir:{config.parent}", file, {}


def _downloaded(config: dict[str, Any]) -> Path:
    """Where open_clip keeps what it has from an address."""
    return Path("~/.cache/clip").expanduser() / Path(config["url"]).name


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what open_clip tells the root logger of each step.

    And without its warning of random weights, which a model has until it is handed the real ones.
    """
    root = logging.getLogger()
    root.addFilter(_worth_saying)
    try:
        yield
    finally:
        root.removeFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    news = record.levelno > logging.INFO and "Model initialized randomly" not in record.getMessage()
    return news or "open_clip" not in Path(record.pathname).parts
