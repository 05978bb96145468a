"""Stage 1, embed: a split's images through an encoder, once for all runs that want the same vectors.

Vectors are written in shards as embedding goes, so that an interrupted run goes on after the last one.
"""

import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.entry import DISK_FULL_ERRNOS
from medretrieval.cache.shards import RowKind, Shards, as_bytes, write_header
from medretrieval.cache.store import Cache
from medretrieval.datasets.base import Split
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import ComposedEncoder, TextTower
from medretrieval.encoders.runtime.fidelity import FIDELITY_FORMAT
from medretrieval.errors import UserError
from medretrieval.vectors import require_vectors

KIND = "embeddings"  # in the cache
COMPOSED_KIND = "composed"  # those that are made of others
BLOCK_IMAGES = 65_536  # whose vectors are combined at a time
VECTORS = "embeddings.npy"
FIDELITY_SAMPLE_IMAGES = 32  # images whose vectors are compared with those of full precision


@dataclass(frozen=True)
class Embeddings:
    """The vectors of one split.

    Attributes:
        vectors: float32 [n, d], memory-mapped; row i is image i of the split.
        path: the .npy file they are in.
        key: the content key under which they are kept.
        cached: true where earlier runs made them all.
        images_per_s: the rate at which they were made.
        fidelity: how far they are from the model's own in full precision (`Encoder.fidelity`), None where
            they are these.
        unseen: share of each image's area that the encoder cuts off (`Encoder.unseen`), None where that is
            not known.
    """

    vectors: NDArray[np.float32]
    path: Path
    key: str
    cached: bool
    images_per_s: float
    fidelity: Mapping[str, Any] | None = None
    unseen: float | None = 0.0


def identify(encoder: Encoder | TextTower, cache: Cache) -> dict[str, Any]:
    """The identity, remembered by the signature so that the model need not be loaded for it."""

    def make(folder: Path) -> Mapping[str, Any]:
        if isinstance(encoder, ComposedEncoder):  # of its parts it may be known
            return encoder.identity_of(lambda part: identify(part, cache))
        return encoder.identity()

    signature = {"signature": encoder.signature()}
    return dict(cache.get_or_make("identities", signature, make).facts)


def embed(encoder: Encoder, identity: Mapping[str, Any], split: Split, size: int, cache: Cache) -> Embeddings:
    """The embeddings of a split, from the cache or made now.

    An image is embedded once, however often it is in the split, and not at all where another split of the
    same encoder has it.

    Args:
        encoder: turns batches of images into vectors.
        identity: what `identify` says of the encoder.
        split: the images.
        size: the dataset's size, part of the key.
        cache: where embeddings are kept.

    Raises:
        UserError: no images; vectors that are not finite, or none, or too few; or the disk is full.
    """
    if len(split) == 0:
        raise UserError(f"split {split.name!r}: has no images to embed")
    if isinstance(encoder, ComposedEncoder):
        return embed_composed(encoder, identity, split, size, cache)
    parts, group = key_parts(identity, split, size)
    place = cache.place(KIND, parts, group)
    shards: Shards | None = None
    made = 0

    def encode() -> None:
        nonlocal shards, made
        shards = Shards(image_digests(split.images), rows_of(identity), place)
        made = len(shards.missing)
        _encode(encoder, split, shards)

    def assemble(partial: Path) -> Mapping[str, Any]:
        assert shards is not None
        shape = split.images.shape[1:]
        facts = {
            "images_per_s": _rate(shards),
            "image_shape": list(shape),
            "unseen": encoder.unseen(*shape[:2]),
        }
        return shards.assemble(partial) | facts

    try:
        entry = cache.get_or_make(KIND, parts, assemble, group=group, before=encode)
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        raise UserError(_full(error, split, shards, cache)) from error
    if shards is not None:
        shards.remove()
    return Embeddings(
        vectors=rows_of(identity).load(entry.folder),
        path=entry.folder / VECTORS,
        key=place.name,
        cached=made == 0,
        images_per_s=entry.facts["images_per_s"],
        fidelity=_fidelity(encoder, identity, split, cache),
        # Kept without it by versions in which no encoder of this identity had a view: nothing is cut off.
        unseen=entry.facts.get("unseen", 0.0),
    )


def embed_composed(
    encoder: ComposedEncoder, identity: Mapping[str, Any], split: Split, size: int, cache: Cache
) -> Embeddings:
    """The embeddings of a split by an encoder made of others, from the embeddings of its parts.

    Args and Raises: as `embed`.
    """
    sides = [embed(part, identify(part, cache), split, size, cache) for part in encoder.parts]
    parts = {"encoder": dict(identity), "embeddings": [side.key for side in sides]}

    def make(folder: Path) -> Mapping[str, Any]:
        width: int | None = None
        with (folder / VECTORS).open("wb") as file:
            for begin in range(0, len(split), BLOCK_IMAGES):
                rows = slice(begin, begin + BLOCK_IMAGES)
                made = encoder.combine([np.asarray(side.vectors[rows]) for side in sides])
                name = functools.partial(_id, split, begin)
                count = len(split.images[rows])
                block = require_vectors(made, (count, width), encoder.name, "image", name)
                if width is None:
                    width = block.shape[1]
                    write_header(file, (len(split), width))
                file.write(block.tobytes())
        return {"shape": [len(split), width]}

    entry = cache.get_or_make(COMPOSED_KIND, parts, make)
    return Embeddings(
        vectors=rows_of(identity).load(entry.folder),
        path=entry.folder / VECTORS,
        key=entry.folder.name,
        cached=not entry.fresh and all(side.cached for side in sides),
        # One after the other: their seconds for an image add up.
        images_per_s=1 / sum(1 / side.images_per_s for side in sides),
        fidelity=sides[0].fidelity if len(sides) == 1 else None,  # of several each has its own
        unseen=_least([side.unseen for side in sides]),
    )


