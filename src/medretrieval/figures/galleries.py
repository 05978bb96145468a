"""Galleries: rows of images with what is known of each, drawn pixel by pixel.

Drawn with Pillow into one bitmap: matplotlib would take ten times as long for the same few hundred words.
Right and wrong are told by frame, sign and color.
"""

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from medretrieval.evidence.duplicate_audit import GROUP, IDENTICAL, NEAR_EMBEDDING, NEAR_HASH, Audit, Pair
from medretrieval.figures.examples import Examples
from medretrieval.figures.style import INK, QUIET, RIGHT, RULE, WRONG, font
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.prompts import PROMPT
from medretrieval.protocol.ranking import class_name

SIDE_PIXELS = 112  # pixels of an image as drawn, about
MAX_AUDIT_PAIRS, PAIRS_A_ROW = 9, 3  # pairs of each kind that the audit's picture shows, and in a row
AUDIT_KINDS = {
    IDENTICAL: "byte-identical",
    NEAR_HASH: "alike by perceptual hash, not identical",
    NEAR_EMBEDDING: "alike by the encoder's embeddings, not identical",
    GROUP: "of the same group (patient or lesion)",
}
GAP, PAD, FRAME, LINE = 20, 14, 3, 15
SIGNS = {True: "\N{CHECK MARK}", False: "\N{BALLOT X}"}
MAX_TITLE_LINES = 2  # lines that a class may take
MAX_PNG_BYTES = 240_000  # bytes of a PNG; beyond, it is drawn in fewer colors
BLENDS = 8  # shades of a frame's color, in a palette that is grays but for them


@dataclass(frozen=True)
class Tile:
    """One image of a gallery.

    Attributes:
        image: uint8 [h, w] or [h, w, 3].
        title: its class, wrapped where it is long.
        lines: what else is said below it.
        right: its sign; None for none.
    """

    image: NDArray[np.uint8]
    title: str
    lines: tuple[str, ...]
    right: bool | None = None


def galleries(shown: Examples, run: str) -> dict[str, bytes]:
    """The four galleries of a run: file name -> PNG.

    Args:
        shown: what is shown.
        run: the run in a few words.
    """
    k, document = shown.document["k"], shown.document
    hubness, most = document["hubness"], int(shown.failures.hubs.lists.max())
    nearer = [f"nearer than {100 * x:.0f} %" for x in shown.failures.confident.nearer_than]
    legend = f"{SIGNS[True]} relevant   {SIGNS[False]} not relevant   number: distance"
    failing = failing_words(document["failing"], document["counted"], k)
    return {
        "gallery.png": mosaic(
            ["A sample of the queries, drawn from the classes in turn", run, legend],
            _rows(shown, "retrieval"),
        ),
        "failures_worst.png": mosaic(
            [
                f"The worst queries: those that fail, the lowest precision at {k} first",
                run,
                failing,
                legend,
            ],
            _rows(shown, "worst"),
            f"no failure to show: no query has fewer relevant images among its first {k} than it could have",
        ),
        "failures_confident.png": mosaic(
            [
                "Near and wrong: first results that are wrong and nearer than the median right one",
                run,
                f"{legend}   %: of right first results that are farther",
            ],
            _rows(shown, "confident", nearer),
            "none: no first result is wrong and as near as that",
        ),
        "failures_hubs.png": mosaic(
            [
                f"Hubs: gallery images among the first {k} of many queries they are not relevant to",
                run,
                f"skewness of the {k}-occurrence {hubness['skewness']:.2f}; one is retrieved for at most "
                f"{most} queries; never retrieved: {100 * hubness['never_retrieved']:.0f} % of the images; "
                "right of the line: queries for which they are wrong",
            ],
            [_hub_row(shown, hub) for hub in document["hubs"]],
            f"none: no gallery image is among the first {k} of a query that it is not relevant to",
        ),
    }


