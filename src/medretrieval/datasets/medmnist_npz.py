"""The 2D sets of MedMNIST v2 (Yang et al., Scientific Data 2023), read from their .npz files.

A file that is already there is read with NumPy alone; the `medmnist` package is imported only to
download a missing one, because importing it takes seconds.
"""

import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.datasets.base import SPLITS, Dataset, EmptySplitError, LabelType, Split
from medretrieval.errors import UserError, first_line

SIZES = (28, 64, 128, 224)
# NumPy meets a damaged archive with any of these, depending on where the damage is.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


class MedMNIST(Dataset):
    """One MedMNIST set at one size.

    Args:
        name: MedMNIST's own flag, such as "pneumoniamnist"; the file is <flag>.npz or <flag>_<size>.npz.
        label_type: "single", "multi" or "ordinal".
        classes: the names of the classes in the order of the label numbers.
        channels: 1 for gray images, 3 for RGB.
        size: pixels a side: 28, 64, 128 or 224.
        root: the folder of the .npz files; a missing file is downloaded into it.
        groups: a CSV of patients or lesions, None where nobody says.
        group_rule: finds the patient in the source names of MedMNIST's own CSV (`groups.read_groups`); None
            where the CSV names the groups.
        corrupt: what is done to query images, such as noise@3; None for nothing.

    Raises:
        UserError: unknown label_type, size or corruption, or a group_rule without groups.
    """

    def __init__(
        self,
        name: str,
        label_type: LabelType,
        classes: Sequence[str],
        channels: int,
        size: int,
        root: str,
        groups: str | None = None,
        group_rule: str | None = None,
        corrupt: str | None = None,
    ) -> None:
        if size not in SIZES:
            raise UserError(f"dataset.size={size}: {name} comes at the sizes {', '.join(map(str, SIZES))}")
        if label_type not in ("single", "multi", "ordinal"):
            raise UserError(f"dataset.label_type={label_type}: choose from: multi, ordinal, single")
        super().__init__(name, label_type, classes, size, groups, corrupt)
        if group_rule is not None and groups is None:
            raise UserError(
                f"dataset.group_rule={group_rule}: has no effect without dataset.groups=<CSV with the "
                "columns split,index,image_id>; give that file, or set the rule to null"
            )
        self.channels, self.group_rule = channels, group_rule
        self.path = Path(root).expanduser() / f"{name}{'' if size == 28 else f'_{size}'}.npz"

    def is_here(self) -> bool:
        """Whether the file is there."""
        return self.path.exists()

    def load(self, split: str) -> Split:
        """Read and check one split.

        Raises:
            UserError: the file is missing and cannot be downloaded, is truncated, is no MedMNIST file of
                this name and size, has an empty split or labels that do not fit the images or classes.
        """
        if not self.path.exists():
            download(self.name, self.size, self.path)
        images, labels = self._read(split)
        self._check_images(split, images)
        return Split(split, images, self._labels(split, labels, len(images)))

    def _read(self, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
        wanted = (f"{split}_images", f"{split}_labels")
        try:
            with np.load(self.path, allow_pickle=False) as npz:
                missing = [key for key in wanted if key not in npz.files]
                if missing:
                    raise UserError(
                        f"{self.path}: not a MedMNIST file: no array {missing[0]!r} in it "
                        f"(it holds {', '.join(sorted(npz.files)[:8]) or 'nothing'}); put the real "
                        f"{self.path.name} there, or delete the file to download it again"
                    )
                return npz[wanted[0]], npz[wanted[1]]
        except DAMAGED as error:
            raise UserError(
                f"{self.path}: damaged or not an .npz file ({_reason(error)}); "
                "delete it to download it again, or put an intact copy there"
            ) from error
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from error

    def _check_images(self, split: str, images: NDArray[Any]) -> None:
        shape = (self.size, self.size) if self.channels == 1 else (self.size, self.size, 3)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise UserError(
                f"{self.path}: {split}_images is {images.dtype} {list(images.shape)}, but "
                f"dataset={self.name} dataset.size={self.size} needs uint8 [n, {', '.join(map(str, shape))}]"
            )
        if len(images) == 0:
            raise EmptySplitError(
                f"{self.path}: split {split!r} is empty; choose another split or another file"
            )

    def _labels(self, split: str, labels: NDArray[Any], n: int) -> NDArray[np.int64] | NDArray[np.bool_]:
        where = f"{self.path}: {split}_labels"
        if labels.shape[:1] != (n,):
            rows = len(labels) if labels.ndim else "no"
            raise UserError(f"{where} has {rows} rows for {n} images; they must be of one length")
        whole = labels.dtype.kind in "iub" or (
            labels.dtype.kind == "f" and np.array_equal(labels, np.round(labels))
        )
        if not whole:
            raise UserError(f"{where} is {labels.dtype}; class numbers must be whole numbers")
        if self.label_type == "multi":
            if labels.shape != (n, len(self.classes)) or not np.isin(labels, (0, 1)).all():
                raise UserError(f"{where} is {list(labels.shape)}, not 0/1 [n, {len(self.classes)} findings]")
            return labels.astype(np.bool_)
        # Files in the wild carry (n, 1) and (n,).
        if labels.size != n:
            raise UserError(f"{where} is {list(labels.shape)}; one class number per image is needed")
        flat = labels.reshape(n).astype(np.int64)
        if flat.min() < 0 or flat.max() >= len(self.classes):
            raise UserError(
                f"{where} holds class {int(flat.min() if flat.min() < 0 else flat.max())}, "
                f"but dataset.classes names {len(self.classes)} (0 to {len(self.classes) - 1})"
            )
        return flat


def _reason(error: Exception) -> str:
    """What is wrong, without NumPy's advice to unpickle."""
    return "no plain arrays" if "pickle" in str(error) else first_line(error)


def download(flag: str, size: int, path: Path) -> None:
    """Fetch a MedMNIST file through the `medmnist` package and put it in place only when whole.

    Raises:
        UserError: no network, or the download failed or did not match its MD5.
    """
    import medmnist

    if flag not in medmnist.INFO:
        raise UserError(
            f"{path}: not there, and dataset.name={flag} is not a MedMNIST set; put the file there"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            getattr(medmnist, medmnist.INFO[flag]["python_class"])(
                split=SPLITS[0], download=True, size=size, root=folder
            )
            (Path(folder) / path.name).replace(path)
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: not there, and downloading it failed ({first_line(error)}); "
            "put the file there, set paths.data (or MEDRETRIEVAL_DATA) to the folder that has it, "
            "or try again with a network connection"
        ) from error
