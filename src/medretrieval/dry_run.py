"""What a run would do, before it does it: images, embeddings that are there, time and disk.

No model is loaded, nothing is downloaded, embedded, written or tracked. What nothing has measured is unknown.
"""

import functools
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import Config, expand
from medretrieval.datasets.base import Dataset, Split
from medretrieval.embed.forecast import (
    UNKNOWN,
    Forecast,
    Rate,
    bytes_of,
    forecast,
    is_kept,
    last_rate,
    remembered,
)
from medretrieval.errors import UserError
from medretrieval.index.autotune import validation_split
from medretrieval.index.faiss_index import FLAT, place_of
from medretrieval.instantiate import instantiate
from medretrieval.load import load
from medretrieval.protocol.inputs import Inputs
from medretrieval.runs import folder as run_folder
from medretrieval.runs.identity import find_finished, fingerprint_of, title
from medretrieval.runs.saved.listing import State, runs_in
from medretrieval.subgroups.columns import columns_of


@dataclass(frozen=True)
class SidePlan:
    """A split that a run embeds.

    Attributes:
        role: "query", "gallery", "query and gallery", "center", "validation", or "clean query" (for the
            audit, where queries are corrupted).
        split: its name.
        encoder: name of the encoder.
        images: what embedding it would do.
        rate: how fast the encoder was before; None where the cache does not say.
    """

    role: str
    split: str
    encoder: str
    images: Forecast
    rate: Rate | None

    @property
    def seconds(self) -> float | None:
        """Estimated seconds of embedding; None where no rate is known."""
        if self.images.missing == 0:
            return 0.0
        return None if self.rate is None else self.images.missing / self.rate.images_per_s

    @property
    def new_bytes(self) -> int | None:
        """Bytes that its embeddings will take in the cache; None where their dimension is not known."""
        if self.images.kept:
            return 0
        dimension = None if self.rate is None else self.rate.dimension
        return None if dimension is None else bytes_of(self.images.images, dimension)


@dataclass(frozen=True)
class IndexPlan:
    """A gallery's index.

    Attributes:
        key: of the index in the cache.
        new_bytes: that it will take there, 0 where it lies there; None where that is not known.
    """

    key: str
    new_bytes: int | None


@dataclass(frozen=True)
class Similar:
    """A finished run over as many queries and images, of the same dataset, protocol and index.

    Attributes:
        folder: of that run.
        other_s: seconds of its stages but for embedding.
        size: bytes of its folder, without what it links to.
    """

    folder: Path
    other_s: float
    size: int


@dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    Attributes:
        title: what it is.
        identified: whether the cache knows the encoder by its signature; where not, all is to be embedded,
            unless the same model was embedded under another signature.
        finished: the earlier run that has its results; None where it would be run.
        sides: splits that are embedded, each once.
        sentences: how many it embeds; 0 where its queries are images.
        index: None where the dimension of the vectors is not known.
        similar: None where no such run is in the outputs.
    """

    title: str
    identified: bool
    finished: Path | None
    sides: Sequence[SidePlan]
    sentences: int
    index: IndexPlan | None
    similar: Similar | None


def plan(cfg: DictConfig) -> RunPlan:
    """What `run` would do with a configuration.

    Raises:
        UserError: what `run` would refuse before it embeds, or data that it would have to download.
    """
    settings = check(cfg)
    cache, outputs = Cache(expand(settings.paths.cache)), expand(settings.paths.outputs)
    _require_data(settings)
    inputs = load(settings, cache, remembered, keep=False)
    columns_of(settings.evaluation, inputs.task)
    identified = UNKNOWN not in inputs.identity
    finished = None
    if identified and not settings.force:
        finished = find_finished(outputs, fingerprint_of(settings, inputs))
    sides = _sides(settings, inputs, cache)
    prompts = inputs.task.queries.prompts
    return RunPlan(
        title=title(settings, inputs.encoder),
        identified=identified,
        finished=finished,
        sides=sides,
        sentences=0 if prompts is None else len(prompts.texts),
        index=_index(settings, inputs, sides, cache),
        similar=_similar(outputs, settings, len(inputs.task.queries), len(inputs.task.gallery)),
    )


def _require_data(settings: Config) -> None:
    dataset = instantiate(settings.dataset, Dataset, "dataset")  # type: ignore[type-abstract]
    if not dataset.is_here():
        raise UserError(
            f"dataset={dataset.name}: its data is not there yet, and a dry run downloads nothing; "
            "paths.data= says where it is"
        )


def _sides(settings: Config, inputs: Inputs, cache: Cache) -> list[SidePlan]:
    """The splits that a run embeds, each once."""
    task = inputs.task
    wanted: list[tuple[str, Split | None]] = [("query", task.queries.split), ("gallery", task.gallery)]
    if task.is_one_set:
        wanted = [("query and gallery", task.gallery)]
    if settings.audit.enabled and task.clean is not task and not task.clean.is_one_set:
        wanted.append(("clean query", task.clean.queries.split))
    wanted.append(("center", inputs.center_split))
    if settings.index.autotune is not None:
        wanted.append(("validation", validation_split(inputs)))
    size = inputs.dataset.size
    return [
        SidePlan(
            role,
            split.name,
            inputs.encoder.name,
            forecast(inputs.identity, split, size, cache),
            last_rate(inputs.identity, split, size, cache),
        )
        for role, split in wanted
        if split is not None
    ]


def _index(settings: Config, inputs: Inputs, sides: Sequence[SidePlan], cache: Cache) -> IndexPlan | None:
    """The gallery's index: its size is known where it is there, and of exact search before it is made."""
    (gallery,) = [side for side in sides if side.role.endswith("gallery")]
    n, d = len(inputs.task.gallery), None if gallery.rate is None else gallery.rate.dimension
    if d is None or settings.protocol.center is not None:  # centered vectors have a key of their own
        return None
    place, factory = place_of(
        settings.index, settings.metric, settings.seed, (gallery.images.key, n, d), cache
    )
    if is_kept(place):
        return IndexPlan(place.name, 0)
    return IndexPlan(place.name, 4 * n * d if factory == FLAT else None)


def _similar(outputs: Path, settings: Config, queries: int, gallery: int) -> Similar | None:
    """The newest finished run that a run like this can be measured by."""
    wanted = settings.dataset["name"], settings.protocol.name, settings.index.name, queries, gallery
    return next((run for kind, run in _finished(outputs) if kind == wanted), None)


@functools.lru_cache(maxsize=1)
def _finished(outputs: Path) -> list[tuple[tuple[Any, ...], Similar]]:
    """Finished runs, the newest first, each with what makes another run like it."""
    found = []
    for run in runs_in(outputs):
        if run.state is State.FINISHED:
            with suppress(OSError, ValueError, LookupError, TypeError):  # of another format
                said = json.loads((run.folder / run_folder.SCORES).read_bytes())
                counts, seconds = said["counts"], said["timings_s"]
                kind = said["dataset"], said["protocol"]["name"], said["index"]["name"]
                other_s = float(seconds["total"]) - float(seconds.get("embed", 0.0))
                files = [path.lstat().st_size for path in run.folder.rglob("*") if path.is_file()]
                similar = Similar(run.folder, other_s, sum(files))
                found.append(((*kind, counts["queries"], counts["gallery"]), similar))
    return found
