"""Stage 1 of a run whose queries are sentences: their vectors, and centering of both sides.

All of it is kept in the cache, so that a warm run loads no model.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.shards import write_header
from medretrieval.cache.store import Cache
from medretrieval.datasets.base import Split
from medretrieval.embed.images import Embeddings, embed, identify
from medretrieval.encoders.composed.composed import JoinedEncoder, TextTower
from medretrieval.errors import UserError
from medretrieval.protocol.captions import Captions
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.prompts import Prompts
from medretrieval.vectors import l2_normalize, require_vectors

FILE = "vectors.npy"
BLOCK_VECTORS = 65_536  # vectors held in memory at a time
Vectors = NDArray[np.float32]


def embed_prompts(inputs: Inputs, prompts: Prompts | Captions, cache: Cache) -> tuple[Embeddings, Embeddings]:
    """Sentences as queries and the gallery they search, centered where the run says so.

    Args:
        inputs: encoder, dataset and task; `center` is the split that means are fitted to.
        prompts: the queries.
        cache: where vectors are kept.

    Returns:
        query float32 [q, d] and gallery float32 [n, d]; of length 1 where centered.

    Raises:
        UserError: as `embed` and `Encoder.encode_text`.
    """
    size, split = inputs.dataset.size, inputs.center_split
    texts = _sentences(inputs, prompts.texts, cache)
    gallery = embed(inputs.encoder, inputs.identity, inputs.task.gallery, size, cache)
    if texts.vectors.shape[1] != gallery.vectors.shape[1]:
        raise UserError(
            f"encoder={inputs.encoder.name}: gives sentences {texts.vectors.shape[1]} numbers and images "
            f"{gallery.vectors.shape[1]}; the image and text embeddings must have the same dimension"
        )
    if split is not None:
        fitted = embed(inputs.encoder, inputs.identity, split, size, cache)
        texts = _centered_texts(inputs, prompts, split, texts, cache)
        gallery = centered(gallery, {"images": fitted.key}, lambda: mean_direction(fitted.vectors), cache)
    parts = {"texts": texts.key, "use": str(prompts.use), "members": prompts.members.tolist()}
    return _kept("queries", parts, lambda: prompts.queries(texts.vectors), texts, cache), gallery


def _centered_texts(
    inputs: Inputs, prompts: Prompts | Captions, split: Split, texts: Embeddings, cache: Cache
) -> Embeddings:
    """Sentences minus their mean: of classes that of all prompts, of captions that of the split's captions.

    The captions that ask are those of the images that are evaluated, so nothing may be fitted to them.
    """
    if isinstance(prompts, Prompts):
        balanced = {"texts": texts.key, "members": prompts.members.tolist()}
        return centered(texts, balanced, lambda: prompts.mean(texts.vectors), cache)
    said, members = prompts.to_fit(split, f"dataset={inputs.dataset.name}")
    fitted = _sentences(inputs, said, cache)
    mean_of = {"captions": fitted.key, "members": members.tolist()}
    return centered(texts, mean_of, lambda: mean_direction(fitted.vectors[members]), cache)


def centered(
    side: Embeddings, mean_of: Mapping[str, Any], mean: Callable[[], NDArray[np.float64]], cache: Cache
) -> Embeddings:
    """Vectors scaled to length 1, minus the mean of others of their kind, scaled to length 1 again.

    Liang et al. 2022, "Mind the Gap", arXiv:2203.02053: sentences and images of a CLIP lie in two narrow
    cones; taking each side's mean away lets them overlap.

    Args:
        side: what is centered, float32 [n, d].
        mean_of: what the mean is taken of, part of the key; never images that are evaluated.
        mean: gives it, float64 [d].
        cache: where the result is kept, under a key of its own.
    """
    parts = {"embeddings": side.key, "mean_of": dict(mean_of)}

    def make(folder: Path) -> Mapping[str, Any]:
        taken = mean()
        with (folder / FILE).open("wb") as file:
            write_header(file, (len(side.vectors), side.vectors.shape[1]))
            for begin in range(0, len(side.vectors), BLOCK_VECTORS):
                block = l2_normalize(side.vectors[begin : begin + BLOCK_VECTORS])
                file.write(l2_normalize((block - taken).astype("<f4")).tobytes())
        return {"shape": list(side.vectors.shape), "mean_length": float(np.linalg.norm(taken))}

    return _taken("centered", parts, make, side, cache)


def mean_direction(vectors: Vectors) -> NDArray[np.float64]:
    """Mean of the vectors, each scaled to length 1 first (float64 [d])."""
    total = np.zeros(vectors.shape[1])
    for begin in range(0, len(vectors), BLOCK_VECTORS):
        total += l2_normalize(np.asarray(vectors[begin : begin + BLOCK_VECTORS])).sum(
            axis=0, dtype=np.float64
        )
    return np.asarray(total / len(vectors))


def embed_texts(tower: TextTower, texts: Sequence[str], name: str, cache: Cache) -> Embeddings:
    """Sentences by a text tower alone, before anything that is fitted.

    Args:
        tower: embeds them.
        texts: the sentences.
        name: of the encoder it belongs to, for messages.
        cache: where the vectors are kept.

    Raises:
        UserError: what the tower refuses, or vectors that are not finite, or too few.
    """
    parts = {"encoder": identify(tower, cache), "texts": list(texts)}
    return _kept("texts", parts, lambda: _required(tower.encode(texts), texts, name), None, cache)


def _sentences(inputs: Inputs, texts: Sequence[str], cache: Cache) -> Embeddings:
    encoder = inputs.encoder
    if isinstance(encoder, JoinedEncoder) and encoder.text_tower is not None:
        source = embed_texts(encoder.text_tower, texts, encoder.name, cache)
        parts: dict[str, Any] = {"encoder": inputs.identity, "texts": source.key}

        def combine() -> Vectors:
            return _required(encoder.combine_text(source.vectors), texts, encoder.name)

        return _kept("queries", parts, combine, source, cache)
    parts = {"encoder": inputs.identity, "texts": list(texts)}
    return _kept(
        "texts", parts, lambda: _required(encoder.encode_text(texts), texts, encoder.name), None, cache
    )


def _required(vectors: Vectors, texts: Sequence[str], name: str) -> Vectors:
    """Vectors of sentences, after a look at them."""
    return require_vectors(vectors, (len(texts), None), name, "sentence", lambda row: repr(texts[row]))


def _kept(
    kind: str,
    parts: Mapping[str, Any],
    vectors: Callable[[], Vectors],
    source: Embeddings | None,
    cache: Cache,
) -> Embeddings:
    """Vectors that fit the memory, from the cache or made now."""

    def make(folder: Path) -> Mapping[str, Any]:
        array = np.ascontiguousarray(vectors(), dtype=np.float32)
        with (folder / FILE).open("wb") as file:
            np.save(file, array, allow_pickle=False)
        return {"shape": list(array.shape)}

    return _taken(kind, parts, make, source, cache)


def _taken(
    kind: str,
    parts: Mapping[str, Any],
    make: Callable[[Path], Mapping[str, Any]],
    source: Embeddings | None,
    cache: Cache,
) -> Embeddings:
    entry = cache.get_or_make(kind, parts, make)
    path = entry.folder / FILE
    return Embeddings(
        vectors=np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray),
        path=path,
        key=entry.folder.name,
        cached=not entry.fresh if source is None else source.cached,
        images_per_s=0.0 if source is None else source.images_per_s,
        fidelity=None if source is None else source.fidelity,
        unseen=0.0 if source is None else source.unseen,
    )
