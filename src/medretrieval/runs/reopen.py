"""A finished run opened again: what verbs that take a run start from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from medretrieval.adapt.stage import restored
from medretrieval.cache import entry
from medretrieval.cache.store import Cache
from medretrieval.config import Config, expand, renamed
from medretrieval.embed.images import identify
from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError, first_line
from medretrieval.evaluate.evaluate import Search
from medretrieval.index.faiss_index import VectorIndex, is_exhaustive
from medretrieval.index.parameters import IndexSpec, set_parameters
from medretrieval.instantiate import instantiate, require_known_code
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.ranking import Ranking
from medretrieval.rerank.base import NoReranking, Opened
from medretrieval.rerank.opening import Vectors, nodes_between, ready, reranker_of
from medretrieval.rerank.search import as_search
from medretrieval.runs import folder as run_folder
from medretrieval.runs.manifest import read_manifest
from medretrieval.runs.report import RunReport

INDEX = "index.faiss"
# Parts of an encoder's identity that change the last bits of its vectors and not the space they are in.
SAME_SPACE = ("versions", "runtime", "precision", "compile")
TABLE = 2**12  # codes of a product quantizer, at most: FAISS goes up to 12 bits in practice
LINKS = ("embeddings_query.npy", "embeddings_gallery.npy", INDEX)


def saved_config(folder: Path, overrides: tuple[str, ...]) -> DictConfig:
    """The configuration of a finished run, typed, with overrides on top.

    Raises:
        UserError: no finished run in the folder, one of another results format, an unknown key, or code
            from elsewhere (`require_known_code`).
    """
    return _with_overrides(folder, read_manifest(folder).config, overrides)


def config_of_any_format(folder: Path, overrides: tuple[str, ...]) -> DictConfig:
    """The configuration of a finished run of this or an earlier results format, in this version's words.

    Raises:
        UserError: no finished run in the folder, a damaged file, an unknown key, or code from elsewhere
            (`require_known_code`).
    """
    scores, manifest = (run_folder.read_json(folder, n) for n in (run_folder.SCORES, run_folder.MANIFEST))
    if scores.get("format") == run_folder.FORMAT:
        return saved_config(folder, overrides)
    if not isinstance(config := manifest.get("config"), dict):
        raise UserError(
            f"{folder / run_folder.MANIFEST}: holds no configuration to repeat the run from; give the "
            f"values of {folder / run_folder.CONFIG} to medretrieval"
        )
    return _with_overrides(folder, renamed(config), overrides)


def _with_overrides(folder: Path, config: dict[str, Any], overrides: tuple[str, ...]) -> DictConfig:
    require_known_code(config, folder / run_folder.MANIFEST)
    cfg = OmegaConf.merge(OmegaConf.structured(Config), config)
    for override in overrides:
        key, _, value = override.partition("=")
        OmegaConf.update(cfg, key, _typed(value), force_add=False)
        if key == "paths.data" and "root" in cfg.dataset:
            cfg.dataset.root = value
        if key == "device" and "device" in cfg.encoder:  # what was interpolated is a value by now
            cfg.encoder.device = value
    return cast(DictConfig, cfg)


def _typed(value: str) -> Any:
    """A number, a truth value, null or a list where the text is one, else the text itself."""
    try:
        return OmegaConf.from_dotlist([f"v={value}"]).v
    except Exception:  # no YAML, such as a path with a bracket
        return value


def require_links(folder: Path, names: Sequence[str] = LINKS) -> None:
    """Refuse a run whose embeddings or index are not there any more.

    Args:
        folder: the run's folder.
        names: the files that are wanted.

    Raises:
        UserError: naming the file and how to make it again.
    """
    if gone := [name for name in names if not (folder / name).exists()]:
        raise UserError(
            f"{folder / gone[0]}: gone (was the cache cleaned, or the run's folder?); "
            f"repeat the run with: medretrieval again {folder}"
        )


def require_whole(folder: Path, name: str) -> None:
    """Compare a file that a run links to with the SHA-256 that the cache keeps of it, where it does.

    Raises:
        UserError: it is damaged.
    """
    path = (folder / name).resolve()
    if (path.parent / entry.CHECKSUMS_FILE).exists():
        try:
            entry.read(path.parent, (path.name,))
        except entry.Damaged as error:
            raise _damaged(folder / name, folder, first_line(error)) from error


def saved_ranking(folder: Path) -> Ranking:
    """A run's ranking, with the ids and labels of both sides.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return Ranking.load(folder / run_folder.RANKING)
    except Exception as error:  # a damaged archive makes NumPy raise anything
        raise _damaged(folder / run_folder.RANKING, folder, first_line(error)) from error


