"""Stage 1, embed: a split's images through an encoder, once for all runs that want the same vectors."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from medretrieval.cache import Cache, content_key
from medretrieval.datasets.base import Split
from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError

FILE = "embeddings.npy"


@dataclass(frozen=True)
class Embeddings:
    """The vectors of one split.

    Attributes:
        vectors: float32 [n, d], memory-mapped; row i is image i of the split.
        path: the .npy file they are in.
        key: the content key under which they are kept.
        cached: true where an earlier run made them.
        images_per_s: the rate at which they were made.
    """

    vectors: NDArray[np.float32]
    path: Path
    key: str
    cached: bool
    images_per_s: float


def identify(encoder: Encoder, cache: Cache) -> dict[str, Any]:
    """The encoder's identity, remembered by its signature so that the model need not be loaded for it."""

    def make(folder: Path) -> Mapping[str, Any]:
        return encoder.identity()

    signature = {"signature": encoder.signature()}
    return dict(cache.get_or_make("identities", signature, make).facts)


def embed(encoder: Encoder, identity: Mapping[str, Any], split: Split, size: int, cache: Cache) -> Embeddings:
    """The embeddings of a split, from the cache or made now.

    Args:
        encoder: turns batches of images into vectors.
        identity: what `identify` says of the encoder.
        split: the images.
        size: the dataset's size, part of the key.
        cache: where embeddings are kept.

    Raises:
        UserError: the encoder gave vectors that are not finite, or none, or too few.
    """
    parts = {
        "images_sha256": split.images_sha256,
        "split": split.name,
        "size": size,
        "encoder": dict(identity),
    }
    entry = cache.get_or_make("embeddings", parts, lambda folder: _write(encoder, split, folder / FILE))
    path = entry.folder / FILE
    # A plain view: after an import of faiss.contrib.torch_utils FAISS takes no np.memmap.
    vectors: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return Embeddings(vectors, path, content_key(parts), not entry.fresh, entry.facts["images_per_s"])


def _write(encoder: Encoder, split: Split, path: Path) -> dict[str, Any]:
    from tqdm import tqdm

    start, shape = time.perf_counter(), [0, 0]
    bar = tqdm(total=len(split), unit="img", desc=f"embed {split.name}", leave=False)
    # Plain writes: a full disk is an error here, where through a memory map it would kill the process.
    with bar, path.open("wb") as file:
        begins = range(0, len(split), encoder.batch_size)
        for begin, vectors in zip(begins, encoder.stream(split.images), strict=True):
            n = min(encoder.batch_size, len(split) - begin)
            if begin == 0:
                shape = [len(split), vectors.shape[-1]]
                header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
                write_array_header_1_0(file, header)
            file.write(_checked(encoder, vectors, split, begin, (n, shape[1])).tobytes())
            bar.update(n)
    seconds = time.perf_counter() - start
    return {"shape": shape, "seconds": seconds, "images_per_s": len(split) / seconds}


def _checked(
    encoder: Encoder, vectors: NDArray[np.float32], split: Split, begin: int, shape: tuple[int, int]
) -> NDArray[np.float32]:
    n, width = shape
    if vectors.shape != shape or width < 1:
        plain = vectors.ndim == 2 and len(vectors) == n and width > 0
        wanted = f"[{n}, {width}] as before" if plain else f"[{n}, d]"
        raise UserError(f"encoder={encoder.name}: gave {list(vectors.shape)} for {n} images, not {wanted}")
    # float64 can hold what float32 cannot.
    with np.errstate(over="ignore"):
        vectors = vectors.astype("<f4")
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise UserError(
            f"encoder={encoder.name}: the embedding of image {split.ids[begin + int(bad.argmax())]} is not "
            "finite (NaN or infinite); check the weights, or try encoder.precision=fp32"
        )
    return vectors
