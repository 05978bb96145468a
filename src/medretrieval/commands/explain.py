"""The verb `explain`: which regions of a finished run's query and results make them similar."""

import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medretrieval.cache.store import Cache
from medretrieval.config import Config, check, expand
from medretrieval.datasets.base import SPLITS, Dataset, Split
from medretrieval.datasets.groups import load_split
from medretrieval.errors import UserError
from medretrieval.explain.pairs import Explained, Picture, explain_images, explain_text
from medretrieval.explain.saliency import Explainer
from medretrieval.figures import saliency as pictures
from medretrieval.instantiate import instantiate
from medretrieval.protocol.ranking import Ranking
from medretrieval.runs import folder as run_folder
from medretrieval.runs.manifest import read_manifest
from medretrieval.runs.reopen import require_not_centered, saved_config, saved_encoder
from medretrieval.runs.report import read_report
from medretrieval.runs.tables import table
from medretrieval.track.find_runs import run_and_overrides

KEYS = ("query", "result", "k", "text", "out")
USAGE = (
    "medretrieval explain <run> query=test/3 [k=3 | result=train/7 | text='a chest X-ray'] [out=<file.png>] "
    "[--json]"
)


@dataclass(frozen=True)
class ExplainOptions:
    """What the command line asks for.

    Attributes:
        query: id of an image.
        result: id of the other image, None for the query's own results.
        k: how many of these.
        text: a sentence in place of the other image.
        out: the PNG to write.
    """

    query: str
    result: str | None
    k: int
    text: str | None
    out: Path


def main(arguments: list[str]) -> int:
    """Write the picture and print its numbers."""
    as_json = "--json" in arguments
    words = [a for a in arguments if a != "--json"]
    given = dict(a.split("=", 1) for a in words if a.split("=", 1)[0] in KEYS and "=" in a)
    rest = [a for a in words if not ("=" in a and a.split("=", 1)[0] in KEYS)]
    asked = read(given)
    with tempfile.TemporaryDirectory() as aside:
        folder, overrides = run_and_overrides("explain", rest, Path(aside))
        found = explain(folder, overrides, asked)
    if as_json:
        content = {"run": str(folder), "picture": str(asked.out), "pairs": [p.document() for p in found]}
        print(json.dumps(content, indent=2))
    else:
        print(*_table(found), f"picture: {asked.out}", sep="\n")
    return 0


def read(given: dict[str, str]) -> ExplainOptions:
    """What the verb's own words say.

    Raises:
        UserError: no query, words that exclude each other, or a file that cannot be written.
    """
    if "query" not in given:
        raise UserError(f"medretrieval explain wants the query's id: {USAGE}")
    others = [key for key in ("result", "k", "text") if key in given]
    if len(others) > 1:
        raise UserError(f"{others[0]}= and {others[1]}=: give one of them; {USAGE}")
    k = given.get("k", "1")
    if not k.isdecimal() or int(k) < 1:
        raise UserError(f"k={k}: a whole number of 1 or more is wanted")
    out = Path(given.get("out", f"explain_{re.sub(r'[^0-9A-Za-z]+', '-', given['query'])}.png"))
    if out.suffix.lower() != ".png" or not out.parent.is_dir():
        raise UserError(f"out={out}: a .png in a folder that exists is wanted")
    if not given.get("text", "-").strip():
        raise UserError("text=: a sentence is wanted")
    return ExplainOptions(given["query"], given.get("result"), int(k), given.get("text"), out)


def explain(folder: Path, overrides: tuple[str, ...], asked: ExplainOptions) -> list[Explained]:
    """Explain a query and its results, and write the picture.

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
    require_not_centered(folder, settings)
    encoder, changed = saved_encoder(folder, settings, Cache(expand(settings.paths.cache)))
    for line in changed:
        print(line, file=sys.stderr)
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
    _draw(asked.out, found, report.title)
    return found


class _Images:
    """The images of a run's dataset by their ids, each split read once."""

    def __init__(self, folder: Path, settings: Config) -> None:
        self.folder = folder
        self.dataset = instantiate(settings.dataset, Dataset, "dataset")  # type: ignore[type-abstract]
        self._splits: dict[str, Split] = {}

    def picture(self, role: str, name: str) -> Picture:
        split, _, number = name.rpartition("/")
        if split not in SPLITS or not number.isdecimal():
            raise UserError(f"{role}={name}: no image has such an id; they are like test/3")
        if split not in self._splits:
            self._splits[split] = self._load(split)
        if int(number) >= (n := len(self._splits[split])):
            raise UserError(f"{role}={name}: split {split} has the images {split}/0 to {split}/{n - 1}")
        return Picture.from_split(self._splits[split], int(number), self.dataset.classes)

    def _load(self, name: str) -> Split:
        split = load_split(self.dataset, name)
        for was in read_manifest(self.folder).data.values():
            if was.split == name and was.content_sha256 != split.images_sha256:
                raise UserError(
                    f"{self.folder}: split {name!r} held other images when it ran; set paths.data to the "
                    "folder it had"
                )
        return split


def _nearest(folder: Path, asked: ExplainOptions) -> list[str]:
    """Ids of the query's first k results."""
    ranking = Ranking.load(folder / run_folder.RANKING)
    (rows,) = np.nonzero(ranking.query_ids == asked.query)
    if len(rows) == 0:
        raise UserError(
            f"query={asked.query}: was no query of this run ({ranking.query_ids[0]} to "
            f"{ranking.query_ids[-1]} were); choose one, or say result=<id>"
        )
    ids = ranking.ids[rows[0]]
    if asked.k > (most := int((ids >= 0).sum())):
        raise UserError(f"k={asked.k}: the run kept {most} results of {asked.query}; ask for fewer")
    return [str(name) for name in ranking.gallery_ids[ids[: asked.k]]]


def _draw(out: Path, found: list[Explained], title: str) -> None:
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        pictures.explanations(aside, found, title)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)


def _table(found: list[Explained]) -> list[str]:
    """One line a pair; `on finding` is where the query's map has its largest value."""
    header = ["query", "result", "cosine", "area, marked removed", "area, random", "on finding", "mass", "of"]
    return table(header, [_row(pair.document()) for pair in found])


def _row(pair: dict[str, Any]) -> list[str]:
    pointed = pair["pointing"]
    on = ["-", "-", "-"]
    if pointed is not None:
        on = ["yes" if pointed["hit"] else "no", f"{pointed['mass']:.3f}", f"{pointed['area']:.3f}"]
    query = pair["query"] or repr(pair["text"])
    numbers = [pair["cosine"], pair["deletion"]["area_marked"], pair["deletion"]["area_random"]]
    return [query, pair["result"], *(f"{value:.4f}" for value in numbers), *on]
