"""The checks of a configuration: between its keys, and of values that types allow and nobody can mean."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from medretrieval.config import Config, EvaluationConfig, PromptSource, PromptUse, Resample
from medretrieval.errors import UserError


def check(cfg: DictConfig) -> Config:
    """Turn a composed configuration into the typed one and check it across keys.

    Raises:
        UserError: a value that its type allows but that cannot be meant.
    """
    # Hydra adds any key that is given with a +; one that nobody reads would be accepted and ignored.
    OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(cfg, resolve=False))
    try:
        settings = OmegaConf.to_object(cfg)
    except InterpolationResolutionError as error:
        refused: BaseException | None = error
        while refused is not None and not isinstance(refused, UserError):
            refused = refused.__cause__ or refused.__context__
        raise refused or error from error  # refused by a resolver of ours
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
