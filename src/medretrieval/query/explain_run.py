"""A finished run explained: which regions of a query and its results, or a sentence, make them similar."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import Config, expand
from medretrieval.datasets.base import SPLITS, Dataset, Split
from medretrieval.datasets.corrupted import corrupted
from medretrieval.datasets.groups import load_split
from medretrieval.errors import UserError
from medretrieval.explain.pairs import Explained, Picture, explain_images, explain_text
from medretrieval.explain.saliency import Explainer
from medretrieval.instantiate import instantiate
from medretrieval.runs.manifest import read_manifest
from medretrieval.runs.reopen import require_not_centered, saved_config, saved_encoder, saved_ranking
from medretrieval.runs.report import read_report
from medretrieval.runs.saved.seal import require_as_written


@dataclass(frozen=True)
class Question:
    """Which pairs are to be explained.

    Attributes:
        query: id of an image.
        result: id of the other image, None for the query's own results.
        k: how many of these.
        text: a sentence in place of the other image.
    """

    query: str
    result: str | None = None
    k: int = 1
    text: str | None = None


@dataclass(frozen=True)
class Explanation:
    """What is found.

    Attributes:
        pairs: the query with each result, or with the sentence.
        title: of the run.
        remarks: in what the encoder is not as it was, a line each.
    """

    pairs: list[Explained]
    title: str
    remarks: list[str]


def explain(folder: Path, overrides: tuple[str, ...], asked: Question) -> Explanation:
    """Explain a query of a finished run and its results.

    Args:
        folder: a finished run's folder.
        overrides: of its configuration, such as "paths.data=...".
        asked: which pairs.

    Raises:
        UserError: no finished run, other data or weights than it had, an id that is not there, or an
            encoder that cannot be explained.
    """
    report = read_report(folder)
    settings = check(saved_config(folder, overrides))
    require_as_written(folder)
    require_not_centered(folder, settings)
    encoder, changed = saved_encoder(folder, settings, Cache(expand(settings.paths.cache)))
    explainer = Explainer(encoder)
    images = _Images(folder, settings)
    query, rng = images.picture("query", asked.query), np.random.default_rng(settings.seed)
    steps = settings.explain.steps
    if asked.text is not None:
        found = [explain_text(explainer, asked.text, query, steps, rng)]
    else:
        ids = [asked.result] if asked.result else _nearest(folder, asked)
        others = [images.picture("result", name) for name in ids]
        found = [explain_images(explainer, query, other, steps, rng) for other in others]
    return Explanation(found, report.title, changed)


class _Images:
    """The images of a run's dataset by their ids, each split read once."""

    def __init__(self, folder: Path, settings: Config) -> None:
        self.folder = folder
        self.dataset = instantiate(settings.dataset, Dataset, "dataset")  # type: ignore[type-abstract]
        self.cache = Cache(expand(settings.paths.cache))
        self._splits: dict[tuple[str, str], Split] = {}

    def picture(self, role: str, name: str) -> Picture:
        split, _, number = name.rpartition("/")
        if split not in SPLITS or not number.isdecimal():
            raise UserError(f"{role}={name}: no image has such an id; they are like test/3")
        if (role, split) not in self._splits:
            self._splits[role, split] = self._load(role, split)
        if int(number) >= (n := len(self._splits[role, split])):
            raise UserError(f"{role}={name}: split {split} has the images {split}/0 to {split}/{n - 1}")
        return Picture.from_split(self._splits[role, split], int(number), self.dataset.classes)

    def _load(self, role: str, name: str) -> Split:
        """A split as the run had it: with the corruption that it had as queries, not as results."""
        split, data = load_split(self.dataset, name), read_manifest(self.folder).data
        asked = data["query"].split == name and (role == "query" or data["gallery"].split != name)
        if asked and self.dataset.corruption is not None:
            split = corrupted(split, self.dataset.corruption, self.cache)
        was = data["query" if asked else "gallery"]
        if was.split == name and was.content_sha256 != split.images_sha256:
            raise UserError(
                f"{self.folder}: split {name!r} held other images when it ran; set paths.data to the folder "
                "it had"
            )
        return split


def _nearest(folder: Path, asked: Question) -> list[str]:
    """Ids of the query's first k results."""
    ranking = saved_ranking(folder)
    (rows,) = np.nonzero(ranking.query_ids == asked.query)
    if len(rows) == 0:
        raise UserError(
            f"query={asked.query}: was no query of this run ({ranking.query_ids[0]} to "
            f"{ranking.query_ids[-1]} were); choose one, or say result=<id>"
        )
    ids = ranking.ids[rows[0]]
    if asked.k > (most := int((ids >= 0).sum())):
        raise UserError(f"k={asked.k}: the run kept {most} results of {asked.query}; give a smaller k")
    return [str(name) for name in ranking.gallery_ids[ids[: asked.k]]]