def _id(split: Split, begin: int, row: int) -> str:
    return str(split.ids[begin + row])


def _least(shares: Sequence[float | None]) -> float | None:
    """What all parts cut off; None where one does not tell."""
    told = [share for share in shares if share is not None]
    return min(told) if len(told) == len(shares) else None


def key_parts(identity: Mapping[str, Any], split: Split, size: int) -> tuple[dict[str, Any], str]:
    """What determines the embeddings of a split, and the folder of all embeddings of its encoder."""
    parts = {
        "images_sha256": split.images_sha256,
        "split": split.name,
        "size": size,
        "encoder": dict(identity),
    }
    return parts, rows_of(identity).group


def rows_of(identity: Mapping[str, Any]) -> RowKind:
    """Vectors as rows of the cache: those of one encoder, by the images they are of."""
    return RowKind("encoder", identity, "images", VECTORS, "<f4")


def image_digests(images: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """SHA-256 over shape and bytes of each image (S32 [n]; images uint8 [n, h, w] or [n, h, w, 3])."""
    start = hashlib.sha256(f"{images.dtype.str}{images.shape[1:]}".encode())
    digests = np.empty((len(images), start.digest_size), np.uint8)
    for row, image in zip(digests, images, strict=True):
        digest = start.copy()
        digest.update(np.ascontiguousarray(image).data)
        row[:] = np.frombuffer(digest.digest(), np.uint8)
    return as_bytes(digests)


def _fidelity(
    encoder: Encoder, identity: Mapping[str, Any], split: Split, cache: Cache
) -> Mapping[str, Any] | None:
    """What the encoder says on the first images it ever embeds; once for all splits."""

    def make(folder: Path) -> Mapping[str, Any]:
        return {"found": encoder.fidelity(split.images[:FIDELITY_SAMPLE_IMAGES])}

    # Not beside the vectors: these stay, while what is said of them may come to be said otherwise.
    parts = {"fidelity_format": FIDELITY_FORMAT, "encoder": dict(identity)}
    facts = cache.get_or_make("fidelities", parts, make).facts
    fidelity: Mapping[str, Any] | None = facts["found"]
    return fidelity


def _encode(encoder: Encoder, split: Split, shards: Shards) -> None:
    """Embed what is missing, shard by shard."""
    from tqdm import tqdm

    total, done = len(shards.first), shards.done
    said = f"embed {split.name} images with {encoder.name}"
    # disable=None: only where someone looks, on a terminal.
    with tqdm(total=total, initial=done, unit="img", desc=said, leave=False, disable=None) as bar:
        work = _Work(encoder, split, shards, bar)
        for positions in shards.cut(encoder.batch_size):
            shards.add(positions, functools.partial(work.write, positions))


@dataclass(frozen=True)
class _Work:
    """A split that is being embedded: by what, into which shards, and its progress bar."""

    encoder: Encoder
    split: Split
    shards: Shards
    bar: Any

    def write(self, positions: NDArray[np.int64], path: Path) -> dict[str, Any]:
        """Write the vectors of one shard, the images at these positions; returns facts about them."""
        encoder, width = self.encoder, self.shards.row_shape[0] if self.shards.row_shape else None
        start, begin, n = time.perf_counter(), 0, len(positions)
        # Plain writes: a full disk is an error here, where through a memory map it would kill the process.
        with path.open("wb") as file:
            for vectors in encoder.stream(_images(self.split, positions)):
                batch = min(encoder.batch_size, n - begin)
                name = functools.partial(self._name, positions[begin:])
                rows = require_vectors(vectors, (batch, width), encoder.name, "image", name)
                width = rows.shape[1]
                if begin == 0:
                    write_header(file, (n, width))
                file.write(rows.tobytes())
                self.bar.update(batch)
                begin += batch
        if begin < n:
            raise UserError(f"encoder={encoder.name}: gave vectors for {begin} of {n} images")
        seconds = time.perf_counter() - start
        facts = {"shape": [n, width], "image_shape": list(self.split.images.shape[1:])}
        return facts | {"seconds": seconds, "images_per_s": n / seconds}

    def _name(self, positions: NDArray[np.int64], row: int) -> str:
        return str(self.split.ids[positions[row]])


def _images(split: Split, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    first, last = int(positions[0]), int(positions[-1])
    if last - first + 1 == len(positions):  # no duplicates among them, the usual case: no copy
        return split.images[first : last + 1]
    return split.images[positions]


def _rate(shards: Shards) -> float:
    """Images a second over the shards made for this split; where all were there, of those they came from."""
    own = [s.facts for s in shards.sources if s.folder.parent == shards.folder]
    if own:
        return float(sum(f["shape"][0] for f in own) / sum(f["seconds"] for f in own))
    return float(shards.sources[0].facts["images_per_s"])


def _full(error: OSError, split: Split, shards: Shards | None, cache: Cache) -> str:
    kept = ""
    if shards is not None:
        kept = f"{shards.done} of {len(shards.first)} images of split {split.name} are embedded and kept; "
    where = error.filename or f"paths.cache={cache.root}"
    return (
        f"{where}: {error.strerror}; {kept}free some space (medretrieval cache prune --keep-gb N) or "
        "set paths.cache to a folder with more, and run the same command again"
    )