def failing_words(failing: int, counted: int, k: int) -> str:
    """How many queries fail, and what that means.

    >>> failing_words(1, 40, 5)
    '1 of 40 queries fails: fewer relevant images among its first 5 results than it could have'
    """
    fails, its, it = ("fails", "its", "it") if failing == 1 else ("fail", "their", "they")
    return (
        f"{failing} of {counted} queries {fails}: fewer relevant images among {its} first {k} results than "
        f"{it} could have"
    )


def hub_words(lists: int, wrong: int) -> str:
    """For how many queries a gallery image is retrieved, and for how many of them it is wrong.

    >>> hub_words(11, 11), hub_words(18, 12)
    ('retrieved for 11 queries, wrong for all 11', 'retrieved for 18 queries, wrong for 12')
    >>> hub_words(1, 1)
    'retrieved for 1 query, wrong for it'
    """
    queries = "1 query" if lists == 1 else f"{lists} queries"
    spoilt = str(wrong) if wrong < lists else "it" if lists == 1 else f"all {lists}"
    return f"retrieved for {queries}, wrong for {spoilt}"


def _rows(shown: Examples, kind: str, notes: Sequence[str] = ()) -> list[list[Tile]]:
    k, rows = shown.document["k"], []
    for i, row in enumerate(shown.document[kind]):
        asked = row["id"] if row["id"].startswith(PROMPT) else f"query {row['id']}"
        about = (asked, f"P@{k} {row['score']:.2f}", *notes[i : i + 1])
        head = Tile(shown.images[row["id"]], row["class"], about)
        rows.append([head, *(_result(shown.images, result) for result in row["results"])])
    return rows


def _result(images: Mapping[str, NDArray[np.uint8]], result: Mapping[str, Any]) -> Tile:
    return Tile(
        images[result["id"]],
        result["class"],
        (_number(result["distance"]), result["id"]),
        result["relevant"],
    )


def _number(distance: float) -> str:
    return f"{distance:.4f}" if abs(distance) < 10 else f"{distance:.1f}"


def _hub_row(shown: Examples, hub: Mapping[str, Any]) -> list[Tile]:
    about = (hub["id"], *hub_words(hub["lists"], hub["wrong_lists"]).removeprefix("retrieved ").split(", "))
    queries = [Tile(shown.images[q], shown.labels[q], (f"query {q}",), False) for q in hub["queries"]]
    return [Tile(shown.images[hub["id"]], hub["class"], about), *queries]


def mosaic(heading: Sequence[str], rows: Sequence[Sequence[Tile]], none: str = "there are none") -> bytes:
    """Draw rows of tiles, the first of each row apart from the others, as PNG.

    Args:
        heading: lines above them, the first in larger letters.
        rows: of tiles.
        none: what is written where there are no rows.
    """
    return _sheet(heading, [_Section("", [[row[:1], row[1:]] for row in rows], none)])


@dataclass(frozen=True)
class _Section:
    """Rows under a caption.

    Attributes:
        caption: "" for none.
        rows: each of groups of tiles, with a line between the groups.
        none: what is written where there are no rows.
    """

    caption: str
    rows: Sequence[Sequence[Sequence[Tile]]]
    none: str = ""


