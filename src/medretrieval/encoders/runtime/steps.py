"""Steps of transforms that torchvision lacks, from Pillow image to Pillow image.

All leave an image of mode F as bright as it is, so that coordinates can be sent through (`images.geometry`).
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


class Gray:
    """Three equal channels: Pillow's weights of red, green and blue. A gray image stays as it is."""

    def __call__(self, picture: "Image") -> "Image":
        """Apply to one image."""
        return picture.convert("L").convert("RGB") if picture.mode == "RGB" else picture

    def __repr__(self) -> str:
        return "Gray()"


class Stretch:
    """The darkest value to 0 and the brightest to 255, rounded down; an image of one value to 0."""

    def __call__(self, picture: "Image") -> "Image":
        """Apply to one image."""
        from PIL import Image

        if picture.mode not in ("L", "RGB"):
            return picture
        values = np.asarray(picture, np.float64)
        values = values - values.min()
        return Image.fromarray((values / max(values.max(), 1.0) * 255).astype(np.uint8))

    def __repr__(self) -> str:
        return "Stretch()"


class PadSquare:
    """Black beside the shorter side, to a square of at least `least` pixels a side."""

    def __init__(self, least: int) -> None:
        self.least = least

    def __call__(self, picture: "Image") -> "Image":
        """Apply to one image."""
        from PIL import Image

        width, height = picture.size
        side = max(self.least, width, height)
        square = Image.new(picture.mode, (side, side))
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        return square

    def __repr__(self) -> str:
        return f"PadSquare({self.least})"


class CropSquare:
    """The square in the middle, of the shorter side."""

    def __call__(self, picture: "Image") -> "Image":
        """Apply to one image."""
        width, height = picture.size
        side = min(width, height)
        left, top = width // 2 - side // 2, height // 2 - side // 2
        return picture.crop((left, top, left + side, top + side))

    def __repr__(self) -> str:
        return "CropSquare()"
