"""What an index is built and searched with: templates of a configuration, filled for a gallery."""

import math
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import faiss

from medretrieval.config import IndexConfig
from medretrieval.errors import UserError, first_line
from medretrieval.index.trial import reason

# The keys of an index configuration that fill no template.
NOT_TEMPLATE_KEYS = ("name", "factory", "build", "search", "deterministic", "autotune")
TEMPLATES = ("factory", "build", "search")
MAX_NUMBER = 2**31 - 1  # of a parameter: FAISS counts with 32 bits
MAX_SHOWN_BITS = 40
COUNTS = ("nprobe", "efSearch", "efConstruction")  # in ParameterSpace strings; FAISS takes 0 and fails later
MAX_PQ_M = 32  # training takes seconds a codebook
MIN_POINTS_PER_CENTROID = 39  # below this FAISS's k-means calls a training set too small


@dataclass(frozen=True)
class IndexSpec:
    """An index configuration fitted to a gallery: nothing left open.

    Attributes:
        factory: FAISS factory string.
        build: ParameterSpace string set before adding vectors.
        search: ParameterSpace string set before searching.
        parameters: the value of every parameter that the templates use.
    """

    factory: str
    build: str
    search: str
    parameters: Mapping[str, int]


def fit(config: IndexConfig, n: int, d: int, depth: int) -> IndexSpec:
    """Fill the templates of an index configuration for a gallery.

    Open parameters: nlist about 4 sqrt(n) with at least 39 vectors a cell; nprobe an eighth of the cells
    and enough of them to hold four times the ranking; ef_search twice the ranking and 16 log2(n);
    pq_m the largest divisor of d up to 32 that leaves 8 dimensions a part; pq_bits 8 from 256 vectors on.

    Args:
        config: factory, build and search templates with their parameters.
        n: vectors in the gallery.
        d: their dimension.
        depth: results a query that will be asked for.

    Raises:
        UserError: a parameter that the templates do not use, or that does not fit the gallery.
    """
    used, given = require_parameters(config, n)
    parameters = _fitted(given, n, d, depth) | {k: v for k, v in given.items() if v is not None}
    parameters = {k: parameters[k] for k in sorted(used) if k in parameters}
    if missing := used - parameters.keys():
        raise UserError(f"index={config.name}: {', '.join(sorted(missing))} in its templates needs a value")
    _check_fit(parameters, n)
    if parameters.get("nprobe", 1) > parameters.get("nlist", n):
        raise UserError(
            f"index.nprobe={parameters['nprobe']}: more than the {parameters['nlist']} cells of the index"
        )
    if d % parameters.get("pq_m", 1):
        raise UserError(f"index.pq_m={parameters['pq_m']}: must divide the dimension of the vectors, {d}")
    factory, build_, search = (t.format(**parameters) for t in (config.factory, config.build, config.search))
    return IndexSpec(factory, build_, search, parameters)


def require_parameters(config: IndexConfig, n: int) -> tuple[set[str], dict[str, int | None]]:
    """What can be refused before any vector is made.

    Args:
        config: factory, build and search templates with their parameters.
        n: vectors in the gallery.

    Returns:
        The names that the templates use, and every parameter as it was given.

    Raises:
        UserError: a parameter that the templates do not use, or that does not fit the gallery.
    """
    used = set().union(*(_fields(getattr(config, key), key) for key in TEMPLATES))
    given = {k: v for k, v in asdict(config).items() if k not in NOT_TEMPLATE_KEYS}
    for key, value in given.items():
        if value is not None and key not in used:
            raise UserError(
                f"index.{key}={value}: index={config.name} ({config.factory}) has no such parameter; "
                f"it has: {', '.join(sorted(used)) or 'none'}"
            )
    for key, value in given.items():
        if value is not None and not 1 <= value <= MAX_NUMBER:
            raise UserError(f"index.{key}={value}: must be between 1 and {MAX_NUMBER}, or null to fit it")
    _check_fit({k: v for k, v in given.items() if v is not None}, n)
    _check_autotune(config)
    return used, given