def saved_columns(path: Path) -> dict[str, list[Any]]:
    """The columns of a Parquet file of a run.

    Raises:
        UserError: the file is missing or damaged.
    """
    from pyarrow import parquet

    try:
        return dict(parquet.read_table(path).to_pydict())
    except Exception as error:  # a damaged file makes Arrow raise anything
        raise _damaged(path, path.parent, first_line(error)) from error


@dataclass(frozen=True)
class SavedImages:
    """What a run has kept of one side's images beside their labels.

    Attributes:
        ids: str [n].
        groups: str [n]; None where the dataset names none.
        metadata: column -> str [n], "" where it is not known.
    """

    ids: NDArray[np.str_]
    groups: NDArray[np.str_] | None
    metadata: dict[str, NDArray[np.str_]]


def saved_images(folder: Path, role: str) -> SavedImages | None:
    """Groups and metadata of a run's images; None where its dataset has neither, or it is of no such role.

    Args:
        folder: the run's folder.
        role: "query" or "gallery".

    Raises:
        UserError: the file is damaged.
    """
    path = folder / run_folder.IMAGES
    if not path.exists():
        return None
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        rows = np.array(table[run_folder.ROLE].to_pylist()) == role
        columns = {
            name: np.array(table[name].to_pylist(), dtype=np.str_)[rows] for name in table.column_names
        }
    except Exception as error:  # a damaged file makes Arrow raise anything
        raise _damaged(path, folder, first_line(error)) from error
    if not rows.any():
        return None
    groups = columns.get(run_folder.GROUP)
    if groups is not None and (groups == "").any():
        groups = None  # of the other side alone
    prefix = run_folder.METADATA
    metadata = {n.removeprefix(prefix): column for n, column in columns.items() if n.startswith(prefix)}
    return SavedImages(columns[run_folder.ID], groups, metadata)


def saved_vectors(folder: Path, role: str) -> NDArray[np.float32]:
    """Embeddings of a run, memory-mapped (float32 [n, d]).

    Args:
        folder: the run's folder.
        role: "query" or "gallery".

    Raises:
        UserError: the file is damaged.
    """
    path = folder / f"embeddings_{role}.npy"
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, folder, first_line(error)) from error


def saved_index(folder: Path, settings: Config, report: RunReport) -> VectorIndex:
    """A run's index, searched as the run searched it.

    Args:
        folder: the run's folder.
        settings: its configuration.
        report: its own.

    Raises:
        UserError: the file is damaged.
    """
    require_whole(folder, INDEX)
    try:
        index = _read(folder / INDEX)
    except Exception as error:  # a damaged file makes FAISS raise anything
        raise _damaged(folder / INDEX, folder, "FAISS refuses it") from error
    set_parameters(index, report.index.search, "index.search")
    spec = IndexSpec(report.index.factory, report.index.build, report.index.search, {})
    return VectorIndex(index, spec, settings.metric, folder / INDEX, 0.0, True, is_exhaustive(index))


def saved_search(folder: Path, settings: Config, report: RunReport, out: Exclusions) -> Search:
    """How a run's own queries were searched: its index, and its re-ranking where it has one.

    Args:
        folder: the run's folder.
        settings: its configuration.
        report: its own.
        out: what is left out of the results.

    Raises:
        UserError: embeddings or index are damaged.
    """
    index, vectors = saved_index(folder, settings, report), saved_vectors(folder, "query")
    if (opened := saved_reranking(folder, settings, index)) is not None:
        return as_search(opened, vectors, out)
    return lambda rows, k: index.search(vectors[rows], k)