def _sheet(heading: Sequence[str], sections: Sequence[_Section]) -> bytes:
    """Sections one below the other, as PNG."""
    tiles = [tile for section in sections for row in section.rows for group in row for tile in group]
    least = (SIDE_PIXELS // 2, SIDE_PIXELS // 2)
    height, width = (
        max(sides) for sides in zip(*map(_drawn_size, (t.image for t in tiles)), least, strict=True)
    )
    column = max(width, SIDE_PIXELS) + GAP
    top = 2 * PAD + LINE * len(heading) + 5
    words: list[tuple[int, str]] = []
    rows: list[tuple[int, int, Sequence[Sequence[Tile]]]] = []
    for section in sections:
        for text, room in ((section.caption, LINE + 8), ("" if section.rows else section.none, 2 * LINE)):
            if text:
                words.append((top, text))
                top += room
        for row in section.rows:
            lines = max(len(_title(tile, column)) + len(tile.lines) for group in row for tile in group)
            tall = height + 2 * FRAME + PAD + LINE * lines
            rows.append((top, tall, row))
            top += tall
    across = max((column * sum(map(len, row)) + GAP * (len(row) - 1) for _, _, row in rows), default=0)
    sized = [*_sized(heading), *((text, 12) for _, text in words)]
    widest = int(max(font(size).getlength(text) for text, size in sized))
    sheet = Image.new("RGB", (2 * PAD + max(across, widest), top), "white")
    draw = ImageDraw.Draw(sheet)
    _draw_heading(draw, heading)
    for y, text in words:
        draw.text((PAD, y), text, INK, font(12))
    for y, tall, row in rows:
        _draw_row(sheet, draw, (y, tall, column), row)
    return _png(sheet, gray=all(tile.image.ndim == 2 for tile in tiles))


def _draw_row(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, place: tuple[int, int, int], row: Sequence[Sequence[Tile]]
) -> None:
    """Groups of tiles at a height of a sheet.

    Args:
        sheet: to draw on.
        draw: what draws on it.
        place: top and height of the row, and width of a column, in pixels.
        row: groups of tiles.
    """
    top, tall, column = place
    left = PAD
    for number, group in enumerate(row):
        if number:
            draw.line([(left, top), (left, top + tall - PAD)], RULE, 1)
            left += GAP
        for tile in group:
            _draw_tile(sheet, draw, (left, top), tile, _title(tile, column))
            left += column


def _title(tile: Tile, column: int) -> list[str]:
    return _wrapped(tile.title, column - 16)


def _sized(heading: Sequence[str]) -> list[tuple[str, int]]:
    """Lines of a heading and the sizes of their letters."""
    return [(text, 11 if i else 14) for i, text in enumerate(heading)]


def _draw_heading(draw: ImageDraw.ImageDraw, heading: Sequence[str]) -> None:
    y = PAD
    for text, size in _sized(heading):
        draw.text((PAD, y), text, QUIET if size == 11 else INK, font(size))
        y += LINE + (5 if size == 14 else 0)


def _draw_tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], tile: Tile, title: Sequence[str]
) -> None:
    (left, top), (height, width) = corner, _drawn_size(tile.image)
    color = QUIET if tile.right is None else RIGHT if tile.right else WRONG
    thick, inset = (1, FRAME - 1) if tile.right is None else (FRAME, 0)
    corners = (inset, inset, width + 2 * FRAME - 1 - inset, height + 2 * FRAME - 1 - inset)
    frame = [left + corners[0], top + corners[1], left + corners[2], top + corners[3]]
    draw.rectangle(frame, outline=color, width=thick)
    resample = Image.Resampling.NEAREST if height >= len(tile.image) else Image.Resampling.BOX
    picture = Image.fromarray(tile.image).convert("RGB").resize((width, height), resample)
    sheet.paste(picture, (left + FRAME, top + FRAME))
    if tile.right is not None:
        draw.rectangle((left, top, left + 17, top + 17), fill=color)
        draw.text((left + 9, top + 9), SIGNS[tile.right], "white", font(14), anchor="mm")
    y = top + height + 2 * FRAME + 1
    for text in title:
        draw.text((left, y), text, INK, font(11))
        y += LINE
    for text in tile.lines:
        draw.text((left, y), text, QUIET, font(11))
        y += LINE


def _drawn_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width as drawn: a whole number of pixels for each of a small image, else shrunk."""
    height, width = image.shape[:2]
    times = SIDE_PIXELS / max(height, width)
    times = max(1, round(times)) if times > 0.75 else times
    return round(height * times), round(width * times)


def _wrapped(text: str, width: int) -> list[str]:
    """Text in at most MAX_TITLE_LINES lines of so many pixels, with an ellipsis where it does not fit."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font(11).getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > MAX_TITLE_LINES:
        lines = [*lines[: MAX_TITLE_LINES - 1], " ".join(lines[MAX_TITLE_LINES - 1 :])]
    return [_cut(line, width) for line in lines]


