"""How near images of a gallery are to each other, and so how far a query is from everything."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.errors import UserError
from medretrieval.index.distance import pair_distances
from medretrieval.index.exact_search import exact_search

KIND = "novelty"
NOVELTY_FORMAT = 2  # raised when the same gallery would get other distances
FILE = "distances.npy"
SAMPLE = 2_000  # gallery images whose own nearest distance is taken
SEED = 0
NOVELTY_QUANTILE = 0.99  # of the gallery's own nearest distances; beyond it a query is out of distribution


@dataclass(frozen=True)
class Novelty:
    """How near a query is to its nearest image, and what is usual.

    Attributes:
        distance: to the nearest image of the gallery, by exact search.
        metric: of this distance.
        quantile: share of the gallery's own nearest distances that are less.
        limit: their NOVELTY_QUANTILE quantile.
    """

    distance: float
    metric: str
    quantile: float
    limit: float

    @property
    def is_out_of_distribution(self) -> bool:
        """Whether it is farther from everything than nearly all images of the gallery are."""
        return self.distance > self.limit


def judging_metric(metric: MetricConfig) -> MetricConfig:
    """What novelty is judged by: the run's metric, but cosine for an inner product.

    An inner product grows with the length of the query, so its size does not say how alike two images are.
    """
    if metric.faiss is FaissMetric.inner_product and not metric.normalize:
        return MetricConfig("cosine", FaissMetric.inner_product, True)
    return metric


def novelty(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    gallery_sha256: str,
    metric: MetricConfig,
    cache: Cache,
) -> list[Novelty] | None:
    """Judge each query's nearest distance against the gallery's own, each without itself.

    Of queries like the gallery's images 1 % are beyond the limit. Where the gallery has several images of
    a patient, its own distances are small, and more of other patients' images are.

    Args:
        queries: float32 [q, d], as the encoder gives them.
        gallery: float32 [n, d], the same; may be memory-mapped.
        gallery_sha256: of the gallery's file, the key under which its distances are kept.
        metric: the run's distance.
        cache: where they are kept.

    Returns:
        A judgment a query; None where the gallery is a single image.
    """
    if len(gallery) < 2:
        return None
    used = judging_metric(metric)
    own = _kept(gallery, gallery_sha256, used, cache)
    limit = float(np.quantile(own, NOVELTY_QUANTILE, method="higher"))
    nearest, _ = exact_search(queries, gallery, used, 1)
    distances = pair_distances(queries, gallery, nearest, used)[:, 0]
    return [Novelty(float(d), used.name, float((own < d).mean()), limit) for d in distances]


def own_nearest(gallery: NDArray[np.float32], metric: MetricConfig) -> NDArray[np.float64]:
    """Distance of gallery images, at most SAMPLE of them, to the nearest other one.

    Args:
        gallery: float32 [n, d], n at least 2.
        metric: the distance.

    Returns:
        float64 [min(n, SAMPLE)], ascending.
    """
    n = len(gallery)
    drawn = np.arange(n)
    if n > SAMPLE:
        drawn = np.sort(np.random.default_rng(SEED).choice(n, SAMPLE, replace=False))
    ids, _ = exact_search(gallery[drawn], gallery, metric, 2)
    # Where the image itself is not first, a twin stands before it.
    other = np.where(ids[:, 0] == drawn, ids[:, 1], ids[:, 0])
    return np.sort(pair_distances(gallery[drawn], gallery, other[:, None], metric)[:, 0])


def _kept(
    gallery: NDArray[np.float32], gallery_sha256: str, metric: MetricConfig, cache: Cache
) -> NDArray[np.float64]:
    def make(folder: Path) -> Mapping[str, Any]:
        np.save(folder / FILE, own_nearest(gallery, metric), allow_pickle=False)
        return {"images": min(len(gallery), SAMPLE)}

    parts = {
        "novelty_format": NOVELTY_FORMAT,
        "embeddings_sha256": gallery_sha256,
        "metric": asdict(metric),
        "sample": SAMPLE,
        "seed": SEED,
    }
    return _from_cache(parts, make, cache)


def _from_cache(
    parts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]], cache: Cache
) -> NDArray[np.float64]:
    try:
        folder = cache.get_or_make(KIND, parts, make).folder
        distances: NDArray[np.float64] = np.load(folder / FILE, allow_pickle=False)
        return distances
    except UserError:  # a cache that is read only; it takes a second, so no reason to refuse
        with tempfile.TemporaryDirectory() as aside:
            make(Path(aside))
            found: NDArray[np.float64] = np.load(Path(aside) / FILE, allow_pickle=False)
            return found
