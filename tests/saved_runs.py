"""Outputs with runs and a sweep of known names, as the command line leaves them."""

import os
from pathlib import Path

from omegaconf import OmegaConf

from medretrieval import compose, run
from medretrieval.runs.folder import SKIPPED, mark_skipped

SMALL = (
    "dataset=chest_phantom", "dataset.size=32", "dataset.n_train=20", "dataset.n_test=12",
    "evaluation.ks=[1,3]", "evaluation.resamples=100", "evaluation.vote_k=3", "evaluation.baseline=none",
    "audit.enabled=false", "figures.enabled=false",
)  # fmt: skip
SWEEP, ALONE = "20260102-000000-000000", "20260101-000000-000000_alone"
FAILED, STOPPED = "20260103-000000-000000_failed", "20260104-000000-000000_stopped"


def composed(place, *overrides):
    paths = (f"paths.outputs={place / 'outputs'}", f"paths.cache={place / 'cache'}")
    return compose(
        *SMALL, *paths, *(overrides if "tracking" in "".join(overrides) else ("tracking=none", *overrides))
    )


def age(folder, seconds):
    """Let a run have ended so many seconds after 1970."""
    for path in folder.glob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (seconds, seconds))


def with_hydra(folder, cfg):
    """What Hydra writes before a run begins."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    return folder


def saved(place, *tracking):
    """A run, a later sweep of two runs and one that was skipped, a failed run, and one that was stopped.

    Args:
        place: gets the folders outputs and cache.
        tracking: overrides.

    Returns:
        The outputs folder.
    """
    outputs: Path = place / "outputs"
    alone = run(composed(place, "encoder=pixels", *tracking), outputs / "runs" / ALONE).folder
    age(alone, 1_000_000)
    sweep = outputs / "sweeps" / SWEEP
    for number, index in enumerate(("flat", "ivf")):
        cfg = composed(place, "encoder=random", f"index={index}", *tracking)
        age(run(cfg, sweep / f"{number}_{index}", SWEEP).folder, 2_000_000 + number)
    skipped = with_hydra(sweep / "2_pixels", composed(place, "encoder=pixels"))
    mark_skipped(skipped, alone)
    os.utime(skipped / SKIPPED, (2_000_002, 2_000_002))
    (sweep / "multirun.yaml").write_text("")
    failed = with_hydra(outputs / "runs" / FAILED, composed(place, "encoder=pixels", "metric=l2"))
    (failed / "failed.txt").write_text("metric=l2: something was wrong\n")
    age(failed, 3_000_000)
    stopped = with_hydra(outputs / "runs" / STOPPED, composed(place, "encoder=pixels", "metric=ip"))
    os.utime(stopped / ".hydra" / "config.yaml", (4_000_000, 4_000_000))
    return outputs
