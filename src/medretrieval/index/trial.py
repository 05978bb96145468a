"""An index tried on a few made-up vectors in a process of its own: some factory strings end the process.

FAISS divides by zero for `PQ16x0`, reads what is not there for `HNSW1`, and takes all memory for a graph of
100,000,000 links a vector. `python -m medretrieval.index.trial` is that process.
"""

import json
import re
import signal
import subprocess
import sys
from typing import Any

import faiss
import numpy as np
import psutil  # type: ignore[import-untyped]

from medretrieval.errors import UserError, first_line
from medretrieval.index.distance import FAISS_METRIC

_WHERE = re.compile(r"^(Error in .* at \S+:\d+: )?(Error: )?", re.DOTALL)
TRIED = 4096  # vectors at most
MEMORY = 4 * 2**30  # bytes that trying may take
SECONDS = 120  # that trying may take
# Parts of factory strings whose numbers are known to be harmless between these ends.
_PLAIN = r"Flat|SQ4|SQ6|SQ8|SQfp16|PQ(?P<pq>\d{1,4})(x(?P<bits>\d{1,2}))?(np)?"
_KNOWN = re.compile(
    rf"(IVF(?P<nlist>\d{{1,8}})(_HNSW(?P<cells>\d{{1,3}}))?,)?({_PLAIN})|HNSW(?P<links>\d{{1,3}})(,(Flat|SQ8))?"
)
_LEAST_MOST = {"nlist": (1, 10**8), "cells": (2, 512), "links": (2, 512), "pq": (1, 9999), "bits": (1, 16)}


def is_known(factory: str) -> bool:
    """Whether a factory string is of the kinds that need no trial: Flat, IVF, HNSW, with or without codes.

    >>> is_known("IVF64,PQ16x8np"), is_known("HNSW32,Flat"), is_known("HNSW1"), is_known("RR0,Flat")
    (True, True, False, False)
    """
    found = _KNOWN.fullmatch(factory)
    if found is None:
        return False
    given = {name: int(value) for name, value in found.groupdict().items() if value is not None}
    return all(_LEAST_MOST[name][0] <= value <= _LEAST_MOST[name][1] for name, value in given.items())


def require_harmless(factory: str, search: str, metric: str, n: int, d: int) -> None:
    """Try an index that is none of the known kinds, before FAISS sees the vectors.

    Args:
        factory: FAISS factory string.
        search: ParameterSpace string set before searching.
        metric: FAISS's name of the distance, a key of `distance.FAISS_METRIC`.
        n: vectors that it is for.
        d: their dimension.

    Raises:
        UserError: FAISS refuses it, it ends the process, or it takes more memory than there is.
    """
    if is_known(factory):
        return
    what = f"index.factory={factory}"
    asked = {"factory": factory, "search": search, "metric": metric, "n": n, "d": d}
    words = [sys.executable, "-m", "medretrieval.index.trial", json.dumps(asked)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        count = min(n, TRIED)
        raise UserError(
            f"{what}: building it over {count} vectors takes more than {SECONDS} s; use another index"
        ) from error
    if done.returncode != 0:
        raise UserError(f"{what}: FAISS {_end(done.returncode)} on it; use another index")
    said = json.loads(done.stdout)
    if "refused" in said:
        raise UserError(f"{what}: FAISS refuses it ({said['refused']})")
    free = psutil.virtual_memory().available
    if (wanted := said["bytes"]) > free:
        raise UserError(
            f"{what}: would take about {wanted / 1e9:.1f} GB for {n:,} vectors, and {free / 1e9:.1f} GB are "
            "free; use an index with codes, such as index=ivfpq"
        )


def _end(code: int) -> str:
    if code >= 0:
        return f"fails (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"ends its process ({name})"


def tried(asked: dict[str, Any]) -> dict[str, Any]:
    """Build, search and measure an index over random vectors.

    Training may want more vectors than are tried here: what it refuses is left to the real one to refuse.

    Args:
        asked: factory, search, metric, n, d, as in `require_harmless`.

    Returns:
        {"refused": why} or {"bytes": of the whole index, extrapolated}.
    """
    n, d = asked["n"], asked["d"]
    count = min(n, TRIED)
    vectors = np.random.default_rng(0).normal(size=(count, d)).astype(np.float32)
    stage = "factory"
    try:
        index = faiss.index_factory(d, asked["factory"], FAISS_METRIC[asked["metric"]])
        stage = "train"
        if not index.is_trained:
            index.train(vectors)
        half = count // 2
        index.add(vectors[:half])
        before = len(faiss.serialize_index(index))
        index.add(vectors[half:])
        after = len(faiss.serialize_index(index))
        stage = "search"
        space: Any = faiss.ParameterSpace()
        if asked["search"]:
            space.set_index_parameters(index, asked["search"])
        index.search(vectors[:2], min(count, 5))
    except MemoryError:
        return {"refused": f"it takes more than {MEMORY / 2**30:g} GiB for {count} vectors"}
    except (RuntimeError, ValueError) as error:
        if stage == "train":
            return {"bytes": 0}
        return {"refused": reason(error)}
    each = (after - before) / max(count - half, 1)
    return {"bytes": int(after + each * (n - count))}


def reason(error: Exception) -> str:
    """What FAISS says, without where in its own source."""
    return first_line(type(error)(_WHERE.sub("", str(error))))


def _limit_memory() -> None:
    """Let this process take no more than a trial needs; on Windows there is no such limit."""
    try:
        import resource
    except ImportError:
        return
    most = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _limit_memory()
    print(json.dumps(tried(json.loads(sys.argv[1]))))
