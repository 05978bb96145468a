"""BioViL-T (Bannur et al., CVPR 2023, arXiv:2301.04558): the towers of one image and of sentences.

Written after the PyPI package hi-ml-multimodal 0.2.2, of which nothing is needed here.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.runtime.huggingface import (
    CONFIG,
    WEIGHTS,
    filled,
    part,
    require_context,
    require_transformers,
    sentences_to_vectors,
    tokenizer_of,
)
from medretrieval.encoders.runtime.steps import Gray, Stretch
from medretrieval.encoders.runtime.torch_runtime import Loaded
from medretrieval.encoders.runtime.weights import read_state, strict_state
from medretrieval.encoders.transformers_models import HubEncoder
from medretrieval.errors import UserError, first_line
from medretrieval.vectors import l2_normalize

if TYPE_CHECKING:
    import torch

IMAGE_WEIGHTS = "biovil_t_image_model_proj_size_128.pt"
DIMENSION, STATIC, BACKBONE = 128, 256, 2048  # numbers of a vector, of a patch, of a place of the ResNet
POOLER_BLOCKS = 3
TEXT_HEAD = "cls_projection_head."
# The parts of the file of image weights, by the beginnings of their names.
RESNET, PROJECT, PREVIOUS, PROJECTOR = (
    "encoder.encoder.", "encoder.backbone_to_vit.", "encoder.missing_", "projector.model.",
)  # fmt: skip
RESIZE_PIXELS, CROP_PIXELS = 512, 448
STEPS = "stretched to 0 and 255, gray, resized to 512, cropped to 448, in [0, 1]"


class BioVilTEncoder(HubEncoder):
    """BioViL-T: a ResNet50 whose patches are projected, and CXR-BERT for sentences.

    The model was trained on pairs of a radiograph and the one before it. Here an image has none before it,
    which upstream has a learned embedding for: the transformer that compares the two is not run, though its
    weights have to be in the file. `model` is the repository, or a folder with its files; `checkpoint`
    another file of the image tower's weights.

    Args:
        kwargs: see HubEncoder and TorchEncoder.
    """

    library = "biovil_t"
    weights = (IMAGE_WEIGHTS,)
    settings = ()

    @property
    def distribution(self) -> str:
        """The PyPI name of the library that has its backbone."""
        return "torchvision"

    def require_packages(self) -> None:
        """As TorchEncoder: images need none that is not everywhere, sentences need transformers."""

    def load(self, device: "torch.device") -> Loaded:
        """Build the image tower and fill it.

        Raises:
            UserError: weights that are missing, or are not exactly BioViL-T's.
        """
        import torch

        file = self.file
        if file is None and not self.random_weights:
            file = self.source.file(*self.weights)
        parts = _parts()
        if file is not None:
            state = read_state(file)
            wanted = {prefix + n: t for prefix, m in parts.items() for n, t in m.state_dict().items()}
            exact = strict_state(file, state, wanted | _pooler(), "BioViL-T")
            for prefix, module in parts.items():
                module.load_state_dict(part(exact, prefix))
        tower = torch.nn.ModuleList(parts.values()).eval().to(device)
        return Loaded(
            module=tower,
            features=_features(*tower),
            transform=_transform(),
            preprocessing={"steps": STEPS},
            pooling="mean of projected patches",
            weights_sha256=self.weights_hash(file, tower),
        )

    @functools.cached_property
    def tokenizer(self) -> Any:
        """CXR-BERT's."""
        return tokenizer_of(self.source, "BertTokenizer")

    @functools.cached_property
    def text_tower(self) -> tuple[Any, Any]:
        """CXR-BERT and its projection.

        Raises:
            UserError: files that are missing, damaged or of another model; no weights of an image tower with
                random ones.
        """
        require_transformers(self.name)
        from transformers import BertConfig, BertForMaskedLM

        if self.random_weights:
            raise UserError(
                f"encoder={self.name}: encoder.pretrained=null gives random weights to images alone; set it "
                "to hub for sentences"
            )
        try:
            said = json.loads(self.source.file(CONFIG).read_text())
            config = BertConfig(**{k: v for k, v in said.items() if k not in ("model_type", "auto_map")})
        except (ValueError, TypeError) as error:
            raise UserError(
                f"encoder={self.name}: {CONFIG} of {self.model} is damaged ({first_line(error)})"
            ) from error
        file = self.source.file(*WEIGHTS)
        state = read_state(file)
        head = _text_head(config.hidden_size, said.get("projection_size", DIMENSION))
        own = {name: tensor for name, tensor in state.items() if name.startswith(TEXT_HEAD)}
        wanted = {TEXT_HEAD + name: tensor for name, tensor in head.state_dict().items()}
        head.load_state_dict(part(strict_state(file, own, wanted, "CXR-BERT"), TEXT_HEAD))
        rest = {name: tensor for name, tensor in state.items() if name not in own}
        device = self._resolve_device()
        return filled(BertForMaskedLM, config, rest, file).bert.to(device), head.eval().to(device)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As Encoder.encode_text, on torch in fp32; without a sentence's last . ? or !, as upstream."""
        import torch

        bert, head = self.text_tower
        ids = self.tokenizer([text.rstrip("!?.") for text in texts])["input_ids"]
        require_context(self.name, texts, ids, bert.config.max_position_embeddings)

        def embed(rows: NDArray[np.int64]) -> "torch.Tensor":
            tokens = torch.from_numpy(rows).to(self._resolve_device())
            hidden = bert(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
            wide = torch.nn.functional.gelu(head["dense_to_hidden"](hidden[:, 0]))
            return head["dense_to_output"](head["LayerNorm"](wide))

        vectors = sentences_to_vectors(ids, embed)
        return l2_normalize(vectors) if self.normalize else vectors


def _parts() -> dict[str, Any]:
    """The parts of the image tower that run, by the beginnings of their tensors' names, in order."""
    import torch
    from torch import nn
    from torchvision.models import resnet50

    previous = nn.ParameterDict({"previous_emb": nn.Parameter(torch.zeros(1, STATIC, 1, 1))})
    projector = nn.Sequential(
        nn.Conv2d(2 * STATIC, DIMENSION, 1, bias=False),
        nn.BatchNorm2d(DIMENSION),
        nn.ReLU(),
        nn.Conv2d(DIMENSION, DIMENSION, 1),
    )
    project = nn.Conv2d(BACKBONE, STATIC, 1, bias=False)
    return {RESNET: resnet50(weights=None), PROJECT: project, PREVIOUS: previous, PROJECTOR: projector}


def _pooler() -> dict[str, "torch.Tensor"]:
    """Names and shapes of what compares two images, which one image does not need."""
    import torch

    def of(*shape: int) -> "torch.Tensor":
        return torch.empty(shape, device="meta")

    square, line = of(STATIC, STATIC), of(STATIC)
    block: Mapping[str, Any] = {
        **{f"{norm}.{kind}": line for norm in ("norm1", "norm2") for kind in ("weight", "bias")},
        **{f"attn.proj_{which}.weight": square for which in "qkv"},
        **{f"{layer}.weight": square for layer in ("attn.proj", "mlp.fc1", "mlp.fc2")},
        **{f"{layer}.bias": line for layer in ("attn.proj", "mlp.fc1", "mlp.fc2")},
    }
    pooler = "encoder.vit_pooler."
    blocks = {f"{pooler}blocks.{i}.{name}": t for i in range(POOLER_BLOCKS) for name, t in block.items()}
    ends = {f"{pooler}norm_post.weight": line, f"{pooler}norm_post.bias": line}
    return blocks | ends | {f"{pooler}type_embed": of(2, 1, STATIC)}


def _features(
    resnet: Any, project: Any, previous: Any, projector: Any
) -> Callable[["torch.Tensor"], "torch.Tensor"]:
    import torch

    def vectors(pixels: "torch.Tensor") -> "torch.Tensor":
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(pixels))))
        patches = project(resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x)))))
        nothing = previous["previous_emb"].expand(patches.shape[0], -1, *patches.shape[2:])
        return projector(torch.cat([patches, nothing], dim=1)).mean(dim=(2, 3))

    return vectors


def _text_head(width: int, dimension: int) -> Any:
    from torch import nn

    return nn.ModuleDict(
        {
            "dense_to_hidden": nn.Linear(width, dimension),
            "LayerNorm": nn.LayerNorm(dimension, eps=1e-12),
            "dense_to_output": nn.Linear(dimension, dimension),
        }
    )


def _transform() -> Any:
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    # What is in the file's own range stays there: a normalization by 0 and 1, so that batches can be made.
    steps = [Stretch(), Gray(), Resize(RESIZE_PIXELS, antialias=True), CenterCrop(CROP_PIXELS)]
    return Compose([*steps, ToTensor(), Normalize([0.0] * 3, [1.0] * 3)])
