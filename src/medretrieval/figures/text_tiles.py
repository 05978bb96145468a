"""Sentences drawn as pictures, so that they can stand where images of queries stand."""

import functools
import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medretrieval.figures.style import font
from medretrieval.protocol.queries import Queries

SIDE_PIXELS = 112  # pixels of a picture of words
SIZE, LINE, MARGIN = 9, 12, 6
INK, PAPER = 20, 245


def pictures(side: Queries) -> Sequence[NDArray[np.uint8]]:
    """An image for every query or gallery item: its own, or its words (uint8 [h, w] or [h, w, 3] each)."""
    if side.prompts is not None:
        return [_words(tuple(query["texts"])) for query in side.prompts.document()]
    assert side.split is not None
    images: Sequence[NDArray[np.uint8]] = side.split.images  # type: ignore[assignment]
    return images


@functools.cache
def _words(texts: tuple[str, ...]) -> NDArray[np.uint8]:
    """The first of the sentences and how many more there are."""
    from PIL import Image, ImageDraw

    sheet = Image.new("L", (SIDE_PIXELS, SIDE_PIXELS), PAPER)
    pen, letters = ImageDraw.Draw(sheet), font(SIZE)
    rows = (SIDE_PIXELS - 2 * MARGIN) // LINE
    more = [f"and {len(texts) - 1} more"] if len(texts) > 1 else []
    across = int((SIDE_PIXELS - 2 * MARGIN) / pen.textlength("e", font=letters))
    lines = textwrap.wrap(texts[0], across, max_lines=rows - len(more), placeholder=" ...")
    for i, line in enumerate(lines + more):
        pen.text((MARGIN, MARGIN + i * LINE), line, fill=INK, font=letters)
    return np.asarray(sheet)
