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

from medretrieval.datasets.base import Split
from medretrieval.evidence.duplicate_audit import GROUP, IDENTICAL, NEAR_EMBEDDING, NEAR_HASH, Audit
from medretrieval.figures.examples import Examples
from medretrieval.figures.style import INK, QUIET, RIGHT, RULE, WRONG, font
from medretrieval.protocol.prompts import PROMPT
from medretrieval.protocol.task import RetrievalTask

SIDE_PIXELS = 112  # pixels of an image as drawn, about
AUDIT_SIDE, AUDIT_GAP, AUDIT_LETTERS = 112, 8, 10  # pixels of the audit's picture
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
    return {
        "gallery.png": mosaic(
            ["A sample of the queries, drawn from the classes in turn", run, legend],
            _rows(shown, "retrieval"),
        ),
        "failures_worst.png": mosaic(
            [f"The worst queries: lowest precision at {k}, then average precision", run, legend],
            _rows(shown, "worst"),
        ),
        "failures_confident.png": mosaic(
            [
                "Near and wrong: first results that are wrong and nearer than the median right one",
                run,
                f"{legend}   %: of right first results that are farther",
            ],
            _rows(shown, "confident", nearer),
        ),
        "failures_hubs.png": mosaic(
            [
                f"Hubs: gallery images among the first {k} of many queries they are not relevant to",
                run,
                f"skewness of the {k}-occurrence {hubness['skewness']:.2f}, one image for at most {most} "
                f"queries, never retrieved {100 * hubness['never_retrieved']:.0f} %; "
                f"right of the line: queries they mislead",
            ],
            [_hub_row(shown, hub) for hub in document["hubs"]],
        ),
    }


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
    about = (hub["id"], f"for {hub['lists']} queries", f"wrong for {hub['wrong_lists']}")
    queries = [Tile(shown.images[q], shown.labels[q], (f"query {q}",), False) for q in hub["queries"]]
    return [Tile(shown.images[hub["id"]], hub["class"], about), *queries]


def mosaic(heading: Sequence[str], rows: Sequence[Sequence[Tile]]) -> bytes:
    """Draw rows of tiles, the first of each row apart from the others, as PNG."""
    sizes = [_drawn_size(tile.image) for row in rows for tile in row]
    height, width = (max(sides) for sides in zip(*sizes, (SIDE_PIXELS // 2, SIDE_PIXELS // 2), strict=True))
    column = max(width, SIDE_PIXELS) + GAP
    titles = [[_wrapped(tile.title, column - 16) for tile in row] for row in rows]
    heights = [
        height
        + 2 * FRAME
        + PAD
        + LINE * max(len(t) + len(tile.lines) for t, tile in zip(ts, row, strict=True))
        for ts, row in zip(titles, rows, strict=True)
    ]
    across = max((len(row) for row in rows), default=0)
    widest = max(font(size).getlength(text) for text, size in _sized(heading))
    top = 2 * PAD + LINE * len(heading) + 5
    sheet_size = 2 * PAD + max(column * across + GAP, int(widest)), top + max(sum(heights), 2 * LINE)
    sheet = Image.new("RGB", sheet_size, "white")
    draw = ImageDraw.Draw(sheet)
    _draw_heading(draw, heading)
    if not rows:
        draw.text((PAD, top), "there are none", INK, font(12))
    for row, titles_of, tall in zip(rows, titles, heights, strict=True):
        for place, (tile, title) in enumerate(zip(row, titles_of, strict=True)):
            _draw_tile(sheet, draw, (PAD + place * column + (GAP if place else 0), top), tile, title)
        draw.line([(PAD + column, top), (PAD + column, top + tall - PAD)], RULE, 1)
        top += tall
    return _png(sheet, gray=all(tile.image.ndim == 2 for row in rows for tile in row))


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


def audit_picture(path: Path, audit: Audit, task: RetrievalTask, rows: int = 8) -> None:
    """Draw the worst pairs of each kind side by side (PNG), at most `rows` a kind; one column a kind."""
    queries = task.queries.split
    assert queries is not None  # sentences have no look-alikes and are not audited
    kinds = {
        kind: [p for p in audit.pairs if p.kind == kind][:rows]
        for kind in (IDENTICAL, NEAR_HASH, NEAR_EMBEDDING, *([GROUP] if GROUP in audit.counts else []))
    }
    column, row = 2 * AUDIT_SIDE + 3 * AUDIT_GAP, AUDIT_SIDE + 34
    height = 28 + row * max(1, *(len(pairs) for pairs in kinds.values()))
    sheet = Image.new("RGB", (column * len(kinds), height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (kind, pairs) in enumerate(kinds.items()):
        left = place * column + AUDIT_GAP
        draw.text(
            (left, 8),
            f"{kind.replace('_', ' ')}: {f'{len(pairs)} shown' if pairs else 'none'}",
            INK,
            font(AUDIT_LETTERS),
        )
        for line, pair in enumerate(pairs):
            top = 28 + line * row
            sheet.paste(_tile(queries, pair.query), (left, top))
            sheet.paste(_tile(task.gallery, pair.gallery), (left + AUDIT_SIDE + AUDIT_GAP, top))
            color = INK if pair.same_label else WRONG
            names = f"{task.queries.ids[pair.query]} ~ {task.gallery.ids[pair.gallery]}"
            draw.text((left, top + AUDIT_SIDE + 2), names, color, font(AUDIT_LETTERS))
            label = "same label" if pair.same_label else "OTHER LABEL"
            draw.text(
                (left, top + AUDIT_SIDE + 14),
                f"cos {pair.cosine:.4f}, hash {pair.hash_distance}, {label}",
                color,
                font(AUDIT_LETTERS),
            )
    sheet.save(path)


def _tile(split: Split, position: int) -> Any:
    image = Image.fromarray(split.images[position]).convert("RGB")
    return image.resize((AUDIT_SIDE, AUDIT_SIDE), Image.Resampling.NEAREST)
