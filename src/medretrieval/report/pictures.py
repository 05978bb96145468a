"""What runs' figures/*.json say. A file that is missing or wrong costs its own part, not the report."""

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medretrieval.figures import text_tiles as sentences
from medretrieval.protocol.prompts import PROMPT
from medretrieval.runs import folder as run_folder

EXAMPLES, CURVES = f"{run_folder.FIGURES}/examples.json", f"{run_folder.FIGURES}/curves.json"
KINDS = ("retrieval", "worst", "confident")  # galleries, in the order they are shown
DATA_URI = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
MAX_THUMBNAIL_PIXELS = 64  # pixels that a thumbnail may have
PNG = b"\x89PNG\r\n\x1a\n"
MAX_ALBUM_CHARACTERS = 4_000_000  # characters of all thumbnails: the report is to be sent by mail
FEW_ROWS = 2  # rows of a gallery of a run that is not the best


@dataclass
class Album:
    """Every thumbnail once, whatever runs and galleries show it.

    Attributes:
        uris: the data URIs; an image is named by its place here.
        size: their characters, at most MAX_ALBUM_CHARACTERS.
    """

    uris: list[str] = field(default_factory=list)
    size: int = 0
    _places: dict[str, int] = field(default_factory=dict)

    def add(self, uris: list[str]) -> list[int] | None:
        """Places of these thumbnails, None (and nothing kept) where they would be too many."""
        new = {uri for uri in uris if uri not in self._places}
        if self.size + sum(map(len, new)) > MAX_ALBUM_CHARACTERS:
            return None
        for uri in uris:
            if uri in new and uri not in self._places:
                self._places[uri] = len(self.uris)
                self.uris.append(uri)
                self.size += len(uri)
        return [self._places[uri] for uri in uris]


@dataclass
class Pictures:
    """What a run shows.

    Attributes:
        galleries: kind -> rows as in examples.json, each image with "thumb", its place in the album.
        hubs: rows of examples.json likewise.
        examples: the rest of examples.json, None where there is none.
        curves: curves.json, None where there is none.
        left_out: rows that are in the run's folder alone.
        problems: a line for each file that is not as it should be.
    """

    galleries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    hubs: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, Any] | None = None
    curves: dict[str, Any] | None = None
    left_out: int = 0
    problems: list[str] = field(default_factory=list)


def read_pictures(folder: Path, source: str, album: Album, whole: bool) -> Pictures:
    """Read a run's figures/examples.json and figures/curves.json.

    Args:
        folder: the run's folder.
        source: what to call it in messages.
        album: where thumbnails are put.
        whole: every row; else the first FEW_ROWS of each gallery.
    """
    found = Pictures()
    found.curves = _read(folder, CURVES, source, _check_curves, found)
    found.examples = examples = _read(folder, EXAMPLES, source, _check_examples, found)
    if examples is None:
        return found
    thumbnails = examples.pop("thumbnails")
    for kind in KINDS:
        rows = examples.pop(kind)
        kept = [
            row
            for row in (rows if whole else rows[:FEW_ROWS])
            if _thumbed(
                [row, *row["results"]], [row["id"], *(r["id"] for r in row["results"])], thumbnails, album
            )
        ]
        found.galleries[kind] = kept
        found.left_out += len(rows) - len(kept)
    hubs = examples.pop("hubs")
    for hub in hubs if whole else hubs[:FEW_ROWS]:
        spoiled = [{"id": name} for name in hub["queries"]]
        if _thumbed([hub, *spoiled], [hub["id"], *hub["queries"]], thumbnails, album):
            found.hubs.append(hub | {"queries": spoiled})
    found.left_out += len(hubs) - len(found.hubs)
    return found


def _thumbed(
    images: list[dict[str, Any]], names: list[str], thumbnails: dict[str, str], album: Album
) -> bool:
    places = album.add([thumbnails[name] for name in names])
    for image, place in zip(images, places or [], strict=False):
        image["thumb"] = place
    return places is not None