def saved_reranking(folder: Path, settings: Config, index: VectorIndex) -> Opened | None:
    """A run's re-ranking over its saved gallery; None where it has none.

    Args:
        folder: the run's folder.
        settings: its configuration.
        index: its own.

    Raises:
        UserError: embeddings are damaged.
    """
    method = reranker_of(settings)
    if isinstance(method, NoReranking):
        return None
    sides = ("query", "gallery") if method.transductive else ("gallery", "gallery")
    query, gallery = (
        Vectors.of(saved_vectors(folder, role), folder / f"embeddings_{role}.npy") for role in sides
    )
    cache = Cache(expand(settings.paths.cache))
    return ready(method, nodes_between(method, query, gallery), index, cache).opened


def saved_encoder(folder: Path, settings: Config, cache: Cache) -> tuple[Encoder, list[str]]:
    """A run's encoder, and what about it is not as it was.

    Args:
        folder: the run's folder.
        settings: its configuration.
        cache: where identities are kept.

    Raises:
        UserError: its vectors would be of another space than the run's.
    """
    encoder = instantiate(settings.encoder, Encoder, "encoder")  # type: ignore[type-abstract]
    was = _flat(read_manifest(folder).encoder)
    now = _flat(json.loads(json.dumps(identify(encoder, cache))))
    changed = [key for key in sorted(was | now) if _plain(was.get(key)) != _plain(now.get(key))]
    said = {key: _differing(_plain(was.get(key)), _plain(now.get(key))) for key in changed}
    if apart := [key for key in changed if key.rpartition(".")[2] not in SAME_SPACE]:
        raise UserError(
            f"encoder={encoder.name}: its {apart[0]} {said[apart[0]]}; a query must be embedded as the "
            "run's gallery was"
        )
    return restored(encoder, settings, folder), [
        f"the encoder's {key} {text}: distances may differ in the last digits" for key, text in said.items()
    ]


def require_not_centered(folder: Path, settings: Config) -> None:
    """Refuse a run whose vectors are centered, which those of a new query are not.

    Raises:
        UserError: protocol.center is set.
    """
    if settings.protocol.center is not None:
        raise UserError(
            f"{folder}: the mean embedding is subtracted from its images "
            f"(protocol.center={settings.protocol.center}), but not from a new query; use a run with "
            "protocol.center=null"
        )


def _read(path: Path) -> faiss.Index:
    """Read an index; a damaged length in the file must not make FAISS ask for memory without measure.

    The limit holds for the table that FAISS adds to IVFPQ too: at most 2^bits times the cells' centroids.
    """
    library: Any = faiss
    if not hasattr(library, "set_deserialization_vector_byte_limit"):  # before FAISS 1.14
        return library.read_index(str(path))
    before = library.get_deserialization_vector_byte_limit()
    library.set_deserialization_vector_byte_limit(path.stat().st_size * TABLE)
    try:
        return library.read_index(str(path))
    finally:
        library.set_deserialization_vector_byte_limit(before)


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with those of the parts that an encoder is made of beside its own: "parts.0.versions"."""
    own = {key: value for key, value in identity.items() if key != "parts"}
    for number, part in enumerate(identity.get("parts", ())):
        own |= {f"parts.{number}.{key}": value for key, value in _flat(part).items()}
    return own


def _plain(part: Any) -> Any:
    """A part of an identity without what changes last bits only."""
    return {k: v for k, v in part.items() if k != "implementation"} if isinstance(part, dict) else part


def _differing(was: Any, now: Any) -> str:
    """In words: is this, was that; of mappings what differs in them."""
    if not isinstance(was, dict) or not isinstance(now, dict):
        return f"is {str(now)[:40]}, was {str(was)[:40]}"
    keys = [key for key in sorted(was | now) if was.get(key) != now.get(key)]
    return ", ".join(f"({key}) {_differing(was.get(key), now.get(key))}" for key in keys)


def _damaged(path: Path, folder: Path, why: str) -> UserError:
    return UserError(
        f"{path}: damaged, cannot be read ({why}); `medretrieval cache verify` lists what else "
        f"is damaged, `medretrieval again {folder}` repeats the run"
    )
