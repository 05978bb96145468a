"""What embedding a split would do, from what the cache holds: nothing is embedded, loaded or written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medretrieval.cache import entry
from medretrieval.cache.entry import SHARDS_SUFFIX
from medretrieval.cache.maintenance import about
from medretrieval.cache.shards import Shards
from medretrieval.cache.store import Cache
from medretrieval.datasets.base import Split
from medretrieval.embed.images import KIND, image_digests, key_parts, rows_of
from medretrieval.encoders.base import Encoder

UNKNOWN = "not yet identified"  # the only part of an identity that the cache does not know


@dataclass(frozen=True)
class Forecast:
    """A split before it is embedded.

    Attributes:
        key: of its embeddings in the cache.
        images: how many it has.
        missing: how many different images among them have no vector yet.
        kept: whether its embeddings lie in the cache as they are.
    """

    key: str
    images: int
    missing: int
    kept: bool


@dataclass(frozen=True)
class Rate:
    """How fast an encoder was when the cache last saw it embed.

    Attributes:
        images_per_s: images a second.
        split: that was embedded then.
        made_at: when, UTC, ISO 8601.
        dimension: of the vectors it makes of a split's images; None where it has embedded no images of
            their shape, on which that may depend.
    """

    images_per_s: float
    split: str
    made_at: str
    dimension: int | None


def remembered(encoder: Encoder, cache: Cache) -> dict[str, Any]:
    """The encoder's identity where the cache has it; else one that no embeddings have, with the key UNKNOWN.

    Unlike `identify` it loads no model.
    """
    signature = encoder.signature()
    try:
        known: dict[str, Any] = entry.read(cache.place("identities", {"signature": signature}))["facts"]
    except entry.Damaged:
        return {UNKNOWN: signature}
    return known


def forecast(identity: Mapping[str, Any], split: Split, size: int, cache: Cache) -> Forecast:
    """What `embed` would find of a split, and what it would have to make.

    Args:
        identity: what `remembered` says of the encoder.
        split: the images.
        size: the dataset's size.
        cache: where embeddings are kept.
    """
    parts, group = key_parts(identity, split, size)
    place = cache.place(KIND, parts, group)
    try:
        entry.read(place)
        return Forecast(place.name, len(split), 0, kept=True)
    except entry.Damaged:  # as it is where it is not there
        shards = Shards(image_digests(split.images), rows_of(identity), place, look_only=True)
        return Forecast(place.name, len(split), len(shards.missing), kept=False)


def last_rate(identity: Mapping[str, Any], split: Split, size: int, cache: Cache) -> Rate | None:
    """An encoder's latest rate, at images of this shape where the cache has such; None where it has none."""
    parts, group = key_parts(identity, split, size)
    top = cache.place(KIND, parts, group).parent
    finished = [path for path in top.glob("*") if "." not in path.name]
    saved = [about(path) for path in (*finished, *top.glob(f"*{SHARDS_SUFFIX}/*"))]
    rates = [rate for said in saved if (rate := _rate(said, split)) is not None]
    return max(rates, key=lambda rate: (rate.dimension is not None, rate.made_at), default=None)


def _rate(said: Mapping[str, Any], split: Split) -> Rate | None:
    """The rate that an entry or a shard tells; None where it cannot be read."""
    try:
        facts, made = said["facts"], said["made_from"]
        alike = made.get("images_sha256") == split.images_sha256
        alike |= facts.get("image_shape") == list(split.images.shape[1:])
        width = int(facts["shape"][1]) if alike else None
        name = made.get("split", "a part of a split")
        return Rate(float(facts["images_per_s"]), name, str(said["made_at"]), width)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def bytes_of(images: int, dimension: int) -> int:
    """Bytes of the embeddings of a split: its vectors in float32, and 32 bytes an image for its hash."""
    return images * (4 * dimension + 32)


def is_kept(folder: Path) -> bool:
    """Whether an entry is in the cache, whole as far as its size shows."""
    return (folder / entry.CHECKSUMS_FILE).exists()
