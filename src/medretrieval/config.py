"""The schema of the configuration, and where its YAML files are; `checks` has what its types cannot say.

Defaults stand in conf/*.yaml: a field without a value in YAML is MISSING, or unset in an index.
`dataset`, `encoder`, `rerank` and `tracking` stay open: their keys are the constructor arguments of a
`_target_`.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf

from medretrieval.errors import UserError, choices

log = logging.getLogger(__name__)


UNSET = {"name": "none"}  # the content of adapt/none.yaml: a group that names no class does nothing


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
    # The value of "none" stands here, so that older manifests have it.
    adapt: Any = field(default_factory=lambda: dict(UNSET))
    rerank: Any = None  # here, so that older manifests have it: none
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


def published_folder() -> Path:
    """The folder of published tables; in experiments/, beside the presets, but no preset itself."""
    return root() / "experiments" / "published"


class PresetSearchPath(SearchPathPlugin):
    """Makes the top-level folder experiments/ a config group beside those in conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder that holds experiments/ (an absolute path, so any working directory works)."""
        search_path.append(provider="medretrieval", path=f"file://{root()}")


def slugged(name: str) -> str:
    """A name as part of a file name: what is no letter, digit, dot, - or _ becomes -."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


def slug_of_stage(name: str) -> str:
    """A part of a folder's name: an adaptation, a re-ranking method; nothing where there is none."""
    return "" if name == "none" else f"_{slugged(name)}"


def prompt_use(source: str) -> str:
    """How sentences become queries where the configuration does not say it: no two captions are joined."""
    return str(PromptUse.each if source == PromptSource.captions else PromptUse.ensemble)


def encoder_nodes(parts: Sequence[str], *, _root_: DictConfig) -> list[dict[str, Any]]:
    """The configurations of encoders that another one is made of, with the run's device, seed and folders.

    Args:
        parts: names in conf/encoder, or in a configuration folder of the user's own.

    Raises:
        UserError: no such encoder, or one that its name alone does not say.
    """
    return [_encoder_node("encoder.parts", part, _root_) for part in parts]


def encoder_node(image: str, *, _root_: DictConfig) -> dict[str, Any]:
    """As `encoder_nodes`, of the one encoder that encoder.image names."""
    return _encoder_node("encoder.image", image, _root_)


def _encoder_node(key: str, part: str, root: DictConfig) -> dict[str, Any]:
    """The configuration of the encoder that a key of another one names."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import MissingConfigException

    name = f"encoder={part}"
    try:
        cfg = hydra.compose("config", [name]) if GlobalHydra().is_initialized() else compose(name)
    except MissingConfigException as error:
        raise UserError(f"{key}={part}: no such encoder; {choices(error.options or [])}") from error
    said: dict[str, Any] = OmegaConf.to_container(cfg.encoder)  # type: ignore[assignment]  # a group is a mapping
    if missing := [name for name, value in said.items() if value == "???"]:
        raise UserError(
            f"{key}={part}: this encoder needs encoder.{missing[0]}, so its name alone does not say it; "
            "make a file of your own with it (--config-dir) and name that"
        )
    same = {"device": root.device, "seed": root.seed, "paths": OmegaConf.to_container(root.paths)}
    for name, value in same.items():
        OmegaConf.update(cfg, name, value)
    return OmegaConf.to_container(cfg.encoder, resolve=True)  # type: ignore[return-value]


def joined(names: Sequence[str]) -> str:
    """Names as one."""
    return "+".join(names)


def register_resolvers() -> None:
    """Make the functions that the files in conf/ call known to OmegaConf."""
    OmegaConf.register_new_resolver("encoder_nodes", encoder_nodes, replace=True)
    OmegaConf.register_new_resolver("encoder_node", encoder_node, replace=True)
    OmegaConf.register_new_resolver("join", joined, replace=True)
    OmegaConf.register_new_resolver("slug", slugged, replace=True)
    OmegaConf.register_new_resolver("slug_of_stage", slug_of_stage, replace=True)
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


def is_set(node: dict[str, Any]) -> bool:
    """Whether a group that may be "none" names a class."""
    return node != UNSET


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