def _check_autotune(config: IndexConfig) -> None:
    if config.autotune is None:
        return
    if not 0 < config.autotune <= 1:
        raise UserError(f"index.autotune={config.autotune}: must be a recall above 0 and at most 1")
    if not config.search:
        raise UserError(
            f"index.autotune={config.autotune}: index={config.name} has no search parameters to tune; use "
            "index=ivf or index=hnsw, or set it to null"
        )
    for key in _fields(config.search, "search"):
        if (value := getattr(config, key)) is not None:
            raise UserError(
                f"index.{key}={value} and index.autotune={config.autotune}: autotune chooses this value "
                "itself; set one of the two to null"
            )


def _fields(template: str, key: str) -> set[str]:
    """Names of the parameters in a template, each in braces and as it is.

    Raises:
        UserError: braces that hold anything else.
    """
    try:
        parts = list(string.Formatter().parse(template))
        for _, name, form, conversion in parts:
            if name is not None and (form or conversion or not name.isidentifier()):
                raise ValueError("braces hold more than a name")
    except ValueError as error:
        raise UserError(
            f"index.{key}={template}: {first_line(error)}; write parameters as {{nlist}}"
        ) from error
    return {name for _, name, _, _ in parts if name}


def _fitted(given: Mapping[str, int | None], n: int, d: int, depth: int) -> dict[str, int]:
    nlist = given["nlist"] or max(1, min(round(4 * math.sqrt(n)), n // MIN_POINTS_PER_CENTROID))
    return {
        "nlist": nlist,
        "nprobe": min(nlist, max(math.ceil(nlist / 8), math.ceil(4 * depth * nlist / n))),
        "ef_search": min(n, max(2 * depth, math.ceil(16 * math.log2(max(n, 2))))),
        "pq_m": max(m for m in range(1, max(1, min(MAX_PQ_M, d // 8)) + 1) if d % m == 0),
        "pq_bits": min(8, int(math.log2(n))) or 1,
    }


def _check_fit(parameters: Mapping[str, int], n: int) -> None:
    nlist = parameters.get("nlist", 1)
    if nlist > n:
        raise UserError(
            f"index.nlist={nlist}: more cells than the gallery has vectors ({n}); at most {n}, "
            f"better {max(1, n // MIN_POINTS_PER_CENTROID)} ({MIN_POINTS_PER_CENTROID} vectors a cell), or "
            "null to fit it"
        )
    if "nlist" in parameters and parameters.get("nprobe", 1) > nlist:
        raise UserError(f"index.nprobe={parameters['nprobe']}: more than the {nlist} cells of the index")
    if (bits := parameters.get("pq_bits", 0)) >= max(n, 1).bit_length():
        needed = f"2^{bits}" if bits > MAX_SHOWN_BITS else 2**bits
        raise UserError(
            f"index.pq_bits={bits}: needs at least {needed} vectors to train on, the gallery has {n}"
        )


def set_parameters(index: faiss.Index, parameters: str, where: str) -> None:
    """Set a ParameterSpace string on an index.

    Args:
        index: changed in place.
        parameters: such as "nprobe=8", several with commas between.
        where: the key, for the message of a refusal.

    Raises:
        UserError: FAISS refuses it, or a value is no whole number of at least 1, which FAISS takes and fails
            on when it searches.
    """
    if not parameters:
        return
    for pair in parameters.split(","):
        name, _, value = pair.partition("=")
        if name.strip().endswith(COUNTS) and not _is_count(value.strip()):
            raise UserError(f"{where}={parameters}: {name} must be a whole number from 1 to {MAX_NUMBER}")
    space: Any = faiss.ParameterSpace()  # its stub knows one of its overloads only
    try:
        space.set_index_parameters(index, parameters)
    except RuntimeError as error:
        raise UserError(f"{where}={parameters}: FAISS refuses it ({reason(error)})") from error


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= MAX_NUMBER
