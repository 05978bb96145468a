"""Small galleries for re-ranking, opened without a cache."""

import functools

import numpy as np
from tests.tasks import protocol

from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import compose
from medretrieval.datasets.base import Split
from medretrieval.embed.images import Embeddings
from medretrieval.index.faiss_index import build
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.rerank.augmentation import DatabaseAugmentation
from medretrieval.rerank.base import Gallery, Unkept
from medretrieval.rerank.diffusion import Diffusion
from medretrieval.rerank.k_reciprocal import KReciprocal
from medretrieval.rerank.neighbor_lists import neighbor_lists, searched
from medretrieval.rerank.query_expansion import AlphaQueryExpansion
from medretrieval.rerank.search import as_search

METRICS = ("cosine", "l2", "ip")


def clustered(n, d=12, clusters=6, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).standard_normal((clusters, d))
    return (2 * centers[rng.integers(0, clusters, n)] + rng.standard_normal((n, d))).astype(np.float32)


@functools.cache
def composed(*overrides):
    return check(compose(*overrides))


def indexed(folder, vectors, metric="cosine", *overrides):
    settings = composed(f"metric={metric}", *overrides)
    embeddings = Embeddings(vectors, folder / "none.npy", str(abs(hash(vectors.tobytes()))), False, 0.0)
    return build(settings.index, settings.metric, embeddings, 20, 0, Cache(folder / "cache"))


def opened(folder, method, vectors, metric="cosine", queries=None, overrides=()):
    """A method over a gallery; `queries` are nodes beside it."""
    plain = indexed(folder, vectors, metric, *overrides)
    nodes = vectors if queries is None else np.concatenate([vectors, queries])
    lists = None
    if method.list_width:
        lists = neighbor_lists(nodes, method.list_width, searched(nodes, plain.metric), "")
    index, changed = plain, vectors
    if isinstance(method, DatabaseAugmentation):
        changed = method.augmented(vectors, lists, plain.metric)
        index = indexed(folder, changed, metric, *overrides)
    return method.open(Gallery(changed, lists, nodes, index), Unkept())


def sides(queries, gallery, same=False, groups=None, **options):
    """Who does not find what: `same` where queries are the gallery."""
    names = ("test", "test") if same else ("val", "train")
    split_of = [
        Split(name, np.arange(n, dtype=np.uint8)[:, None, None] if n < 256 else np.zeros((n, 1, 1), np.uint8),
              np.zeros(n, np.int64), groups=groups if same else None)
        for name, n in zip(names, (queries, gallery), strict=True)
    ]  # fmt: skip
    return Exclusions.from_protocol(*split_of, protocol(**options))


def asked(method, queries, out, depth):
    """Results of all queries at once."""
    found = as_search(method, queries, out)(slice(0, len(queries)), depth + out.overfetch)
    return found[0][:, :depth], found[1][:, :depth]


def methods():
    """One of each kind that queries are alone in."""
    return {
        "alpha_qe": AlphaQueryExpansion("alpha_qe", 4, 3.0),
        "augmentation": DatabaseAugmentation("augmentation", 4, 3.0),
        "k_reciprocal": KReciprocal("k_reciprocal", 8, 3, 0.3, 40, transductive=False),
        "diffusion": Diffusion("diffusion", 10, 4, 3.0, 0.95, 40),
    }
