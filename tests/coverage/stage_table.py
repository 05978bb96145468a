"""The worlds of adapted vectors and re-ranked results, and what a line of their table says of each."""

import numpy as np
from tests.coverage.stage_worlds import Gained, Stages, gained

WITHIN = ("adapt=within_class", "adapt.refits=0")
RECIPROCAL = ("rerank=k_reciprocal", "rerank.k1=10", "rerank.k2=4", "rerank.candidates=50")
DIFFUSION = ("rerank=diffusion", "rerank.neighbors=20", "rerank.seeds=5", "rerank.candidates=60")
ALPHA_QE, AUGMENTATION = ("rerank=alpha_qe",), ("rerank=augmentation",)
METHODS = (ALPHA_QE, AUGMENTATION, RECIPROCAL, DIFFUSION)
# What is said of each world, and the world. Where labels mean nothing, the true change is 0.
ADAPTED = (
    ("200 queries", Stages(200, WITHIN)),
    ("200 queries, 40 images in train", Stages(200, WITHIN, train=40, val=40)),
    ("200 queries, labels mean nothing", Stages(200, WITHIN, apart=0.0)),
    ("240 queries, groups of 4", Stages(240, WITHIN, group=4)),
    ("156 images", Stages(156, WITHIN, gallery=False)),
    ("156 images, labels mean nothing", Stages(156, WITHIN, gallery=False, apart=0.0)),
    ("240 images, groups of 4", Stages(240, WITHIN, gallery=False, group=4)),
)
RERANKED = (
    *(("200 queries", Stages(200, words)) for words in METHODS),
    ("200 queries, labels mean nothing", Stages(200, DIFFUSION, apart=0.0)),
    ("240 queries, groups of 4", Stages(240, RECIPROCAL, group=4)),
)
# Tried, and not printed by any run (`has_intervals` of evidence/stages/rerank_gain.py).
TRIED = (
    *(("156 images", Stages(156, words, gallery=False)) for words in METHODS),
    ("156 images, labels mean nothing", Stages(156, ALPHA_QE, gallery=False, apart=0.0)),
    ("156 images, labels mean nothing", Stages(156, DIFFUSION, gallery=False, apart=0.0)),
)
LINES = (*ADAPTED, *RERANKED, *TRIED)
HEADER = ["protocol", "sample", "stage", "score", "true change", "difference", "false alarms"]


def line_of(number: int, samples: int, seed: int) -> list[str]:
    """The cells of one world; where a run tells the change of two scores, of both."""
    said, world = LINES[number]
    found = gained(world, samples, seed)
    shares = [rates_of(one) for one in found.values()]
    alarms = [f"{100 - shares[0][1]:.1f}"] if world.apart == 0 else []  # the truth of the first score
    stage = world.words[0].partition("=")[2]
    cells = ([f"{truth:+.3f}" for truth, _ in shares], [f"{rate:.1f}" for _, rate in shares], alarms)
    return [world.protocol, said, stage, ", ".join(found), *(", ".join(c) for c in cells)]


def rates_of(found: list[Gained]) -> tuple[float, float]:
    """The true change, and the share of the given intervals that hold it, in percent."""
    pairs = [(one.interval, one.truth) for one in found if one.interval is not None]
    if not pairs:
        return float(np.mean([one.truth for one in found])), float("nan")
    covered = 100 * float(np.mean([low <= truth <= high for (low, high), truth in pairs]))
    return float(np.mean([truth for _, truth in pairs])), covered
