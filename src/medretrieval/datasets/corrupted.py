"""A split with corrupted images, kept in the cache and read from there a page at a time."""

import dataclasses
import errno
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from medretrieval.cache.store import Cache
from medretrieval.datasets.base import Split
from medretrieval.datasets.corruptions import CORRUPTION_FORMAT, Corruption, corrupt_chunks, move_masks
from medretrieval.errors import UserError

KIND = "corrupted"  # in the cache
IMAGES, MASKS = "images.npy", "masks.npy"
BY_PILLOW = ("jpeg", "text")  # another version of it may draw other pixels
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def corrupted(split: Split, corruption: Corruption, cache: Cache | None) -> Split:
    """A split whose images are corrupted: ids, labels, groups, captions and metadata stay.

    Masks move with what they are of.

    Args:
        split: clean images.
        corruption: which, and how severe.
        cache: where the images are kept, so that they need not all be in memory; None keeps them in memory.

    Returns:
        The split with `clean` set; its images uint8 as before, memory-mapped where there is a cache.

    Raises:
        UserError: the cache cannot be written, or the disk is full.
    """
    masks = split.masks if corruption.moves else None
    if cache is None:
        images = np.concatenate(list(corrupt_chunks(split.images, corruption)))
        if masks is not None:
            masks = np.concatenate(list(move_masks(masks, split.images, corruption)))
    else:
        folder = _kept(split, masks, corruption, cache)
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        if masks is not None:
            masks = np.load(folder / MASKS, mmap_mode="r", allow_pickle=False)
    masks = split.masks if masks is None else masks
    return dataclasses.replace(split, images=images, masks=masks, clean=split)


def _kept(split: Split, masks: NDArray[np.bool_] | None, corruption: Corruption, cache: Cache) -> Path:
    """The folder of the corrupted images in the cache, made now where they are not there yet."""
    parts = {
        "corruption_format": CORRUPTION_FORMAT,
        "corruption": str(corruption),
        "images_sha256": split.images_sha256,
        "masks": masks is not None,
        "pillow": version("pillow") if corruption.name in BY_PILLOW else None,
    }

    def make(folder: Path) -> Mapping[str, Any]:
        _write(folder / IMAGES, split.images, corrupt_chunks(split.images, corruption))
        if masks is not None:
            _write(folder / MASKS, masks, move_masks(masks, split.images, corruption))
        return {"shape": list(split.images.shape)}

    try:
        return cache.get_or_make(KIND, parts, make).folder
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        where = error.filename or f"paths.cache={cache.root}"
        raise UserError(
            f"{where}: {error.strerror}; the corrupted images of split {split.name} take "
            f"{split.images.nbytes / 1e6:.0f} MB: free some space (medretrieval cache prune --keep-gb N) or "
            "set paths.cache to a folder with more"
        ) from error


def _write(path: Path, like: NDArray[Any], chunks: Iterable[NDArray[Any]]) -> None:
    """Write a .npy file of the shape and dtype of an array, a chunk at a time."""
    header = {"descr": like.dtype.str, "fortran_order": False, "shape": like.shape}
    with path.open("wb") as file:  # plain writes: through a memory map a full disk would kill the process
        write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk.tobytes())
