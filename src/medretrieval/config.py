"""The schema of the configuration, where its YAML files are, and the checks between its keys.

Defaults stand in conf/*.yaml: a field without a value in YAML is MISSING, or unset in an index.
`dataset`, `encoder` and `tracking` stay open: their keys are the constructor arguments of a `_target_`.
"""

import logging
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf

from medretrieval.errors import UserError

log = logging.getLogger(__name__)


class SplitName(StrEnum):
    """The three splits every dataset has."""

    train = "train"
    val = "val"
    test = "test"


class Baseline(StrEnum):
    """The encoder whose scores stand beside every other's."""

    pixels = "pixels"
    none = "none"


class Resample(StrEnum):
    """What varies in intervals where test queries search another split."""

    queries = "queries"
    both = "both"


class FaissMetric(StrEnum):
    """What FAISS compares by."""

    l2 = "l2"
    inner_product = "inner_product"


@dataclass
class IndexConfig:
    """An index as data: FAISS factory string, and parameters for building and for searching it.

    `factory`, `build` and `search` are templates over the other keys; a key that none of them
    uses must stay unset (None), so no option can be accepted and ignored. `deterministic` builds on
    one thread: the same bytes every time.
    """

    name: str = MISSING
    factory: str = MISSING
    build: str = ""
    search: str = ""
    nlist: int | None = None
    nprobe: int | None = None
    m: int | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    pq_m: int | None = None
    pq_bits: int | None = None
    deterministic: bool = False
    autotune: float | None = None


@dataclass
class MetricConfig:
    """A distance: FAISS's metric and whether vectors are L2-normalized before it."""

    name: str = MISSING
    faiss: FaissMetric = MISSING
    normalize: bool = MISSING


class PromptUse(StrEnum):
    """How prompts become queries: every sentence is one, or each class has one, the mean of its sentences."""

    each = "each"
    ensemble = "ensemble"


class PromptSource(StrEnum):
    """Where the sentences come from: words for the classes, or the captions of the searched images."""

    classes = "classes"
    captions = "captions"


class Hit(StrEnum):
    """What a caption has to find: the image it describes, or any image of that image's group."""

    image = "image"
    group = "group"


class Center(StrEnum):
    """The split whose mean image is taken from every image, as that of the prompts is from every prompt."""

    train = "train"


@dataclass
class ProtocolConfig:
    """Who queries whom, and what an image may not find: itself, its group, copies.

    Queries are the images of a split (`query`), or the dataset's prompts (`prompts`, and no `query`).
    `one_split`: queries and gallery have to be the same split.
    """

    name: str = MISSING
    query: SplitName | None = MISSING
    gallery: SplitName = MISSING
    exclude_self: bool = MISSING
    exclude_same_group: bool = MISSING
    drop_duplicates: bool = MISSING
    prompts: PromptUse | None = None
    one_split: bool = False
    center: Center | None = None


@dataclass
class PromptsConfig:
    """Sentences that ask: words for a dataset's classes, or the captions of the images that are searched.

    Attributes:
        templates: sentences with a gap; none for captions.
        classes: what fills the gap for each class; none for captions.
        source: of the sentences.
        hit: what a caption has to find; None for classes, which find images of their own.
        max_words: words of a caption that are asked with, from its first on; None for all, and for classes.
    """

    templates: list[str] = MISSING
    classes: dict[str, list[str]] = MISSING
    source: PromptSource = PromptSource.classes
    hit: Hit | None = None
    max_words: int | None = None


@dataclass
class EvaluationConfig:
    """Score depths, saved depth, the one score that the command returns, and how sure it is.

    The defaults of subgroups stand here, so that older manifests have them: `subgroups` are columns of the
    dataset's metadata, `subgroup_bins` into how many bins of like size numbers are put, and `subgroup_edges`
    says for a column where its bins begin instead.
    """

    ks: list[int] = MISSING
    save_depth: int | None = MISSING
    objective: str | None = MISSING
    min_jaccard: float | None = MISSING
    vote_k: int = MISSING
    baseline: Baseline = MISSING
    resample: Resample = MISSING
    resamples: int = MISSING
    confidence: float = MISSING
    subgroups: list[str] = field(default_factory=list)
    subgroup_bins: int = 4
    subgroup_edges: Any = None  # dict[str, list[float]] or None; Hydra cannot add keys to a typed one


@dataclass
class AuditConfig:
    """From when on two images count as near-duplicates.

    Attributes:
        near_quantile: share of the images that may have an image of another class as near as what counts as a
            near-duplicate; from it the cosine is fitted.
        near_hash: bits of two 64-bit hashes that may differ.
        max_pairs: listed of each kind.
    """

    enabled: bool = MISSING
    near_quantile: float = MISSING
    near_hash: int = MISSING
    max_pairs: int = MISSING


