"""A cell that holds numbers -> numpy array: the path or the bytes of an array file, an array, a tensor, lists."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmfuse.data.transforms._array_files import ArrayFile, read_npy, read_npz, read_safetensors, require_numbers
from mmfuse.data.transforms._array_tables import read_csv, read_parquet
from mmfuse.data.transforms._files import require_file

MAX_BYTES = 2**28  # 256 MiB: 17 minutes of 1024 float32 features, 64 a second
READERS = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
# What other programs write with pickle, which runs code of its own choice when it is read.
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".bin")


def read_array(value: Any, *, key: str | None = None, max_bytes: int | None = MAX_BYTES) -> Any:
    """The array of booleans, integers or floats that a cell holds, in the byte order of this machine.

    A file is judged by its header, before memory is taken for what it holds. Nothing is ever unpickled. An empty cell
    of a CSV file, and null in a list or in Parquet, is NaN; bfloat16 comes as float32. An array may have no entries.

    Args:
        value: the path or the bytes of a .npy, .npz, .safetensors, .csv or .parquet file (a table of numbers, or of one
            column of lists); or a numpy array, a tensor, a number, or nested lists of numbers.
        key: which array of an .npz or .safetensors file, or which column of a table; not needed if there is only one.
        max_bytes: largest number of bytes that may be read; None: no limit.

    Raises:
        ValueError: the file is missing, damaged, too large, a pickle, or of another kind; or these are no numbers.
    """
    return read_steps(value, None, key=key, max_bytes=max_bytes)[0]


def read_steps(
    value: Any, steps: slice | None, *, key: str | None = None, max_bytes: int | None = MAX_BYTES
) -> tuple[Any, int]:
    """Some steps of an array along its first axis, and how many there are in all: see :func:`read_array`.

    Of .npy and .safetensors files nothing else is read, and nothing else counts for ``max_bytes``.
    """
    source = ArrayFile(key=key, max_bytes=max_bytes, steps=steps)
    return _read(value, source), source.length


def read_columns(value: Any, *, max_bytes: int | None = MAX_BYTES) -> tuple[Any, list[str] | None, list[int]]:
    """An array, the names of its columns, and which of them hold points of time: see :func:`read_array`.

    There are names where the value is a table with a header. Points of time have become seconds since the first.
    """
    source = ArrayFile(max_bytes=max_bytes, stamps=True)
    return _read(value, source), source.names, source.stamped


def to_float32(array: Any) -> Float[Tensor, "*axes"]:
    """An array of numbers as a float32 tensor; what is too large for float32 becomes infinite. Not always a copy."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))


def _read(value: Any, source: ArrayFile) -> Any:
    if isinstance(value, str | Path):
        array = _read_path(Path(value), source)
    elif isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        source.file, source.size = BytesIO(data), len(data)
        array = _reader(data)(source)
    else:
        array = source.cut(_from_memory(value))
    require_numbers(array.dtype)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _read_path(path: Path, source: ArrayFile) -> Any:
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ValueError(
            f"A {suffix} file is a pickle, which can run any code when it is read. Expected {_kinds()}. "
            "Convert it in a place you trust: np.save('name.npy', array)."
        )
    if suffix not in READERS:
        raise ValueError(f"The array file has the ending {suffix!r}. Expected {_kinds()}. Convert it to one of them.")
    with require_file(path, "an array file").open("rb") as file:
        _refuse_pickle(file.read(8))
        file.seek(0)
        source.file, source.size = file, path.stat().st_size
        return READERS[suffix](source)


def _reader(data: bytes) -> Any:
    """What reads these bytes, by how they begin: they have no name."""
    _refuse_pickle(data[:8])
    for start, suffix in ((b"\x93NUMPY", ".npy"), (b"PK", ".npz"), (b"PAR1", ".parquet")):
        if data.startswith(start):
            return READERS[suffix]
    return READERS[".safetensors" if data[8:9] == b"{" else ".csv"]


def _refuse_pickle(start: bytes) -> None:
    if start[:1] == b"\x80" and start[1:2] in b"\x01\x02\x03\x04\x05":
        raise ValueError(
            f"The file is a pickle, which can run any code when it is read. Expected {_kinds()}. "
            "Convert it in a place you trust: np.save('name.npy', array)."
        )


def _from_memory(value: Any) -> Any:
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        narrow = plain.is_floating_point() and plain.dtype not in (torch.float16, torch.float32, torch.float64)
        return (plain.float() if narrow else plain).numpy()
    try:
        array = np.asarray(value)
        if value is None:
            raise TypeError
        if array.dtype.hasobject:  # null among numbers, or rows that are arrays themselves
            rows = [_from_memory(row) for row in array] if array.ndim and _is_nested(array) else array
            return np.stack(rows) if isinstance(rows, list) else _with_nan(array)
        return array
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            f"The cell holds a {type(value).__name__} that is no array of numbers. Expected the path of an array file, "
            "an array, a tensor, or lists of numbers, nested to one depth and width. Convert it."
        ) from None


def _is_nested(array: Any) -> bool:
    return all(isinstance(item, np.ndarray | list | tuple) for item in array)


def _with_nan(array: Any) -> Any:
    if any(isinstance(item, str | bytes) for item in array.flat):
        raise TypeError
    return array.astype(np.float64)  # None becomes NaN


def _kinds() -> str:
    return f"{', '.join(list(READERS)[:-1])} or {list(READERS)[-1]}"
