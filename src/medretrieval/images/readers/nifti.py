"""Slices of NIfTI volumes, which nibabel's headers describe: `pip install 'medretrieval[nifti]'`."""

import gzip
import importlib.util
import threading
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.errors import first_line
from medretrieval.images.readers.source import Frame, Peek, Source, Unreadable, check_size
from medretrieval.images.rescale import to_8_bits

SUFFIXES = (".nii", ".nii.gz")
HEADER_BYTES = {348: "Nifti1Header", 540: "Nifti2Header"}
MOST_VOLUME_BYTES = 2**30  # of one volume, inflated
PERCENTILES = (0.5, 99.5)  # of all voxels: 0 and 255 where the header has no cal_min and cal_max

_last = threading.local()  # a thread's last volume: its slices are asked for one by one


def is_nifti(path: Path) -> bool:
    """By its name: the mark of a compressed file stands within the compressed bytes."""
    return path.name.lower().endswith(SUFFIXES)


class Volume(Source):
    """The first volume of a file, as slices along the third axis of its canonical (RAS) orientation.

    Slice 0 is the lowest one (the feet). A slice is drawn as radiologists see it: the front of the patient
    on top, the patient's right on the left. Voxels are drawn as squares, whatever their spacing.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        """Read the header.

        Args:
            path: named in messages.
            file: opened, at its begin.

        Raises:
            Unreadable: nibabel is not installed; no NIfTI file, damaged, too large, of colors or complex
                numbers.
        """
        if importlib.util.find_spec("nibabel") is None:
            raise Unreadable(path, "NIfTI needs the package nibabel; pip install 'medretrieval[nifti]'")
        self._path, self._file = path, file
        self._bytes: Any = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
        try:
            self._header = _header(self._bytes.read(max(HEADER_BYTES)))
            self._read_shape()
        except Unreadable:
            raise
        except (Exception, EOFError) as error:  # gzip and nibabel raise what they like
            raise self._damaged(error) from error

    def frame(self, index: int) -> Frame:
        """A slice from the lowest one (0).

        Gray goes from the header's cal_min to cal_max where they are set, else from the 0.5th to the 99.5th
        percentile of the volume's finite values.
        """
        try:
            volume = self._volume()
        except Unreadable:
            raise
        except (Exception, EOFError, zlib.error) as error:
            raise self._damaged(error) from error
        return Frame(np.ascontiguousarray(volume[:, :, index]), ())

    def _read_shape(self) -> None:
        import nibabel

        header = self._header
        shape = [int(length) for length in header.get_data_shape()[:3]]
        if not shape or min(shape) < 1:
            raise Unreadable(self._path, "damaged, its header says no voxels; give an intact copy")
        self._shape = tuple([*shape, 1, 1][:3])
        self._dtype = header.get_data_dtype()
        if self._dtype.kind not in "iuf" or self._dtype.itemsize > 8:
            raise Unreadable(self._path, f"its voxels are {self._dtype}, and not gray values")
        self._count = int(np.prod([np.int64(length) for length in self._shape], dtype=object))
        if self._count * self._dtype.itemsize > MOST_VOLUME_BYTES:
            raise Unreadable(
                self._path,
                f"{' x '.join(map(str, self._shape))} voxels; at most {MOST_VOLUME_BYTES // 2**30} GiB of a "
                "volume are read, make it smaller first",
            )
        self._turn = nibabel.orientations.io_orientation(header.get_best_affine())
        canonical = [self._shape[int(np.flatnonzero(self._turn[:, 0] == axis)[0])] for axis in range(3)]
        width, height, slices = canonical
        check_size(self._path, width, height)
        self.peek = Peek("nifti", width, height, 1, self._dtype.itemsize * 8, slices)

    def _volume(self) -> NDArray[np.uint8]:
        """uint8 [height, width, slices], turned and windowed."""
        state = self._path.stat()
        key = (str(self._path.absolute()), state.st_mtime_ns, state.st_size)
        if getattr(_last, "key", None) != key:
            _last.key, _last.volume = None, None  # give the old one's memory back first
            _last.volume = self._seen(self._voxels())
            _last.key = key
        volume: NDArray[np.uint8] = _last.volume
        return volume

    def _voxels(self) -> NDArray[Any]:
        """The first volume as stored; no more bytes are inflated than its header says."""
        wanted = self._count * self._dtype.itemsize
        self._bytes.seek(int(self._header.get_data_offset()))
        data = self._bytes.read(wanted)
        if len(data) < wanted:
            raise Unreadable(
                self._path, f"damaged, {len(data)} of {wanted} bytes of voxels are there; give an intact copy"
            )
        return np.frombuffer(data, self._dtype).reshape(self._shape, order="F")

    def _seen(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        import nibabel

        slope, intercept = (1.0 if slope is None else slope for slope in self._header.get_slope_inter())
        if self._header.get_slope_inter()[1] is None:
            intercept = 0.0
        low, high = (float(self._header[name]) for name in ("cal_min", "cal_max"))
        if not low < high:  # neither is set, or a header of NaN
            finite = stored if stored.dtype.kind in "iu" else stored[np.isfinite(stored)]
            ends = np.percentile(finite, PERCENTILES) if finite.size else np.zeros(2)
            low, high = sorted(float(end) * slope + intercept for end in ends)
        canonical = nibabel.orientations.apply_orientation(stored, self._turn)
        upright = canonical[::-1, ::-1].transpose(1, 0, 2)  # rows from the front, columns from the right
        seen = np.empty(upright.shape, np.uint8, order="F")
        for place in range(upright.shape[2]):  # a slice at a time: in float64 a volume may be large
            values = upright[:, :, place].astype(np.float64) * slope + intercept
            seen[:, :, place] = to_8_bits(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
        return seen

    def _damaged(self, error: BaseException) -> Unreadable:
        return Unreadable(
            self._path, f"not a NIfTI file that can be read ({first_line(error)}); give an intact copy"
        )


def _header(start: bytes) -> Any:
    """NIfTI-1 or NIfTI-2 by the size that it says it has, in either byte order."""
    import nibabel

    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)
        if size in HEADER_BYTES:
            if len(start) < size:
                raise ValueError(f"{len(start)} of {size} bytes of its header are there")
            header = getattr(nibabel, HEADER_BYTES[size])(start[:size], check=False)
            if not bytes(header["magic"].item()).startswith(b"n+"):
                raise ValueError("its header has no mark of a single file")
            return header
    raise ValueError("its first bytes are not those of a header")
