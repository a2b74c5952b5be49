"""NIfTI files (.nii, .nii.gz) -> the numbers of a volume, its axes turned the same way in every file."""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.data.transforms._files import require_file

HEADER = 540  # bytes of the longer one, NIfTI-2
MAX_OFFSET = 2**24  # bytes of notes before the numbers begin
SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}


@dataclass(frozen=True)
class Volume:
    """Three axes of raw numbers, and what they mean: ``numbers * slope + intercept``."""

    numbers: Any
    slope: float = 1.0
    intercept: float = 0.0
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)  # between voxels along each axis, such as in mm


def is_nifti(value: Any) -> bool:
    """Whether a path or bytes are a NIfTI file, by ending or beginning."""
    if isinstance(value, bytes):
        return value[:2] == b"\x1f\x8b" or _header_size(value) > 0
    return isinstance(value, str | Path) and str(value).lower().endswith((".nii", ".nii.gz"))


def read_nifti(value: str | Path | bytes, max_voxels: int) -> Volume:
    """The volume of a file, with axes from left to right, from back to front and from feet to head (RAS).

    Header first: nothing is read of a volume that is too large, or that has not three axes.

    Raises:
        ValueError: the file is missing, damaged, too large, or not three-dimensional.
        ImportError: nibabel is not installed.
    """
    if isinstance(value, str | Path):
        require_file(value, "a volume")
    try:
        with _stream(value) as file:
            header = _header(file.read(HEADER))
            shape = require_volume(header.get_data_shape(), max_voxels)
            return _turned(header, _numbers(file, header, shape))
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(str(error)) from None


def require_volume(shape: tuple[int, ...], max_voxels: int) -> tuple[int, int, int]:
    """The three sizes of a volume; ValueError for other numbers of axes and for too many voxels."""
    while len(shape) > 3 and shape[-1] == 1:  # many programs write one point in time as a fourth axis
        shape = shape[:-1]
    if len(shape) != 3 or not math.prod(shape):
        raise ValueError(
            f"The volume has {len(shape)} axes, of sizes {tuple(shape)}. Expected three, of sizes above 0. Save one "
            "point in time or one channel of it, array[..., 0], or their mean, as a volume of its own."
        )
    if math.prod(shape) > max_voxels:
        raise ValueError(
            f"The volume has {' x '.join(map(str, shape))} = {math.prod(shape)} voxels. Expected at most {max_voxels}. "
            "Save it with coarser voxels, or raise max_voxels to trust it."
        )
    return shape[0], shape[1], shape[2]


@contextmanager
def _stream(value: str | Path | bytes) -> Iterator[Any]:
    """The file, unpacked as it is read."""
    with BytesIO(value) if isinstance(value, bytes) else Path(value).open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked


def _header_size(start: bytes) -> int:
    return next((size for size in SIZES if start[:4] in (size.to_bytes(4, "little"), size.to_bytes(4, "big"))), 0)


def _header(start: bytes) -> Any:
    try:
        import nibabel
    except ImportError:
        raise ImportError(
            "NIfTI files are read with nibabel, which is missing. Run pip install 'mmfuse[medical]'."
        ) from None
    size = _header_size(start)
    if not size or len(start) < size:
        raise _damaged("it does not begin with a header")
    try:
        header = getattr(nibabel, SIZES[size])(start[:size], check=False)
        header.get_data_shape(), header.get_data_dtype(), header.get_best_affine(), header.get_slope_inter()
    except Exception as error:  # nibabel has many kinds of error for damaged headers
        raise _damaged(str(error).partition("\n")[0]) from None
    return header


def _numbers(file: Any, header: Any, shape: tuple[int, int, int]) -> Any:
    dtype = header.get_data_dtype()
    offset = int(header["vox_offset"])
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(
            f"The volume holds numbers of type {dtype}. Expected integers or floats of one channel. "
            "Convert it: nibabel.Nifti1Image(array.astype('float32'), image.affine)."
        )
    if not 348 <= offset <= MAX_OFFSET:
        raise _damaged(f"its numbers are said to begin at byte {offset}")
    file.seek(offset)
    size = math.prod(shape) * dtype.itemsize
    data = file.read(size)
    if len(data) != size:
        raise _damaged(f"{size} bytes were to follow its header, and {len(data)} do")
    return np.frombuffer(data, dtype).reshape(shape, order="F")


def _turned(header: Any, numbers: Any) -> Volume:
    from nibabel.orientations import apply_orientation, io_orientation

    affine = header.get_best_affine()
    turn = io_orientation(affine)
    if not np.isfinite(turn).all():
        raise _damaged("its affine matrix does not say which way its axes run")
    slope, intercept = header.get_slope_inter()
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[np.argsort(turn[:, 0])]
    return Volume(
        apply_orientation(numbers, turn),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
    )


def _damaged(why: str) -> ValueError:
    return ValueError(
        f"The file is not a NIfTI volume that can be read: {why}. Expected a whole .nii or .nii.gz file. "
        "Copy it again, or convert it with nibabel."
    )
