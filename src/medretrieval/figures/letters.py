"""The letters of pictures that Pillow draws."""

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont


@functools.lru_cache(maxsize=8)
def font(size: int) -> "ImageFont.FreeTypeFont":
    """DejaVu Sans, which comes with matplotlib and has the signs for right and wrong."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
