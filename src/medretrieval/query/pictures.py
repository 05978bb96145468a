"""Pictures from outside as questions: files and folders of them, made as the gallery's images are."""

from collections.abc import Sequence
from pathlib import Path

from medretrieval.errors import UserError
from medretrieval.images.fit import Fit, as_in_dataset, thumbnail
from medretrieval.images.image_file import pictures_in, read
from medretrieval.query.search import Query, SearchableRun

OTHERWISE = Fit.crop  # as most sources of MedMNIST's images were (`images.fit`)
SHOWN_PIXELS = 256  # of a query's picture that are kept for drawing


def picture_queries(
    words: Sequence[str], run: SearchableRun, fit: Fit | None
) -> tuple[list[Query], list[str]]:
    """Read pictures as the run's encoder wants them.

    Args:
        words: files, folders of them, or several of either with commas between.
        run: whose gallery says their size and channels.
        fit: how a picture that is no square becomes one; None as the dataset's own did, and where it does not
            say so, cropped.

    Returns:
        A query for each picture, and a line for each folder in which there is something else too.

    Raises:
        UserError: no picture, or one that cannot be read.
    """
    paths: list[Path] = []
    remarks: list[str] = []
    for word in words:
        named, skipped = _paths(word)
        paths += named
        remarks += skipped
    if not paths:
        raise UserError(f"query: image={words[0]}: names no picture")
    size, channels, fit = run.dataset.size, run.channels(), fit or run.dataset.fit or OTHERWISE
    # One at a time: the pictures themselves may be large.
    return [_query(path, size, channels, fit) for path in paths], remarks


def _query(path: Path, size: int, channels: int, fit: Fit) -> Query:
    picture = read(path)
    pixels, remarks = picture.pixels, picture.remarks
    if pixels.ndim == 3 and channels == 1 and (pixels != pixels[..., :1]).any():
        remarks += ("in color, made gray as the gallery is",)
    image = as_in_dataset(pixels, size, channels, fit)
    return Query(str(path), image, thumbnail(pixels, SHOWN_PIXELS), remarks)


def _paths(word: str) -> tuple[list[Path], list[str]]:
    """The files that one word names, a comma may be in a name or between names; and what was skipped."""
    whole = Path(word).expanduser()
    names = [whole] if whole.exists() else [Path(part).expanduser() for part in word.split(",") if part]
    paths: list[Path] = []
    remarks = []
    for name in names:
        if name.is_dir():
            found, skipped = pictures_in(name)
            paths += found
            if skipped:
                remarks.append(
                    f"{name}: {skipped} of {skipped + len(found)} files skipped, which are no pictures"
                )
        else:
            paths.append(name)
    return paths, remarks