def _read(folder: Path, name: str, source: str, check: Any, pictures: Pictures) -> dict[str, Any] | None:
    path = folder / name
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        check(content)
    except KeyError as error:
        pictures.problems.append(f"{source}/{name}: {error} is missing; its pictures are not shown")
    except (OSError, ValueError, TypeError, AttributeError, IndexError) as error:
        pictures.problems.append(
            f"{source}/{name}: not as it should be ({error}); its pictures are not shown"
        )
    else:
        return content
    return None


def _want(truth: bool, what: str) -> None:
    if not truth:
        raise ValueError(what)


def _check_examples(content: dict[str, Any]) -> None:
    thumbnails = content["thumbnails"]
    for name, uri in thumbnails.items():
        _check_thumbnail(name, uri)
    for kind in KINDS:
        for row in content[kind]:
            _check_image(row, thumbnails)
            _want(_finite(row["score"]), f"the score of {row['id']} is no number")
            for result in row["results"]:
                _check_image(result, thumbnails)
                _want(_finite(result["distance"]), f"the distance of {result['id']} is no number")
                _want(
                    isinstance(result["relevant"], bool), f"relevant of {result['id']} is not true or false"
                )
    for hub in content["hubs"]:
        _check_image(hub, thumbnails)
        _want(
            all(isinstance(hub[key], int) for key in ("lists", "wrong_lists")), "lists are no whole numbers"
        )
        for name in hub["queries"]:
            _want(name in thumbnails, f"no thumbnail of {name}")
    _ = content["hubness"]["k"], content["hubness"]["skewness"], content["hubness"]["never_retrieved"]
    _want(all(isinstance(content[key], int) for key in ("failing", "counted")), "failing is no whole number")
    confusion, names = content["confusion"], content["confusion"]["classes"]
    _want(isinstance(confusion["k"], int), "confusion.k is no whole number")
    rows = confusion["share"]
    square = len(rows) == len(names) and all(len(row) == len(names) for row in rows)
    _want(
        square and all(v is None or _finite(v) for row in rows for v in row), "confusion.share is not square"
    )


def _check_image(image: dict[str, Any], thumbnails: dict[str, str]) -> None:
    _want(image["id"] in thumbnails, f"no thumbnail of {image['id']}")
    _want(isinstance(image["class"], str), f"the class of {image['id']} is no text")


def _check_thumbnail(name: str, uri: Any) -> None:
    _want(isinstance(uri, str) and DATA_URI.fullmatch(uri) is not None, f"the thumbnail of {name} is no PNG")
    try:
        head = base64.b64decode(uri.partition(",")[2][:32])
    except binascii.Error as error:
        raise ValueError(f"the thumbnail of {name} is no PNG") from error
    sides = int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    _want(head.startswith(PNG) and len(head) == 24, f"the thumbnail of {name} is no PNG")
    most = sentences.SIDE_PIXELS if name.startswith(PROMPT) else MAX_THUMBNAIL_PIXELS
    _want(max(sides) <= most, f"the thumbnail of {name} is {sides[0]} x {sides[1]}, more than {most} a side")


def _check_curves(content: dict[str, Any]) -> None:
    ks = content["ks"]
    _want(bool(ks) and all(isinstance(k, int) for k in ks) and ks == sorted(set(ks)), "ks do not rise")
    for name in ("precision", "recall"):
        curve = content[name]
        for part in ("mean", "low", "high", "chance"):
            fits = len(curve[part]) == len(ks) and all(v is None or _finite(v) for v in curve[part])
            _want(fits, f"{name}.{part} has not one number for each of ks")
        if (line := curve["baseline"]) is not None:
            fits = len(line["ks"]) == len(line["mean"]) and all(map(_finite, [*line["ks"], *line["mean"]]))
            _want(fits, f"{name}.baseline has not one number for each of its ks")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
