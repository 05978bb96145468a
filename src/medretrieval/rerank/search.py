"""A re-ranked gallery asked as an index is asked, for scoring and for new queries."""

from collections.abc import Callable

import numpy as np

from medretrieval.protocol.exclusions import Exclusions
from medretrieval.rerank.base import Asked, Floats, Ints, Opened

BLOCK_QUERIES = 256  # that are asked together: what is gathered for them stays small
Search = Callable[[slice, int], tuple[Ints, Floats]]


def as_search(opened: Opened, queries: Floats, out: Exclusions) -> Search:
    """A method as `evaluate` wants a search.

    What the task leaves out is taken out before a query's neighbors are used, so it is not among the results;
    as many missing ones (-1, inf) stand at the end of each row in its place.

    Args:
        opened: a method over a gallery.
        queries: float32 [q, d], as the encoder gives them.
        out: what the task leaves out.
    """

    def search(rows: slice, k: int) -> tuple[Ints, Floats]:
        begin, end, _ = rows.indices(len(queries))
        ids = np.full((end - begin, k), -1, np.int64)
        distances = np.full((end - begin, k), np.inf, np.float32)
        for at in range(begin, end, BLOCK_QUERIES):
            block = slice(at, min(at + BLOCK_QUERIES, end))
            asked = Asked(np.asarray(queries[block]), out, block)
            found = opened.search(asked, k - out.overfetch)
            place = slice(at - begin, block.stop - begin), slice(0, found[0].shape[1])
            ids[place], distances[place] = found
        return ids, distances

    return search


def nothing_left_out(gallery: int) -> Exclusions:
    """For a new query, which may find everything."""
    return Exclusions((), np.zeros(gallery, np.bool_))
