"""Indexes over vectors, each in a cache of the test's own."""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from medretrieval import compose
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.embed.images import Embeddings
from medretrieval.index.faiss_index import build


@cache
def configured(index="flat", metric="cosine"):
    settings = check(compose(f"index={index}", f"metric={metric}"))
    return settings.index, settings.metric


def index_config(name, **parameters):
    return replace(configured(name)[0], **parameters)


def embeddings(vectors):
    vectors = np.asarray(vectors, np.float32)
    key = hashlib.sha256(vectors.tobytes()).hexdigest()
    return Embeddings(vectors, Path("embeddings.npy"), key, cached=False, images_per_s=1.0)


@pytest.fixture
def built(tmp_path):
    """Build an index over vectors, in a cache of the test's own."""

    def make(vectors, index="flat", metric="cosine", depth=10, seed=0, store="cache", **parameters):
        config = index_config(index, **parameters)
        place = Cache(tmp_path / store)
        return build(config, configured("flat", metric)[1], embeddings(vectors), depth, seed, place)

    return make


def normal(n, d=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
