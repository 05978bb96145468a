"""Before the stages: the splits, the encoder and the task that a configuration names."""

from collections.abc import Callable, Mapping
from typing import Any

from medretrieval.cache.store import Cache
from medretrieval.config import Config, PromptSource, is_set
from medretrieval.datasets.base import Dataset, Split
from medretrieval.datasets.corrupted import corrupted
from medretrieval.datasets.groups import load_split
from medretrieval.embed.images import identify
from medretrieval.encoders.base import Encoder, reads_text
from medretrieval.encoders.composed.composed import JoinedEncoder
from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import objective_name, require_depths
from medretrieval.index.parameters import require_parameters
from medretrieval.instantiate import instantiate
from medretrieval.protocol.captions import captions_of
from medretrieval.protocol.exclusions import Exclusions, active
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.prompts import prompts_of
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.ranking import require_companions
from medretrieval.protocol.relevance import Relevance
from medretrieval.protocol.task import RetrievalTask
from medretrieval.rerank.opening import require_rerank

Identify = Callable[[Encoder, Cache], Mapping[str, Any]]


def load(settings: Config, cache: Cache, identity: Identify = identify, keep: bool = True) -> Inputs:
    """Make the encoder and the task of a run.

    Args:
        settings: the run's configuration.
        cache: where identities are kept.
        identity: what the encoder is known by; `identify` loads the model where the cache does not say it.
        keep: whether corrupted images are kept in the cache; else they are in memory, and nothing is written.

    Raises:
        UserError: as `load_task`, and what the encoder refuses.
    """
    encoder = instantiate(settings.encoder, Encoder, "encoder")  # type: ignore[type-abstract]
    dataset, task = load_task(settings, cache if keep else None)
    if settings.protocol.prompts is not None:
        require_text(encoder)
    center = settings.protocol.center
    center_split = load_split(dataset, center.value) if center is not None else None
    train, val = _to_fit(settings, encoder, dataset, task)
    return Inputs(dataset, encoder, dict(identity(encoder, cache)), task, center_split, train, val)


def _to_fit(
    settings: Config, encoder: Encoder, dataset: Dataset, task: RetrievalTask
) -> tuple[Split | None, Split | None]:
    """Train and val, where anything is fitted on the one and chosen on the other.

    Raises:
        UserError: the images that are scored would be among them.
    """
    adapts, joins = is_set(settings.adapt), isinstance(encoder, JoinedEncoder)
    if not adapts and not joins:
        return None, None
    what = f"adapt={settings.adapt['name']}" if adapts else f"encoder={encoder.name}"
    seen = ("train", "val") if adapts else ("train",)
    # Images may search train; of sentences the gallery is what is asked for, so it has to be new.
    free = ("gallery", "train") if task.queries.split is not None else None
    for role, name in (("query", task.queries.name), ("gallery", task.gallery.name)):
        if name in seen and (role, name) != free:
            done = "fitted on split train" if name == "train" else "chosen on split val"
            raise UserError(
                f"protocol.{role}={name}: {what} is {done}, so scores there would say nothing about new "
                "images; "
                f"use protocol.{role}=test, or {'adapt=none' if adapts else 'another encoder'}"
            )
    if adapts and settings.protocol.center is not None:
        raise UserError(
            f"protocol.center={settings.protocol.center} and {what}: both change the vectors by the mean of "
            "train; set one of them to null (none)"
        )
    if adapts and settings.explain.enabled:
        raise UserError(
            f"explain.enabled=true and {what}: the maps are of the encoder's own vectors; set adapt=none"
        )
    loaded = {split.name: split for split in (task.queries.split, task.gallery) if split is not None}
    train = loaded.get("train") or load_split(dataset, "train")
    if isinstance(encoder, JoinedEncoder):
        encoder.require(train.captions)
    return train, load_split(dataset, "val") if adapts else None


def require_text(encoder: Encoder) -> None:
    """Refuse an encoder without a text tower before any model is loaded.

    Raises:
        UserError: `Encoder.encode_text`'s own line.
    """
    if not reads_text(type(encoder)):
        encoder.encode_text(())


def load_task(settings: Config, cache: Cache | None) -> tuple[Dataset, RetrievalTask]:
    """Read the splits that a run's protocol names, and check them against the rest of the configuration.

    Args:
        settings: the run's configuration.
        cache: where corrupted images are kept; None keeps them in memory.

    Raises:
        UserError: data, protocol, depths or index parameters that do not fit each other.
    """
    dataset = instantiate(settings.dataset, Dataset, "dataset")  # type: ignore[type-abstract]
    protocol = settings.protocol
    queries, gallery = _sides(settings, dataset)
    # Before queries are corrupted: a corrupted copy of an image is one still.
    exclusions = Exclusions.from_protocol(queries, gallery, protocol)
    queries = _corrupted(queries, dataset, cache)
    task = RetrievalTask.from_sides(queries, gallery, exclusions, _relevance(settings, dataset))
    if task.queries_are_gallery and protocol.exclude_self:
        require_companions(queries.labels, dataset.classes, f"{dataset.name}, split {protocol.query}")
    require_depths(task, settings.evaluation)
    require_parameters(settings.index, len(gallery))
    objective_name(settings.evaluation, task)
    require_rerank(settings, task)
    if not (task.n_relevant > 0).any():
        why = "leave out less" if active(protocol) else "the two share no class"
        raise UserError(
            f"dataset={dataset.name}: no query of {queries.name!r} has a relevant image that it may "
            f"find in split {gallery.name!r}; {why}"
        )
    return dataset, task


def _sides(settings: Config, dataset: Dataset) -> tuple[Queries, Split]:
    protocol = settings.protocol
    if protocol.query is None:
        words = settings.prompts
        if words is None or words.source == PromptSource.classes:
            return prompts_of(settings, dataset), load_split(dataset, protocol.gallery.value)
        gallery = load_split(dataset, protocol.gallery.value)
        return captions_of(gallery, dataset.classes, words, f"dataset={dataset.name}"), gallery
    queries = load_split(dataset, protocol.query.value)
    same = protocol.gallery == protocol.query
    return queries, queries if same else load_split(dataset, protocol.gallery.value)


def _corrupted(queries: Queries, dataset: Dataset, cache: Cache | None) -> Queries:
    """The queries as the encoder gets them; the gallery stays as it is."""
    corruption = dataset.corruption
    if corruption is None:
        return queries
    if queries.split is None:
        raise UserError(
            f"dataset.corrupt={corruption}: corrupts query images, and the queries are sentences; set it to "
            "null, or use protocol=query_gallery"
        )
    return corrupted(queries.split, corruption, cache)


def _relevance(settings: Config, dataset: Dataset) -> Relevance:
    jaccard = settings.evaluation.min_jaccard
    if jaccard is not None and dataset.label_type != "multi":
        raise UserError(
            f"evaluation.min_jaccard={jaccard}: dataset={dataset.name} has one class an image; set it to null"
        )
    return Relevance(jaccard, len(dataset.classes) if dataset.label_type == "ordinal" else None)
