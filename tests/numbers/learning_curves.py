"""The tables of experiments/learning_curves.md: an adaptation by how much of train it is fitted on."""

from collections.abc import Callable, Sequence

from tests.numbers.adaptation import Finished, said

from medretrieval import compose
from medretrieval.adapt.fit import share_of_train
from medretrieval.adapt.stage import adaptation_of
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import expand
from medretrieval.load import load
from medretrieval.runs.tables import markdown

PRESET = "experiments=learning_curves"
ADAPTATIONS = ("within_class", "linear_head")
SEEDS = (0, 1, 2)
SHARES = ("0.01", "0.03", "0.1", "0.3", "1")
LESION_SHARES = ("0.1", "0.3", "1")


def by_image(runs: Finished) -> str:
    """PneumoniaMNIST: each share is drawn of the images of each class."""
    words = (PRESET,)
    rows = []
    for adapt in ADAPTATIONS:
        for share in SHARES:
            chosen = (*words, f"adapt={adapt}", f"adapt.share={share}")
            rows.append([adapt, share, str(_fitted_on(runs, chosen)[0]), *_cells(runs, chosen)])
    return markdown(["adapt", "share", "images", *HEADER], rows)


def by_lesion(runs: Finished) -> str:
    """HAM10000 split by lesion: each share is drawn of the lesions, or of the images of each class."""
    words = ("experiments=ham10000", "encoder=efficientnet_lite0", "evaluation.objective=precision_at_5")
    rows = []
    for unit in ("groups", "images"):
        for share in LESION_SHARES[: None if unit == "groups" else -1]:
            chosen = (*words, "adapt=within_class", "adapt.refits=0", f"adapt.share={share}")
            chosen = (*chosen, f"adapt.share_of={unit}")
            images, lesions = _fitted_on(runs, chosen)
            rows.append([unit, share, str(images), str(lesions), *_cells(runs, chosen)])
    return markdown(["share of", "share", "images", "lesions", *HEADER], rows)


HEADER = ("precision_at_5", "gain (95 %), first draw", "gains of three draws")


def _cells(runs: Finished, words: Sequence[str]) -> list[str]:
    """Score and gain of the first draw, and the gains of all draws; of all of train there is one."""
    seeds = SEEDS if "adapt.share=1" not in words or "adapt=linear_head" in words else SEEDS[:1]
    reports = [runs.of(*words, f"adapt.seed={seed}")[0] for seed in seeds]
    changes = [report.stages[0].change for report in reports]
    gains = [0.0 if change is None else change.value for change in changes]
    several = f"{min(gains):+.4f} to {max(gains):+.4f}" if len(gains) > 1 else ""
    return [f"{reports[0].scores['precision_at_5']:.4f}", said(changes[0]), several]


def _fitted_on(runs: Finished, words: Sequence[str]) -> tuple[int, int]:
    """Images and groups that the first draw has; 0 groups where these are not known."""
    settings = check(compose(*words, "adapt.seed=0", *runs.places, "tracking=none"))
    train = load(settings, Cache(expand(settings.paths.cache))).train_split
    assert train is not None
    rows = share_of_train(train, adaptation_of(settings))
    return len(rows), 0 if train.groups is None else len(set(train.groups[rows]))


TABLES: dict[str, Callable[[Finished], str]] = {
    "learning curve by image": by_image,
    "learning curve by lesion": by_lesion,
}
