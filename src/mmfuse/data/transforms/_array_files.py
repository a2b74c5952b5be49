"""Array files of numpy and safetensors -> numpy array. Headers are checked before memory is taken; no pickle."""

import json
import math
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np

from mmfuse._checks import nearest

MAX_MEMBERS = 10_000  # arrays in one file
MAX_SIZE = 2**40  # of one axis, where another one is empty
MAX_NPY_HEADER = 10_000  # bytes
# A type, an order and a shape, as numpy writes them; a table of named columns has a list for its type.
NPY_HEADER = [
    re.compile(rf"""['"]{key}['"]\s*:\s*{value}""")
    for key, value in (
        ("descr", r"""['"]([<>|=]?[A-Za-z][\w\[\]]*)['"]"""),
        ("fortran_order", "(True|False)"),
        ("shape", r"\(([\dL,\s]*)\)"),
    )
]
MAX_HEADER = 10_000_000  # bytes of a safetensors header
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "|b1"} | {
    f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)
}


@dataclass
class ArrayFile:
    """An open file, and what is wanted of it."""

    file: Any = None  # opened for reading bytes
    size: int = 0  # in bytes
    key: str | None = None
    max_bytes: int | None = None
    steps: slice | None = None
    stamps: bool = False  # columns of a table may hold points of time, which become seconds since the first
    length: int = 0  # of the first axis, before it is cut: known when it has been read, as are these:
    names: list[str] | None = None  # of the columns of a table with a header
    stamped: list[int] = field(default_factory=list)  # which columns hold points of time

    def require_room(self, size: int) -> None:
        """Raise ValueError if so many bytes are too many."""
        if self.max_bytes is not None and size > self.max_bytes:
            raise ValueError(
                f"The array takes {size} bytes. Expected at most {self.max_bytes}. "
                "Cut it into shorter ones, or raise max_bytes to trust it."
            )

    def cut(self, array: Any) -> Any:
        """The steps that are wanted of an array that had to be read whole."""
        self.length = len(array) if array.ndim else 0
        return array if self.steps is None or not array.ndim else array[self.steps]

    def name_of(self, names: Sequence[str], what: str) -> str:
        """The array or column to read: the one that is asked for, or the only one."""
        if self.key is None and len(names) == 1:
            return names[0]
        if self.key in names:
            return str(self.key)
        shown = f"{sorted(names)[:20]}{f' and {len(names) - 20} more' if len(names) > 20 else ''}"
        asked = "no key was given" if self.key is None else f"no {what} {self.key!r} is among them"
        hint = nearest(self.key or "", names)
        wanted = "key= one of them" if self.key is None else "one of them"
        raise ValueError(f"The file holds {len(names)} {what}s {shown}, and {asked}. Expected {wanted}.{hint}")


def read_npy(source: ArrayFile) -> Any:
    """The array of a .npy file."""
    shape, fortran, dtype = _npy_header(source.file)
    return _read_raw(source, source.size - source.file.tell(), shape, dtype, fortran=fortran)


