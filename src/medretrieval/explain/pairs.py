"""A pair explained: both maps, what they are worth, and which pairs of a run are looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import ExplainConfig
from medretrieval.datasets.base import Split
from medretrieval.evidence.failures import balanced_sample
from medretrieval.explain.faithfulness import (
    Deletion,
    PointedAt,
    Pointing,
    Removal,
    deletion,
    mean_pointing,
    pointing,
    summary,
)
from medretrieval.explain.saliency import Explainer, Map
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.ranking import class_name
from medretrieval.uncertainty.bootstrap import Resampling


@dataclass(frozen=True)
class Picture:
    """An image of a dataset.

    Attributes:
        id: such as "test/3".
        kind: its class, or findings joined with ", "; "none" where there is none.
        image: uint8 [h, w] or [h, w, 3].
        mask: bool [h, w], where its finding is; None where nobody says or there is none.
    """

    id: str
    kind: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None

    @classmethod
    def from_split(cls, split: Split, position: int, classes: Sequence[str]) -> "Picture":
        """One image of a split."""
        mask = None if split.masks is None else split.masks[position]
        kind = class_name(split.labels, position, classes)
        known = mask is not None and bool(mask.any())
        return cls(f"{split.name}/{position}", kind, split.images[position], mask if known else None)


@dataclass(frozen=True)
class Explained:
    """A query, a result, and what makes them similar.

    Attributes:
        query: an image with its map, or a sentence, which has none.
        result: an image with its map.
        cosine: of the two.
        deletion: of the image, or the mean of both images'.
        pointing: of the query's map, or where it is a sentence of the result's; None without a finding.
    """

    query: tuple[Picture, Map] | str
    result: tuple[Picture, Map]
    cosine: float
    deletion: Deletion
    pointing: Pointing | None

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        marked, random = self.deletion.areas
        found, sentence = self.pointing, isinstance(self.query, str)
        pointed = {"hit": bool(found.hit), "mass": found.mass, "area": found.area} if found else None
        return {
            "query": None if isinstance(self.query, str) else self.query[0].id,
            "text": self.query if sentence else None,
            "result": self.result[0].id,
            "cosine": self.cosine,
            "deletion": {
                "area_marked": marked,
                "area_random": random,
                "marked": self.deletion.marked.tolist(),
                "random": self.deletion.random.tolist(),
            },
            "pointing": pointed,
        }


@dataclass(frozen=True)
class Explanations:
    """Pairs of a run and their numbers in all.

    Attributes:
        pairs: at least one.
        layer: the module that the maps were taken at.
        numbers: see `faithfulness.summary`.
    """

    pairs: list[Explained]
    layer: str
    numbers: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        return {"layer": self.layer, **self.numbers}

    def details(self) -> dict[str, Any]:
        """Numbers and curves of every pair, as JSON values."""
        steps = len(self.pairs[0].deletion.marked)
        removed = np.linspace(0, 1, steps).tolist()
        return {**self.document(), "removed": removed, "rows": [pair.document() for pair in self.pairs]}


def explain_images(
    explainer: Explainer, query: Picture, result: Picture, steps: int, rng: np.random.Generator
) -> Explained:
    """Explain the similarity of two images, on both.

    Args:
        explainer: maps by the encoder.
        query: one image.
        result: the other.
        steps: of the deletion curves.
        rng: moves maps to random places.
    """
    vectors = [explainer.vector(picture.image) for picture in (query, result)]
    sides = [
        (picture, explainer.map(picture.image, vector), vector)
        for picture, vector in zip((query, result), vectors[::-1], strict=True)
    ]
    removal = Removal(explainer.encoder.encode, steps, rng)
    curves = [deletion(picture.image, saliency, vector, removal) for picture, saliency, vector in sides]
    mean = Deletion(*(np.mean([getattr(c, n) for c in curves], axis=0) for n in ("marked", "random")))
    (_, ours, _), (_, theirs, _) = sides
    pointed = None if query.mask is None else pointing(ours, query.mask)
    return Explained((query, ours), (result, theirs), ours.cosine, mean, pointed)


def explain_text(
    explainer: Explainer, text: str, result: Picture, steps: int, rng: np.random.Generator
) -> Explained:
    """Explain the similarity of a sentence and an image, on the image.

    Raises:
        UserError: the encoder has no text tower, or the sentence is too long for it.
    """
    vector = explainer.encoder.encode_text([text])[0]
    saliency = explainer.map(result.image, vector)
    curve = deletion(result.image, saliency, vector, Removal(explainer.encoder.encode, steps, rng))
    pointed = None if result.mask is None else pointing(saliency, result.mask)
    return Explained(text, (result, saliency), saliency.cosine, curve, pointed)


def explain_nearest(
    explainer: Explainer,
    inputs: Inputs,
    nearest: NDArray[np.int64],
    config: ExplainConfig,
    resampling: Resampling,
) -> Explanations | None:
    """Explain a drawn, class-balanced sample of queries and their nearest results.

    Args:
        explainer: maps by the encoder.
        inputs: dataset and task, whose q queries are images.
        nearest: int64 [q], position of each query's nearest result in the gallery; -1 where it has none.
        config: pairs at most, and steps of the deletion curves.
        resampling: how pairs are drawn again; its seed is also that of the sample and of random places.

    Returns:
        None where no query has a result.
    """
    queries, gallery, classes = inputs.task.queries.split, inputs.task.gallery, inputs.dataset.classes
    assert queries is not None  # the configuration is refused where the queries are sentences
    rng = np.random.default_rng(resampling.seed)
    # In the order of drawing, in which classes take turns: a picture shows the first ones.
    chosen = balanced_sample(queries.labels, nearest >= 0, config.pairs, resampling.seed).queries
    pairs = [
        explain_images(
            explainer,
            Picture.from_split(queries, int(i), classes),
            Picture.from_split(gallery, int(nearest[i]), classes),
            config.steps,
            rng,
        )
        for i in chosen
    ]
    if not pairs:
        return None
    numbers = summary([pair.deletion for pair in pairs], _pointings(pairs), resampling)
    return Explanations(pairs, explainer.layer.name, numbers)


def _pointings(pairs: Sequence[Explained]) -> list[PointedAt]:
    """How each query's own map points at its finding, and how those of the other queries do."""
    sides = [pair.query for pair in pairs if not isinstance(pair.query, str)]
    found = []
    for i, (picture, own) in enumerate(sides):
        point = None if picture.mask is None else pointing(own, picture.mask)
        if picture.mask is None or point is None:
            continue
        others = [side for j, side in enumerate(sides) if j != i]
        maps = ([m for p, m in others if (p.kind == picture.kind) == same] for same in (False, True))
        found.append(PointedAt(picture.kind, point, *(mean_pointing(some, picture.mask) for some in maps)))
    return found
