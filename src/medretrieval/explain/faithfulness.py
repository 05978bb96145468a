"""Can a map be believed? Deletion against random regions, and pointing at findings that are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.explain.saliency import Map
from medretrieval.uncertainty.bootstrap import Resampling, enough, intervals, paired_difference
from medretrieval.vectors import l2_normalize

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Curve = NDArray[np.float64]
BLUR_DIVISOR = 8  # a removed region shows the image blurred by its shorter side divided by this


@dataclass(frozen=True)
class Deletion:
    """How a similarity falls while an image's regions are removed (Petsiuk et al. 2018, RISE).

    Attributes:
        marked: cosine after each share, float64 [steps + 1], the largest values of the map removed first.
        random: the same with the map moved to a random place, so with regions of the same shape.
    """

    marked: Curve
    random: Curve

    @property
    def areas(self) -> tuple[float, float]:
        """Areas under the two curves over shares from 0 to 1; the lower, the faster the fall."""
        return area(self.marked), area(self.random)


@dataclass(frozen=True)
class Pointing:
    """Where a map lies against a finding (Zhang et al. 2016, the pointing game, without a tolerance).

    Attributes:
        hit: the map's largest value lies on the finding.
        mass: share of what the map adds to the similarity that lies on the finding.
        area: share of what the encoder sees that is the finding: what a uniform map gets in both.
    """

    hit: float
    mass: float
    area: float


@dataclass(frozen=True)
class PointedAt:
    """A query's finding, and how maps point at it.

    The finding of the next query may lie where this one's does. So the maps of other queries say what is
    got without looking at this image: those of other classes by marking always the same places, those of
    the same class by marking where findings of this class usually lie.

    Attributes:
        kind: the query's class.
        own: by the query's own map.
        other_class: by the maps of the sample's queries of other classes, the mean; None where there is none.
        same_class: by those of its other queries of this class, the mean; None where there is none.
    """

    kind: str
    own: Pointing
    other_class: Pointing | None
    same_class: Pointing | None


@dataclass(frozen=True)
class Removal:
    """How regions are removed.

    Attributes:
        encode: uint8 [n, h, w(, 3)] -> float32 [n, d].
        steps: equal shares of the visible pixels.
        rng: moves maps to random places.
    """

    encode: Encode
    steps: int
    rng: np.random.Generator


def deletion(
    image: NDArray[np.uint8], saliency: Map, vector: NDArray[np.float32], removal: Removal
) -> Deletion:
    """Remove an image's regions in the map's order and in that of the map elsewhere.

    Args:
        image: uint8 [h, w] or [h, w, 3].
        saliency: its map.
        vector: what it is compared with, float32 [d].
        removal: how.
    """
    steps = removal.steps
    orders = [
        _order(saliency.values, saliency.visible),
        _order(_moved(saliency, removal.rng), saliency.visible),
    ]
    filled = blurred(image)
    between = [
        _removed(image, filled, order[: round(len(order) * step / steps)])
        for order in orders
        for step in range(1, steps)
    ]
    everything = _removed(image, filled, orders[0])
    cosines = _cosines(removal.encode(np.stack([image, *between, everything])), vector)
    first, last, middle = cosines[:1], cosines[-1:], cosines[1:-1].reshape(2, steps - 1)
    marked, random = (np.concatenate([first, line, last]) for line in middle)
    return Deletion(marked, random)


def area(curve: Curve) -> float:
    """Area under a curve at equal steps from 0 to 1, by trapezoids.

    >>> area(np.array([1.0, 0.0, 0.0]))
    0.25
    """
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def blurred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What stands in place of removed regions: no edges of its own, and the brightness of the place."""
    from PIL import Image, ImageFilter

    radius = min(image.shape[:2]) / BLUR_DIVISOR
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _order(values: NDArray[np.float32], visible: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Flat positions of visible pixels, the largest value first."""
    places = np.flatnonzero(visible)
    return places[np.argsort(-values.ravel()[places], kind="stable")]


def _moved(saliency: Map, rng: np.random.Generator) -> NDArray[np.float32]:
    """The map moved by a random step within what is visible; what leaves it comes in on the other side."""
    rows, columns = (np.flatnonzero(saliency.visible.any(axis=axis)) for axis in (1, 0))
    box = np.ix_(rows, columns)
    moved = saliency.values.copy()
    shift = (int(rng.integers(len(rows))), int(rng.integers(len(columns))))
    moved[box] = np.roll(saliency.values[box], shift, axis=(0, 1))
    return moved


def _removed(
    image: NDArray[np.uint8], filled: NDArray[np.uint8], places: NDArray[np.intp]
) -> NDArray[np.uint8]:
    rows, columns = np.unravel_index(places, image.shape[:2])
    changed = image.copy()
    changed[rows, columns] = filled[rows, columns]
    return changed


def _cosines(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> Curve:
    return (l2_normalize(vectors) @ l2_normalize(vector[None])[0]).astype(np.float64)


def pointing(saliency: Map, mask: NDArray[np.bool_]) -> Pointing | None:
    """Compare a map with the mask of a finding.

    Args:
        saliency: the map.
        mask: bool [h, w].

    Returns:
        None where the encoder sees nothing of a finding, or the map marks nothing.
    """
    seen, support = mask & saliency.visible, saliency.support
    if not seen.any() or not support.any():
        return None
    hit = bool(mask.ravel()[support.argmax()])
    share = float(support[mask].sum(dtype=np.float64) / support.sum(dtype=np.float64))
    return Pointing(float(hit), share, float(seen.sum() / saliency.visible.sum()))


def mean_pointing(maps: Sequence[Map], mask: NDArray[np.bool_]) -> Pointing | None:
    """The mean of `pointing` over several maps; None where none of them gives any."""
    found = [point for point in (pointing(one, mask) for one in maps) if point is not None]
    if not found:
        return None
    return Pointing(*np.mean([(p.hit, p.mass, p.area) for p in found], axis=0).tolist())


def summary(
    deletions: Sequence[Deletion],
    pointings: Sequence[PointedAt],
    resampling: Resampling,
) -> dict[str, Any]:
    """The numbers of a sample of pairs, as JSON values.

    Args:
        deletions: one a pair.
        pointings: of each query with a finding that the encoder sees.
        resampling: how pairs are drawn again.

    Returns:
        deletion: pairs, area_marked and area_random (means), advantage (random minus marked: above 0 where
        removing what is marked lowers the similarity faster), wins (share of pairs with an advantage above
        0), and intervals (of the advantage; empty for fewer than two pairs). pointing: queries; hits, mass,
        area (means, see Pointing) and intervals; other_class and same_class, the controls: queries that have
        it; hits and mass of other queries' maps (see PointedAt); hits_gain and mass_gain, what the own map
        has more than these; intervals; None where no query has the control. by_class: class -> queries,
        hits, hits_other_class, hits_same_class. None where there is no query with a finding.
    """
    areas = np.array([d.areas for d in deletions], np.float64).reshape(-1, 2)
    marked, random = areas.T
    between = {}
    if enough(random - marked):
        apart = paired_difference(random, marked, resampling)
        between = {} if apart is None else {"advantage": list(apart[1:])}
    numbers: dict[str, Any] = {
        "deletion": {
            "pairs": len(areas),
            "area_marked": float(marked.mean()),
            "area_random": float(random.mean()),
            "advantage": float((random - marked).mean()),
            "wins": float((random > marked).mean()),
            "intervals": between,
        },
        "pointing": None,
    }
    if pointings:
        numbers["pointing"] = _pointed(pointings, resampling)
    return numbers


def _pointed(pointings: Sequence[PointedAt], resampling: Resampling) -> dict[str, Any]:
    own = [p.own for p in pointings]
    columns = {name: np.array([getattr(p, name) for p in own]) for name in ("hit", "mass", "area")}
    columns = {"hits": columns.pop("hit"), **columns}
    return {
        "queries": len(pointings),
        **_means(columns, resampling),
        "other_class": _control(own, [p.other_class for p in pointings], resampling),
        "same_class": _control(own, [p.same_class for p in pointings], resampling),
        "by_class": _by_class(pointings),
    }


def _control(
    own: Sequence[Pointing], others: Sequence[Pointing | None], resampling: Resampling
) -> dict[str, Any] | None:
    """What other queries' maps get, and what the own map has more, over the queries that have the control."""
    both = [(a, b) for a, b in zip(own, others, strict=True) if b is not None]
    if not both:
        return None
    hits, mass = (np.array([[getattr(p, n) for p in pair] for pair in both]).T for n in ("hit", "mass"))
    columns = {"hits": hits[1], "mass": mass[1], "hits_gain": hits[0] - hits[1]}
    return {"queries": len(both), **_means(columns | {"mass_gain": mass[0] - mass[1]}, resampling)}


def _means(columns: dict[str, NDArray[np.float64]], resampling: Resampling) -> dict[str, Any]:
    ends = intervals(columns, resampling)
    means = {name: float(values.mean()) for name, values in columns.items()}
    return {**means, "intervals": {name: list(pair) for name, pair in ends.items()}}


def _by_class(pointings: Sequence[PointedAt]) -> dict[str, dict[str, Any]]:
    def mean(found: Sequence[Pointing | None]) -> float | None:
        hits = [p.hit for p in found if p is not None]
        return float(np.mean(hits)) if hits else None

    table = {}
    for kind in sorted({p.kind for p in pointings}):
        some = [p for p in pointings if p.kind == kind]
        table[kind] = {
            "queries": len(some),
            "hits": mean([p.own for p in some]),
            "hits_other_class": mean([p.other_class for p in some]),
            "hits_same_class": mean([p.same_class for p in some]),
        }
    return table