class Projection(StrEnum):
    """How embeddings are laid out in a plane."""

    pca = "pca"
    tsne = "tsne"
    umap = "umap"


@dataclass
class FiguresConfig:
    """Pictures of every run: whether, of how many queries, how many results of each, and what kind of map."""

    enabled: bool = MISSING
    queries: int = MISSING
    results: int = MISSING
    projection: Projection = MISSING


@dataclass
class ExplainConfig:
    """Maps of what makes queries and their nearest results similar: of how many pairs, in how many steps."""

    enabled: bool = MISSING
    pairs: int = MISSING
    steps: int = MISSING


@dataclass
class PathsConfig:
    """Folders: results of runs, datasets, and what is kept between runs."""

    outputs: str = MISSING
    data: str = MISSING
    cache: str = MISSING


@dataclass
class Config:
    """One run: one dataset, encoder, index, metric and protocol."""

    dataset: Any = MISSING
    encoder: Any = MISSING
    index: IndexConfig = MISSING
    metric: MetricConfig = MISSING
    protocol: ProtocolConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    audit: AuditConfig = MISSING
    figures: FiguresConfig = MISSING
    explain: ExplainConfig = MISSING
    tracking: Any = MISSING
    paths: PathsConfig = MISSING
    prompts: PromptsConfig | None = None
    seed: int = MISSING
    force: bool = MISSING
    device: str = MISSING
    threads: int | None = MISSING
    verbose: bool = False  # a sweep prints the whole table of each run; here, so that older manifests have it


# Keys of earlier versions and what they are called now, for the refusal that names it and for `renamed`.
RENAMED = {
    "dataset.task": "dataset.label_type",
    "report": "figures",
    "report.figures": "figures.enabled",
    "report.map": "figures.projection",
    "report.queries": "figures.queries",
    "report.results": "figures.results",
    "tracking.enabled": "tracking=none",
}
# Keys that earlier versions lacked where a group has these others, and what they did then.
ADDED = {"encoder.view": ({"pretrained", "checkpoint"}, "checkpoint")}
# Values of earlier versions, by the key of that time.
REWORDED = {"report.figures": {"all": True, "none": False}}


def root() -> Path:
    """The folder that holds conf/ and experiments/: the package in a wheel, else the repository."""
    package = Path(__file__).resolve().parent
    return package if (package / "conf").is_dir() else package.parents[1]


class PresetSearchPath(SearchPathPlugin):
    """Makes the top-level folder experiments/ a config group beside those in conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder that holds experiments/ (an absolute path, so any working directory works)."""
        search_path.append(provider="medretrieval", path=f"file://{root()}")


