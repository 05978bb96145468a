"""MedCLIP (Wang et al., EMNLP 2022, arXiv:2210.10163), from its published pytorch_model.bin.

Written after github.com/RyanWangZf/MedCLIP; its package does not load its own file (issue 37 there).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.medical.published import PublishedEncoder
from medretrieval.encoders.runtime.huggingface import (
    Source,
    filled,
    part,
    quiet,
    require_context,
    require_transformers,
    sentences_to_vectors,
    tokenizer_of,
)
from medretrieval.encoders.runtime.steps import Gray, PadSquare
from medretrieval.encoders.runtime.torch_runtime import Loaded
from medretrieval.encoders.runtime.weights import read_state, strict_state
from medretrieval.errors import UserError, choices
from medretrieval.vectors import l2_normalize

if TYPE_CHECKING:
    import torch

VIT, RESNET = MODELS = ("medclip-vit", "medclip-resnet")
SIDE_PIXELS = 224
MEAN, STD = 0.5862785803043838, 0.27950088968644304
CONTEXT_TOKENS = 77
TEXT_LAYERS = (1, 2, -1)  # of the hidden states, whose mean over layers and tokens is a sentence's
# Beginnings of the file's names, and what the parts are called here.
VISION, VISION_HEAD = "vision_model.model.", "vision_model.projection_head."
TEXT, TEXT_HEAD = "text_model.model.", "text_model.projection_head."
NAMES = {VISION: "vision", VISION_HEAD: "vision_head", TEXT: "text", TEXT_HEAD: "text_head"}
LOGIT_SCALE = "logit_scale"  # of the training's loss
STEPS = "gray, padded to a square with black, resized to 224 (bicubic)"
SWIN_TINY: dict[str, Any] = {}  # transformers' own defaults
BIO_CLINICAL_BERT: dict[str, Any] = {"vocab_size": 28996}  # the others are those of BERT-base


class MedClipEncoder(PublishedEncoder):
    """MedCLIP's image tower (Swin-tiny or ResNet50) and its text tower (Bio_ClinicalBERT), both projected.

    `model` is "medclip-vit" or "medclip-resnet"; the file holds both towers. Images are made gray, padded to
    a square with black, resized to 224 (bicubic) and normalized, as upstream does. Sentences are not padded:
    upstream's mean counts padding too, so that there a sentence's vector hangs on those beside it; this one
    is that of the sentence alone.

    Args:
        tokenizer: of Bio_ClinicalBERT, which is not in the file: a repository of the hub or a local folder.
        kwargs: see PublishedEncoder and TorchEncoder.

    Raises:
        UserError: as PublishedEncoder, or another model.
    """

    library = "medclip"
    swin, bert = SWIN_TINY, BIO_CLINICAL_BERT

    def __init__(self, tokenizer: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.model not in MODELS:
            raise UserError(f"encoder.model={self.model}: {choices(MODELS)}")
        self.tokenizer_name = tokenizer

    @property
    def distribution(self) -> str:
        """The PyPI name of the library that has its towers."""
        return "transformers"

    def signature(self) -> dict[str, Any]:
        """As every torch encoder, with the tokenizer's name."""
        self.require_packages()
        return super().signature() | {"tokenizer": self.tokenizer_name}

    def identity(self) -> dict[str, Any]:
        """As every torch encoder, with the tokenizer's name."""
        return super().identity() | {"tokenizer": self.tokenizer_name}

    def require_packages(self) -> None:
        """As TorchEncoder: transformers."""
        require_transformers(self.name)

    def load(self, device: "torch.device") -> Loaded:
        """Build both towers and fill them.

        Raises:
            UserError: weights that are missing, or are not exactly MedCLIP's.
        """
        self.require_packages()
        import torch

        file = self.file
        module = torch.nn.ModuleDict(self._towers(file)).eval().to(device)
        return Loaded(
            module=module,
            features=self._features(module),
            transform=_transform(),
            preprocessing={"steps": STEPS, "mean": MEAN, "std": STD},
            pooling="projected",
            weights_sha256=self.weights_hash(file, module),
        )

    def _features(self, module: Any) -> Callable[["torch.Tensor"], "torch.Tensor"]:
        if self.model == RESNET:
            return lambda pixels: module["vision"](pixels)
        return lambda pixels: module["vision_head"](module["vision"](pixel_values=pixels).pooler_output)

    def _towers(self, file: Path | None) -> dict[str, "torch.nn.Module"]:
        """Both towers and their projections, with the file's weights, or random ones without a file."""
        from transformers import BertConfig, BertModel, SwinConfig, SwinModel

        swin, bert = SwinConfig(**self.swin), BertConfig(**self.bert)
        of_library = {TEXT: (BertModel, bert)} | ({VISION: (SwinModel, swin)} if self.model == VIT else {})
        own = {TEXT_HEAD: _head(bert.hidden_size)}
        own |= {VISION_HEAD: _head(swin.hidden_size)} if self.model == VIT else {VISION: _resnet()}
        if file is None:
            with quiet():
                return {NAMES[p]: cls(c) for p, (cls, c) in of_library.items()} | _named(own)
        state = read_state(file)
        left = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(of_library))}
        wanted = {prefix + n: tensor for prefix, m in own.items() for n, tensor in m.state_dict().items()}
        scale = {LOGIT_SCALE: state[LOGIT_SCALE].new_zeros(()) if LOGIT_SCALE in state else 0}
        exact = strict_state(file, left, wanted | scale, self.model)
        for prefix, module in own.items():
            module.load_state_dict(part(exact, prefix))
        towers = {NAMES[p]: filled(cls, c, state, file, p) for p, (cls, c) in of_library.items()}
        return towers | _named(own)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """Bio_ClinicalBERT's."""
        return tokenizer_of(Source(self.name, self.tokenizer_name))

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As Encoder.encode_text, on torch in fp32."""
        import torch

        module: Any = self.loaded.module
        ids = self.tokenizer(list(texts))["input_ids"]
        require_context(self.name, texts, ids, CONTEXT_TOKENS)

        def embed(rows: NDArray[np.int64]) -> "torch.Tensor":
            tokens = torch.from_numpy(rows).to(self._resolve_device())
            hidden = module["text"](
                input_ids=tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True
            ).hidden_states
            mean = torch.stack([hidden[i] for i in TEXT_LAYERS], dim=1).mean(dim=2).mean(dim=1)
            return module["text_head"](mean)

        vectors = sentences_to_vectors(ids, embed)
        return l2_normalize(vectors) if self.normalize else vectors


def _transform() -> Any:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    return Compose(
        [
            Gray(),
            PadSquare(SIDE_PIXELS),
            Resize(SIDE_PIXELS, InterpolationMode.BICUBIC, antialias=True),
            CenterCrop(SIDE_PIXELS),
            ToTensor(),
            Normalize([MEAN] * 3, [STD] * 3),
        ]
    )


def _head(width: int) -> "torch.nn.Linear":
    import torch

    return torch.nn.Linear(width, 512, bias=False)


def _resnet() -> Any:
    """Torchvision's ResNet50 whose classifier is the projection."""
    import torchvision

    model = torchvision.models.resnet50(weights=None)
    model.fc = _head(model.fc.in_features)
    return model


def _named(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {NAMES[prefix]: module for prefix, module in parts.items()}
