"""The content of one value of a table, put into a digest: two values get the same only if nothing tells them apart."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse.data.tables.columns.packed import WRITTEN

SIMPLE = (str, int, float, bool, type(None))


def put(digest: Any, kind: str, data: bytes) -> None:
    """Bytes with their kind and length in front, so that no two lists of them run into the same."""
    digest.update(f"{kind} {len(data)} ".encode())
    digest.update(data)


def put_content(digest: Any, value: Any) -> None:
    """Text, bytes, numbers, arrays, pictures, and lists of simple values.

    Raises:
        TypeError: it is of another kind.
    """
    if isinstance(value, str):
        put(digest, "text", value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, bytes):
        put(digest, "bytes", value)
    elif isinstance(value, list | tuple):
        put(digest, "list", repr(list(value)).encode("utf-8", "surrogatepass"))
    elif isinstance(value, Tensor | np.ndarray):
        _put_array(digest, value)
    elif value is None or isinstance(value, WRITTEN):
        put(digest, type(value).__name__, repr(value).encode())
    elif hasattr(value, "getbands") and hasattr(value, "getexif"):  # a picture of PIL
        about = (value.mode, value.size, value.getpalette(), value.info.get("transparency"))
        put(digest, "picture", repr(about).encode())
        put(digest, "exif", value.getexif().tobytes())
        put(digest, "pixels", value.tobytes())
    else:
        raise TypeError(
            f"A cell is a {type(value).__name__}, whose content cannot be told. Expected text, numbers, bytes, files, "
            "arrays, pictures, or lists and mappings of them. Turn it into one, or do not cache this modality."
        )


def _put_array(digest: Any, value: Tensor | np.ndarray) -> None:
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        raise TypeError("A cell is an array of Python objects. Expected numbers. Make an array of numbers of it.")
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    else:
        data = value.tobytes()
    put(digest, f"array {value.dtype} {tuple(value.shape)}", data)
