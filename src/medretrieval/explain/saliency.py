"""Maps of one image: how much each region adds to its similarity with another image or a sentence.

Gradient times activation at the last layer with places (Selvaraju et al. 2017, Grad-CAM; Draelos and
Carin 2020, HiResCAM, which leaves the gradients unpooled and so also holds for tokens), by captum.

What is explained is the cosine with the image's own length held fixed (Stylianou et al. 2019, Visualizing
deep similarity networks): where a model averages its last map, the cells then add up to the cosine. The
gradient of the cosine itself is blind to what an image is made of, for making its vector longer does not
change it: its cells add up to 0, and removing what they mark lowered the cosine of real weights no faster
than removing random regions (experiments/explanations.md).
"""

import functools
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.base import Encoder
from medretrieval.encoders.runtime.preprocess import vectorize
from medretrieval.encoders.runtime.torch_runtime import Loaded
from medretrieval.encoders.torch_model import TorchEncoder
from medretrieval.errors import UserError
from medretrieval.explain.layers import Layer, find_layer
from medretrieval.images.geometry import Placement, placement
from medretrieval.vectors import l2_normalize

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Map:
    """What an image's regions do to a similarity.

    Attributes:
        values: float32 [h, w] at the raw image's resolution: above 0 where a region adds to the similarity,
            below 0 where it takes away from it, 0 where the encoder does not look.
        cosine: of the two vectors.
        visible: bool [h, w], what the encoder's crop leaves of the image.
    """

    values: NDArray[np.float32]
    cosine: float
    visible: NDArray[np.bool_]

    @property
    def support(self) -> NDArray[np.float32]:
        """What speaks for the similarity: the values above 0, else 0 (float32 [h, w])."""
        return np.maximum(self.values, 0)


def require_explainable(encoder: Encoder) -> TorchEncoder:
    """Refuse what has no maps, before any work is done.

    Raises:
        UserError: an encoder that is no model on torch, or captum is not installed.
    """
    if not isinstance(encoder, TorchEncoder):
        raise UserError(
            f"encoder={encoder.name}: explain needs a model on torch, because it needs gradients; "
            "use an encoder of timm or open_clip (efficientnet_lite0, clip_vit_b32, ...)"
        )
    if importlib.util.find_spec("captum") is None:
        raise UserError("explain needs the package captum; pip install 'medretrieval[explain]'")
    return encoder


class Explainer:
    """Maps by an encoder's model, on torch in fp32 whatever runtime embeds.

    Args:
        encoder: a model of timm or open_clip; it is loaded now.

    Raises:
        UserError: as `require_explainable`, a transform that cannot be undone, or a model without places.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = require_explainable(encoder)
        self._preprocess = vectorize(self._loaded.transform)
        if self._preprocess.geometry is None:
            raise UserError(
                f"encoder={encoder.name}: its transform has steps that explain does not know, so a "
                "map cannot be put back on the image; use another encoder"
            )

    @property
    def _loaded(self) -> Loaded:
        return self.encoder.loaded

    @functools.cached_property
    def layer(self) -> Layer:
        """Where maps are taken."""
        gray = np.full((1, 64, 64), 128, np.uint8)
        return find_layer(self._loaded.module, self._loaded.features, self._pixels(gray))

    def vector(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one image as the encoder's own runtime does (float32 [d])."""
        return self.encoder.encode(image[None])[0]

    def placement(self, height: int, width: int) -> Placement:
        """Where the encoder's crop lies in an image of a size."""
        return _placement(self._preprocess.geometry or (), height, width)

    def map(self, image: NDArray[np.uint8], vector: NDArray[np.float32]) -> Map:
        """Explain the cosine between an image and a vector.

        Args:
            image: uint8 [h, w] or [h, w, 3].
            vector: float32 [d], of another image or of a sentence (`encoder.encode_text`); its length does
                not matter.
        """
        grid, cosine = self.grid(image, vector)
        where = self.placement(*image.shape[:2])
        return Map(where.to_image(grid), cosine, where.visible)

    def grid(
        self, image: NDArray[np.uint8], vector: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float]:
        """The same at the model's own resolution: one value a place of its layer, and the cosine.

        Args:
            image: uint8 [h, w] or [h, w, 3].
            vector: float32 [d].

        Returns:
            float32 [rows, columns] over what the model is fed, and the cosine.
        """
        import torch
        from captum.attr import LayerGradientXActivation

        pixels = self._pixels(image[None])
        direction = torch.from_numpy(l2_normalize(vector[None])).to(pixels.device)
        found: list[float] = []

        def similarity(batch: "torch.Tensor") -> "torch.Tensor":
            own = self._loaded.features(batch).float()
            value = (own * direction).sum(dim=1) / own.norm(dim=1).detach()
            found.append(float(value.detach()))
            return value

        layer = self.layer
        method = LayerGradientXActivation(similarity, layer.module)
        values = method.attribute(pixels)
        values = values[0] if isinstance(values, tuple) else values
        return layer.on_grid(values.detach().float()).cpu().numpy(), found[-1]

    def _pixels(self, images: NDArray[np.uint8]) -> "torch.Tensor":
        device = next(self._loaded.module.parameters()).device
        return self._preprocess.normalize(self._preprocess(images).to(device))


@functools.lru_cache(maxsize=16)
def _placement(steps: tuple[object, ...], height: int, width: int) -> Placement:
    return placement(steps, height, width)  # type: ignore[arg-type]