@functools.lru_cache(maxsize=1000)
def _cut(text: str, width: int) -> str:
    if font(11).getlength(text) <= width:
        return text
    while text and font(11).getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip(' ,')}…"


def _png(sheet: Image.Image, gray: bool) -> bytes:
    """As PNG: of color images first in all colors, and of fewer where it would be too large."""
    content = b"" if gray else _encoded(sheet, 2)
    for colors in (256, 128, 64):
        if not content or len(content) > MAX_PNG_BYTES:
            content = _encoded(_in_grays(sheet, colors) if gray else _in_colors(sheet, colors), 4)
    return content


def _encoded(picture: Image.Image, level: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def _in_colors(sheet: Image.Image, colors: int) -> Image.Image:
    return sheet.quantize(colors, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def _in_grays(sheet: Image.Image, colors: int) -> Image.Image:
    """A sheet of gray images with a palette of grays; with 256 colors none is off by more than one level.

    What is not gray is a frame or its sign: a color, or a blend of it and white. Pillow's own quantizing
    is off by four levels.
    """
    pixels = np.asarray(sheet)
    red, green, blue = (pixels[..., i] for i in range(3))
    grays = colors - 2 * BLENDS
    places = np.round(np.arange(256) * (grays - 1) / 255).astype(np.uint8)[green]
    palette = [np.repeat(np.arange(grays)[:, None] * 255 / (grays - 1), 3, axis=1)]
    for i, (color, mine, least) in enumerate(((RIGHT, red < blue, red), (WRONG, red > blue, blue))):
        frame = np.array(ImageColor.getrgb(color)[:3])
        share = (least[mine] - frame.min()) / (255 - frame.min())
        places[mine] = grays + i * BLENDS + np.round(np.clip(share, 0, 1) * (BLENDS - 1)).astype(np.uint8)
        palette.append(frame + np.linspace(0, 1, BLENDS)[:, None] * (255 - frame))
    picture = Image.fromarray(places)
    picture.putpalette(np.concatenate(palette).round().astype(np.uint8).tobytes())
    return picture


def audit_picture(path: Path, audit: Audit, inputs: Inputs, run: str) -> None:
    """Draw pairs of each kind (PNG), a query beside its gallery image, in the order of the audit.

    Args:
        path: the PNG to write.
        audit: what was found.
        inputs: dataset and task.
        run: the run in one line; its encoder is the one whose embeddings are meant.
    """
    heading = [
        "Look-alikes: queries and gallery images that resemble them, other labels first",
        run,
        f"{SIGNS[True]} same label   {SIGNS[False]} another label   cos: of the encoder's embeddings   "
        "bits: of 64 of a perceptual hash, those that differ",
    ]
    sections = []
    for kind, said in AUDIT_KINDS.items():
        if kind == GROUP and kind not in audit.counts:
            continue
        pairs = [_pair(pair, inputs) for pair in audit.pairs if pair.kind == kind][:MAX_AUDIT_PAIRS]
        rows = [pairs[i : i + PAIRS_A_ROW] for i in range(0, len(pairs), PAIRS_A_ROW)]
        sections.append(_Section(f"{said}: {f'{len(pairs)} shown' if pairs else 'none'}", rows))
    path.write_bytes(_sheet(heading, sections))


def _pair(pair: Pair, inputs: Inputs) -> list[Tile]:
    asking, gallery, classes = inputs.task.queries.split, inputs.task.gallery, inputs.dataset.classes
    assert asking is not None  # sentences have no look-alikes and are not audited
    number = f"cos {pair.cosine:.4f}, {pair.hash_distance} bit{'' if pair.hash_distance == 1 else 's'}"
    return [
        Tile(
            asking.images[pair.query],
            class_name(asking.labels, pair.query, classes),
            (f"query {asking.ids[pair.query]}",),
        ),
        Tile(
            gallery.images[pair.gallery],
            class_name(gallery.labels, pair.gallery, classes),
            (str(gallery.ids[pair.gallery]), number),
            pair.same_label,
        ),
    ]
