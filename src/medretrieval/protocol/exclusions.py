"""Which gallery items a query does not find: itself, images of its group, copies of one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import ProtocolConfig
from medretrieval.datasets.base import Split
from medretrieval.datasets.groups import common_codes, identical_codes
from medretrieval.errors import UserError
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.ranking import own_positions

Ints = NDArray[np.int64]
MORE_LEFT_OUT = ("exclude_same_group", "drop_duplicates")  # options of a protocol
NOBODY = -1  # a query's code that no gallery item has


@dataclass(frozen=True)
class Exclusions:
    """What is left out of the results.

    Attributes:
        matches: pairs of codes, int64 [q] and int64 [n]: an item is left out of the results of a query
            that has the same code.
        dropped: bool [n], the items that no query finds.
    """

    matches: tuple[tuple[Ints, Ints], ...]
    dropped: NDArray[np.bool_]

    @classmethod
    def from_protocol(cls, queries: Queries, gallery: Split, protocol: ProtocolConfig) -> "Exclusions":
        """What a protocol leaves out.

        `exclude_self`: the query itself, by id and wherever it stands (among byte-identical images the first
        result need not be the query). `exclude_same_group`: every image of the query's group.
        `drop_duplicates`: images that equal the query byte by byte, and of equal gallery images all but
        the first.

        Raises:
            UserError: groups are wanted and the dataset has none, or a query may find itself but not its
                group or its copies.
        """
        matches: list[tuple[Ints, Ints]] = []
        dropped = np.zeros(len(gallery), dtype=np.bool_)
        own = own_positions(queries.ids, gallery.ids)
        if protocol.exclude_self:
            matches.append((own, np.arange(len(gallery))))
        _require_sense(protocol, bool((own >= 0).any()))
        if protocol.exclude_same_group:
            matches.append(common_codes(*(_groups_of(split) for split in (queries, gallery))))
        if protocol.drop_duplicates:
            if queries.split is not None:
                of_queries, of_gallery = identical_codes(queries.split.images, gallery.images)
            else:  # a sentence is no copy of an image
                of_queries, of_gallery = np.full(len(queries), NOBODY), *identical_codes(gallery.images)
            matches.append((of_queries, of_gallery))
            dropped[:] = True
            dropped[np.unique(of_gallery, return_index=True)[1]] = False
        return cls(tuple(matches), dropped)

    @cached_property
    def pairs(self) -> tuple[Ints, Ints]:
        """Queries and positions of what is left out but not dropped, each pair once (int64 [p] each)."""
        n = len(self.dropped)
        found = [np.zeros(0, np.int64)]
        for query_codes, gallery_codes in self.matches:
            order = np.argsort(gallery_codes, kind="stable")
            begin = np.searchsorted(gallery_codes, query_codes, "left", sorter=order)
            counts = np.searchsorted(gallery_codes, query_codes, "right", sorter=order) - begin
            queries = np.repeat(np.arange(len(query_codes)), counts)
            within = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
            found.append(queries * n + order[np.repeat(begin, counts) + within])
        cells = np.unique(np.concatenate(found))
        queries, positions = cells // max(n, 1), cells % max(n, 1)
        kept = ~self.dropped[positions]
        return queries[kept], positions[kept]

    def sizes(self, queries: int) -> Ints:
        """Items that each query can find (int64 [q])."""
        left: Ints = int((~self.dropped).sum()) - np.bincount(self.pairs[0], minlength=queries)
        return left

    @cached_property
    def overfetch(self) -> int:
        """Results that have to be asked for beyond the wanted depth."""
        most = np.bincount(self.pairs[0]).max() if len(self.pairs[0]) else 0
        return int(self.dropped.sum() + most)

    def for_rows(self, rows: Ints) -> "Exclusions":
        """What is left out for some of the queries (positions, int64 [r])."""
        return Exclusions(tuple((query[rows], gallery) for query, gallery in self.matches), self.dropped)

    def remove(
        self, ids: Ints, distances: NDArray[np.float32], rows: slice = slice(None)
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Take what is left out from results that are `overfetch` deeper than wanted.

        Args:
            ids: int64 [r, depth + overfetch], -1 for a missing result.
            distances: float32 [r, depth + overfetch].
            rows: which queries they are of.

        Returns:
            ids and distances [r, depth]; a row of which less was left out loses its last results.
        """
        if not self.overfetch:
            return ids, distances
        out = self._is_out(ids, rows)
        depth = ids.shape[1] - self.overfetch
        if self.overfetch == 1:
            out[:, -1] |= ~out.any(axis=1)
        else:
            out |= np.cumsum(~out, axis=1, dtype=np.int32) > depth
        shape = (len(ids), depth)
        return ids[~out].reshape(shape), distances[~out].reshape(shape)

    def _is_out(self, ids: Ints, rows: slice) -> NDArray[np.bool_]:
        # A last entry for -1 to point at: a missing result is nobody.
        out = np.append(self.dropped, False)[ids]
        for query_codes, gallery_codes in self.matches:
            codes = np.append(gallery_codes, NOBODY)
            wanted = query_codes[rows, None]
            out |= (codes[ids] == wanted) & (wanted != NOBODY)
        return out

    def random_results(self, rng: np.random.Generator, queries: int, depth: int) -> Ints:
        """Results of a random ranking: each query's are a uniformly random choice in random order.

        Queries share one random order, which each enters at a place of its own.

        Args:
            rng: the source of chance.
            queries: number of queries.
            depth: results a query, at most what every query can find.

        Returns:
            int64 [q, depth].
        """
        n, width = len(self.dropped), depth + self.overfetch
        places = (rng.integers(0, n, queries)[:, None] + np.arange(width)) % n
        ids = rng.permutation(n)[places]
        return self.remove(ids, np.zeros(ids.shape, np.float32))[0]


def _require_sense(protocol: ProtocolConfig, meets_itself: bool) -> None:
    for key in MORE_LEFT_OUT:
        if getattr(protocol, key) and meets_itself and not protocol.exclude_self:
            raise UserError(
                f"protocol.{key}=true with protocol.exclude_self=false: an image would find itself but not "
                "what equals it; set exclude_self=true"
            )


def _groups_of(split: Queries) -> NDArray[np.str_]:
    if split.groups is None:
        raise UserError(
            f"protocol.exclude_same_group=true: it is not known which images of split {split.name!r} belong "
            "together; give dataset.groups=<CSV with the columns split,index,group>, or for files of your "
            "own the column or rule that names the patient"
        )
    return split.groups


def active(protocol: ProtocolConfig) -> Sequence[str]:
    """The options of a protocol that leave out more than the query itself."""
    return [key for key in MORE_LEFT_OUT if getattr(protocol, key)]