def read_npz(source: ArrayFile) -> Any:
    """One array of a .npz file."""
    try:
        _require_few_members(source)
        with zipfile.ZipFile(source.file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if any(name.endswith(".pkl") for name in members):
                raise ValueError(
                    "The file is a zip with a pickle in it, as torch.save writes, which can run any code when it is "
                    "read. Expected an .npz file of numpy. Convert it in a place you trust: np.save('name.npy', array)."
                )
            info = members[source.name_of(list(members), "array")]
            # What numpy writes. Deflate packs no tighter than 1:1032, and the size below bounds what is unpacked.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("packed in a way that numpy does not use")
            source.require_room(info.file_size)
            with archive.open(info) as member:
                content = BytesIO(member.read(info.file_size))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise ValueError(
            f"The file is not an .npz file that can be read, or it breaks off: {error}. Expected what np.savez writes. "
            "Write it again, or copy it again."
        ) from None
    return source.cut(read_npy(ArrayFile(content, info.file_size)))


def read_safetensors(source: ArrayFile) -> Any:
    """One tensor of a .safetensors file."""
    start, entries = _safetensors_header(source)
    entry = entries[source.name_of(list(entries), "array")]
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(size) is int and size >= 0 for size in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        kind, shape, begin, end, whole = None, (), 0, 0, False
    if kind not in TYPES and whole:
        raise ValueError(f"The array is of type {kind}. Expected one of {list(TYPES)}. Save it as F32.")
    if not whole or start + end > source.size:
        raise _damaged("safetensors", "its header and its length do not agree")
    source.file.seek(start + begin)
    array = _read_raw(source, end - begin, shape, np.dtype(TYPES[kind]))
    # bfloat16 is the upper half of float32, and numpy has no such type.
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, whether columns come first, and type. Not by numpy, which parses a header as Python."""
    start = file.read(8)
    length = int.from_bytes(file.read(4 if start[6:7] > b"\1" else 2), "little")
    if start[:6] != b"\x93NUMPY" or length > MAX_NPY_HEADER:
        raise _damaged("npy", "it does not begin as one")
    header = file.read(length).decode("latin-1")
    kind, order, sizes = (pattern.search(header) for pattern in NPY_HEADER)
    try:
        dtype = np.dtype(kind[1]) if kind else None
        shape = tuple(int(size) for size in re.findall(r"\d+", sizes[1])) if sizes else None
    except (TypeError, ValueError):
        dtype = shape = None
    if dtype is None or shape is None or order is None or len(header) < length:
        raise _damaged("npy", f"its header is {header[:80].strip()!r}")
    if dtype.hasobject:
        raise ValueError(
            "The array holds Python objects, which are a pickle that can run any code when it is read. Expected "
            "numbers. Convert it in a place you trust: np.save('name.npy', array.astype('float32'))."
        )
    return shape, order[1] == "True", dtype


def _read_raw(source: ArrayFile, there: int, shape: tuple[int, ...], dtype: Any, *, fortran: bool = False) -> Any:
    """Numbers as they lie in memory, from where the file stands: all, or the steps that are wanted."""
    require_numbers(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size != there or max(shape, default=0) > MAX_SIZE:
        raise _damaged("array", f"its header says shape {shape} of {dtype}, {size} bytes, but {there} follow")
    if source.steps is not None and shape and not fortran:
        start, stop, stride = source.steps.indices(shape[0])
        if stride == 1:
            source.length = shape[0]
            source.file.seek(start * (size // shape[0] if shape[0] else 0), 1)
            return _read_raw_all(source, (max(stop - start, 0), *shape[1:]), dtype)
    array = _read_raw_all(source, shape[::-1] if fortran else shape, dtype)
    return source.cut(array.T if fortran else array)


def _read_raw_all(source: ArrayFile, shape: tuple[int, ...], dtype: Any) -> Any:
    source.require_room(math.prod(shape) * dtype.itemsize)
    array = np.empty(shape, dtype)
    if array.nbytes and source.file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise _damaged("array", "it breaks off")
    return array


def require_numbers(dtype: Any) -> None:
    """Raise ValueError unless the type is one of booleans, integers or floats."""
    if dtype.kind not in "biuf":
        mend = "(times - times[0]) / np.timedelta64(1, 's')" if dtype.kind == "M" else "array.astype('float32')"
        raise ValueError(
            f"The array is of type {dtype}. Expected booleans, integers or floats. Convert it, with {mend} for example."
        )


def _require_few_members(source: ArrayFile) -> None:
    """Raise before a directory of millions of entries is read: their number stands at the end of the file."""
    source.file.seek(max(0, source.size - 65_557))
    end = source.file.read()
    at = end.rfind(b"PK\x05\x06")
    count = int.from_bytes(end[at + 10 : at + 12], "little") if at >= 0 else 0
    if count > MAX_MEMBERS:
        raise ValueError(f"The file holds {count} arrays or more. Expected at most {MAX_MEMBERS}. Split it.")
    source.file.seek(0)


def _safetensors_header(source: ArrayFile) -> tuple[int, Mapping[str, Any]]:
    """Where the numbers begin, and the entry of each tensor."""
    length = int.from_bytes(source.file.read(8), "little")
    if source.size < 8 or length > min(MAX_HEADER, source.size - 8):
        raise _damaged("safetensors", f"its header would take {length} bytes")
    try:
        entries = json.loads(source.file.read(length))
        del entries["__metadata__"]
    except KeyError:
        pass
    except (ValueError, TypeError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise _damaged("safetensors", "its header is no JSON object")
    return 8 + length, entries


def _damaged(kind: str, why: str) -> ValueError:
    return ValueError(
        f"The file is not {'an' if kind[0] in 'an' else 'a'} {kind} file that can be read: {why}. Expected a whole "
        "file. Copy it again, or write it again from its source."
    )