def slugged(name: str) -> str:
    """A name as part of a file name: what is no letter, digit, dot, - or _ becomes -."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


def prompt_use(source: str) -> str:
    """How sentences become queries where the configuration does not say it: no two captions are joined."""
    return str(PromptUse.each if source == PromptSource.captions else PromptUse.ensemble)


def register_resolvers() -> None:
    """Make the functions that the files in conf/ call known to OmegaConf."""
    OmegaConf.register_new_resolver("slug", slugged, replace=True)
    OmegaConf.register_new_resolver("prompt_use", prompt_use, replace=True)


def register() -> None:
    """Make the schema and the presets known to Hydra; calling it twice does no harm."""
    register_resolvers()
    ConfigStore.instance().store(name="schema", node=Config)
    Plugins.instance().register(PresetSearchPath)


def compose(*overrides: str) -> DictConfig:
    """Compose the configuration as the command line would, for Python and notebooks.

    Args:
        overrides: as on the command line: "dataset=pneumoniamnist", "index=hnsw", "evaluation.ks=[1,5]".

    Returns:
        The composed configuration, ready for `medretrieval.run`.
    """
    import hydra

    register()
    with hydra.initialize_config_dir(str(root() / "conf"), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def expand(path: str) -> Path:
    """An absolute path, with ~ for the home folder."""
    return Path(path).expanduser().absolute()


def check(cfg: DictConfig) -> Config:
    """Turn a composed configuration into the typed one and check it across keys.

    Raises:
        UserError: a value that its type allows but that cannot be meant.
    """
    # Hydra adds any key that is given with a +; one that nobody reads would be accepted and ignored.
    OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(cfg, resolve=False))
    settings = OmegaConf.to_object(cfg)
    if not isinstance(settings, Config):
        raise UserError("the configuration has no schema: compose it with medretrieval.compose(...)")
    if not settings.evaluation.ks or min(settings.evaluation.ks) < 1:
        raise UserError(f"evaluation.ks={settings.evaluation.ks}: give at least one depth, each 1 or more")
    settings.evaluation.ks = sorted(set(settings.evaluation.ks))
    _at_least(1, "evaluation.save_depth", settings.evaluation.save_depth)
    _at_least(1, "evaluation.vote_k", settings.evaluation.vote_k)
    if not 0 < (settings.evaluation.min_jaccard or 1) <= 1 or settings.evaluation.min_jaccard == 0:
        raise UserError(
            f"evaluation.min_jaccard={settings.evaluation.min_jaccard}: above 0 and at most 1; null for any "
            "shared finding"
        )
    _at_least(100, "evaluation.resamples", settings.evaluation.resamples)
    if not 0 < settings.evaluation.confidence < 1:
        raise UserError(f"evaluation.confidence={settings.evaluation.confidence}: must lie between 0 and 1")
    _at_least(0, "audit.near_hash", settings.audit.near_hash)
    _at_least(0, "audit.max_pairs", settings.audit.max_pairs)
    if not 0 < settings.audit.near_quantile < 1:
        raise UserError(f"audit.near_quantile={settings.audit.near_quantile}: must lie between 0 and 1")
    _at_least(1, "figures.queries", settings.figures.queries)
    _at_least(1, "figures.results", settings.figures.results)
    _at_least(1, "explain.pairs", settings.explain.pairs)
    _at_least(2, "explain.steps", settings.explain.steps)
    _at_least(1, "threads", settings.threads)
    _at_least(0, "seed", settings.seed)
    index = settings.index
    for key in ("nlist", "nprobe", "ef_search", "ef_construction", "pq_m", "pq_bits"):
        _at_least(1, f"index.{key}", getattr(index, key))
    _at_least(2, "index.m", index.m)
    protocol = settings.protocol
    if protocol.one_split and protocol.query != protocol.gallery:
        raise UserError(
            f"protocol.query={protocol.query} and protocol.gallery={protocol.gallery}: "
            f"protocol={protocol.name} searches one split; set both to the same or use protocol=query_gallery"
        )
    _check_subgroups(settings.evaluation)
    _check_words(settings)
    if settings.explain.enabled and protocol.prompts is not None:
        raise UserError(
            f"explain.enabled=true: draws maps of image queries, and those of protocol={protocol.name} are "
            "sentences; explain one afterwards with: medretrieval explain <run> query=<image> text=<sentence>"
        )
    return settings


def _check_subgroups(evaluation: EvaluationConfig) -> None:
    """Columns named once, and bins that can be made."""
    names = evaluation.subgroups
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"evaluation.subgroups={names}: {twice[0]} is named twice; name each column once")
    _at_least(2, "evaluation.subgroup_bins", evaluation.subgroup_bins)
    if not names and evaluation.subgroup_bins != EvaluationConfig.subgroup_bins:
        raise UserError(
            f"evaluation.subgroup_bins={evaluation.subgroup_bins}: has no effect while evaluation.subgroups "
            "is "
            "empty; name a column there, or leave it out"
        )
    if evaluation.subgroup_edges is None:
        return
    if not isinstance(evaluation.subgroup_edges, dict):
        raise UserError(
            f"evaluation.subgroup_edges={evaluation.subgroup_edges}: give the edges by column, as in "
            "{age:[18,40,65]}"
        )
    for name, edges in evaluation.subgroup_edges.items():
        if name not in names:
            raise UserError(
                f"evaluation.subgroup_edges: {name!r} is not among evaluation.subgroups={names}; add it "
                "there, or leave its edges out"
            )
        if not _are_edges(edges):
            raise UserError(
                f"evaluation.subgroup_edges: {name}={edges}: give a list of numbers, each larger than the "
                "one "
                "before it"
            )


def _are_edges(edges: Any) -> bool:
    """Whether bins can begin there: a list of finite numbers, each larger than the one before it."""
    if not isinstance(edges, list) or not edges:
        return False
    numbers = all(isinstance(e, int | float) and not isinstance(e, bool) for e in edges)
    return numbers and all(abs(e) < float("inf") for e in edges) and edges == sorted(set(edges))


def _check_words(settings: Config) -> None:
    """What goes with sentences as queries, and what does not."""
    protocol, index = settings.protocol, settings.index
    _check_source(settings)
    if protocol.prompts is None:
        settings.prompts = None  # no part of a run whose queries are images
        if protocol.query is None:
            raise UserError(
                f"protocol.query=null: the queries of protocol={protocol.name} are images; give a split, or "
                "use protocol=text_to_image"
            )
        if protocol.center is not None:
            raise UserError(
                f"protocol.center={protocol.center}: subtracts the mean embedding of sentences and of "
                f"images, and protocol={protocol.name} has no sentences; set it to null"
            )
        return
    if protocol.query is not None:
        raise UserError(
            f"protocol.query={protocol.query} and protocol.prompts={protocol.prompts}: the queries are "
            "images or sentences, not both; set one of the two to null"
        )
    if settings.evaluation.subgroups:
        raise UserError(
            f"evaluation.subgroups={settings.evaluation.subgroups}: the queries of protocol={protocol.name} "
            "are "
            "sentences, which have no metadata; leave it empty"
        )
    for key, wanted in (("exclude_self", True), ("exclude_same_group", False)):
        if getattr(protocol, key) != wanted:
            raise UserError(
                f"protocol.{key}={str(not wanted).lower()}: has no effect where the queries are sentences; "
                f"set it to {str(wanted).lower()}"
            )
    if protocol.center is not None and protocol.center.value == protocol.gallery.value:
        raise UserError(
            f"protocol.center={protocol.center}: the mean would be that of the searched images "
            f"(protocol.gallery={protocol.gallery}); search another split, or set it to null"
        )
    if index.autotune is not None:
        raise UserError(
            f"index.autotune={index.autotune}: tunes on images, whose neighbors an index finds more easily "
            "than those of sentences; set it to null and give nprobe or ef_search"
        )


def _check_source(settings: Config) -> None:
    """What goes with captions as queries, and what with words for classes."""
    prompts, protocol, evaluation = settings.prompts, settings.protocol, settings.evaluation
    if prompts is None:
        return
    if prompts.source == PromptSource.classes:
        if prompts.max_words is not None:
            raise UserError(
                f"prompts.max_words={prompts.max_words}: shortens captions, and prompts.source=classes asks "
                "for classes; set it to null, or use prompts=captions"
            )
        if prompts.hit is not None:
            raise UserError(
                f"prompts.hit={prompts.hit}: says what a caption has to find, and prompts.source=classes "
                "asks for classes; set it to null, or use prompts=captions"
            )
        return
    _at_least(1, "prompts.max_words", prompts.max_words)
    refused = {
        f"protocol={protocol.name}: its queries are images, and captions query in protocol=text_to_image "
        "alone; use that, or leave prompts=captions out": protocol.prompts is None,
        f"protocol.prompts={protocol.prompts}: each caption is a query of its own; set it to "
        "each": protocol.prompts != PromptUse.each,
        "templates and classes: are words for classes, which captions do not need; leave them empty": bool(
            prompts.templates or prompts.classes
        ),
        "prompts.hit=null: say what a caption has to find, its own image (image) or any image of the "
        "image's group (group)": prompts.hit is None,
        f"evaluation.min_jaccard={evaluation.min_jaccard}: has no effect, because a caption finds images "
        "and not findings; set it to null": evaluation.min_jaccard is not None,
        "evaluation.resample=both: a caption and its image are one draw, and intervals over both sides "
        "draw them apart; set it to queries": evaluation.resample == Resample.both,
    }
    for line, wrong in refused.items():
        if wrong:
            raise UserError(f"prompts=captions with {line}")


def _at_least(least: int, key: str, value: int | None) -> None:
    if value is not None and value < least:
        raise UserError(f"{key}={value}: must be {least} or more")


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to {"index.nlist": 64, ...}; lists stay values."""
    if isinstance(node, dict):
        items: dict[str, Any] = {}
        for key, value in node.items():
            items |= leaves(value, f"{prefix}.{key}" if prefix else str(key))
        return items
    return {prefix: node}


def renamed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that an earlier version kept, in the keys and values of this one.

    >>> renamed({"seed": 0, "report": {"figures": "none", "map": "pca"}})
    {'seed': 0, 'figures': {'enabled': False, 'projection': 'pca'}}
    """
    result: dict[str, Any] = {
        key: dict(node) if isinstance(node, dict) else node for key, node in config.items()
    }
    for old, new in RENAMED.items():
        group, _, key = old.rpartition(".")
        if key not in result.get(group, {}):
            continue
        value = result[group].pop(key)
        to_group, _, to_key = new.rpartition(".")
        result.setdefault(to_group, {})[to_key] = REWORDED.get(old, {}).get(value, value)
        if not result[group]:
            del result[group]
    for new, (beside, value) in ADDED.items():
        group, _, key = new.partition(".")
        if beside <= result.get(group, {}).keys():
            result[group].setdefault(key, value)
    return result
