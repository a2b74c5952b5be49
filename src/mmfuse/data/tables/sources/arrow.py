"""Arrays of Arrow as columns, without a Python object for a cell."""

from typing import Any

import numpy as np
import torch

from mmfuse.data.tables.columns import ArrayColumn, Column, EmptyColumn, Packer, RaggedColumn, as_tensor
from mmfuse.data.tables.columns.packed import BYTES, EMPTY, TEXT


def size_of(array: Any) -> int:
    """How many bytes an array takes once its dictionary, if it has one, is written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(array.type) or not _is_written(array.type.value_type):
        return int(array.nbytes)
    lengths = pc.binary_length(array.dictionary).take(array.indices)
    return int(array.indices.nbytes + (pc.sum(lengths).as_py() or 0))


def column_of_chunks(chunks: list[Any]) -> Column:
    """One column of its pieces, top to bottom; the list is empty afterwards, so that memory is let go."""
    import pyarrow as pa

    if not chunks:
        return EmptyColumn(0)
    kind = _plain(chunks[0]).type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _numbers(pa.concat_arrays([_plain(chunk) for chunk in chunks]))
    if _is_list(kind) and (column := _lists(pa.concat_arrays([_plain(chunk) for chunk in chunks]))) is not None:
        return column
    packer = Packer()
    while chunks:
        _pack(packer, _plain(chunks.pop(0)))
    return packer.column()


def _plain(array: Any) -> Any:
    """The same cells in one of a few types."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_float16(kind):
        return pc.cast(array, pa.float32())
    if pa.types.is_fixed_size_binary(kind):
        return pc.cast(array, pa.large_binary())
    # The last: identifiers of 64 bits, which torch cannot count up to.
    as_text = pa.types.is_decimal(kind) or pa.types.is_temporal(kind) or pa.types.is_uint64(kind)
    return pc.cast(array, pa.large_string()) if as_text else array


def _is_written(kind: Any) -> bool:
    import pyarrow as pa

    checks = pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary
    return any(check(kind) for check in checks)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _numbers(array: Any) -> ArrayColumn:
    known = None if array.null_count == 0 else torch.from_numpy(_known(array))
    values = array.fill_null(False if str(array.type) == "bool" else 0)
    return ArrayColumn(as_tensor(values.to_numpy(zero_copy_only=False)), known, numpy=True)


def _lists(array: Any) -> Column | None:
    """Lists of numbers, or of lists of numbers of one length; None for others."""
    bounds, inner = _open(array)
    steps = _steps(inner)
    if steps is None:
        return None
    lengths = np.diff(bounds)
    if len(lengths) and array.null_count == 0 and (lengths == lengths[0]).all():
        return ArrayColumn(as_tensor(steps.reshape(len(lengths), -1, *steps.shape[1:])), numpy=True)
    known = None if array.null_count == 0 else torch.from_numpy(_known(array))
    return RaggedColumn(as_tensor(steps), torch.from_numpy(bounds), known, numpy=True)


def _open(array: Any) -> tuple[np.ndarray, Any]:
    """Where each list begins and ends, and what is in them all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = pc.cast(array, pa.large_list(array.type.value_type))
    offsets = array.offsets.to_numpy()
    inner = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    return offsets - offsets[0], inner.storage if isinstance(inner, pa.ExtensionArray) else inner


def _steps(array: Any) -> np.ndarray | None:
    """(all steps, ...) of the numbers in lists, NaN where one is missing; None if they are none or are ragged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        array = pc.cast(array, pa.float64()).fill_null(float("nan")) if array.null_count else array
        return array.to_numpy(zero_copy_only=False)
    if not _is_list(array.type) or array.null_count:
        return None
    bounds, inner = _open(array)
    lengths = np.diff(bounds)
    steps = _steps(inner)
    if steps is None or not len(lengths) or (lengths != lengths[0]).any():
        return None
    return steps.reshape(len(lengths), -1, *steps.shape[1:])


def _pack(packer: Packer, array: Any) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _pack_written(packer, array, _kinds(array))
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        _pack_written(packer, array, np.where(_known(array), BYTES, EMPTY))
    elif pa.types.is_struct(kind) and {kind[i].name for i in range(kind.num_fields)} == {"bytes", "path"}:
        # A picture or a sound of the Hugging Face library: the file itself, or where it lies.
        fields = dict(zip((kind[i].name for i in range(kind.num_fields)), array.flatten(), strict=True))
        path = pc.cast(fields["path"], pa.large_string())
        data = pc.cast(fields["bytes"], pa.large_binary())
        kinds = np.where(_known(data), BYTES, _kinds(path))
        _pack_written(packer, pc.coalesce(data, pc.cast(path, pa.large_binary())), kinds)
    else:
        packer.add(array.to_pylist())


def _known(array: Any) -> np.ndarray:
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False))


def _kinds(array: Any) -> np.ndarray:
    """Text, or empty where there is none or no letter."""
    import pyarrow.compute as pc

    letters = pc.binary_length(pc.utf8_trim_whitespace(array)).fill_null(0).to_numpy(zero_copy_only=False)
    return np.where(letters > 0, TEXT, EMPTY)


def _pack_written(packer: Packer, array: Any, kinds: np.ndarray) -> None:
    """Text or bytes: their buffer is copied as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = pc.cast(array, pa.large_binary()).fill_null(b"")
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    view = memoryview(b"" if data is None else data)[bounds[0] : bounds[-1]] if len(array) else b""
    packer.add_packed(view, np.diff(bounds), kinds.astype(np.uint8))
