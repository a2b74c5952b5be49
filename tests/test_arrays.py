"""Array files: every kind and layout is read, nothing larger than allowed, and never a pickle."""

import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmfuse.data.transforms._arrays import read_array, read_steps, to_float32

ARRAY = np.arange(21, dtype=np.float32).reshape(7, 3) / 4
LAYOUTS = {
    "float32": ARRAY,
    "float16": ARRAY.astype(np.float16),
    "float64": ARRAY.astype(np.float64),
    "big-endian": ARRAY.astype(">f8"),
    "Fortran order": np.asfortranarray(ARRAY),
    "uint8": (ARRAY * 4).astype(np.uint8),
    "int64": (ARRAY * 4).astype(np.int64),
    "bool": ARRAY > 2,
    "one number": np.array(2.5),
    "no steps": ARRAY[:0],
    "three axes": ARRAY.reshape(7, 1, 3),
}


class Canary:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def both(path):
    """A file by its path, and as its bytes."""
    return [path, path.read_bytes()]


def npy(folder, array, name="a.npy"):
    np.save(folder / name, array)
    return folder / name


def npy_with_header(folder, header, data=b""):
    text = header.encode() + b" " * (118 - len(header)) + b"\n"
    (folder / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
    return folder / "a.npy"


def safetensors_with_header(folder, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder / "a.safetensors"


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_comes_back_from_every_kind_of_file(tmp_path, name):
    array = LAYOUTS[name]
    paths = [npy(tmp_path, array), tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "a.safetensors"]
    np.savez(paths[1], x=array)
    np.savez_compressed(paths[2], x=array)
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
    save_file({"x": torch.from_numpy(native.reshape(array.shape))}, paths[3])

    for path in paths:
        for value in both(path):
            got = read_array(value)

            np.testing.assert_array_equal(got, array, strict=False)
            assert got.shape == array.shape
            assert got.dtype == array.dtype.newbyteorder("=")
            assert got.dtype.isnative
            assert to_float32(got).tolist() == array.astype(np.float32).tolist()


def test_arrays_tensors_and_lists_are_taken_as_they_are():
    rows = np.empty(2, dtype=object)  # what a Parquet column of lists of lists gives
    rows[0], rows[1] = np.array([1.0, 2.0]), np.array([3.0, None])

    assert read_array(ARRAY[::-1, ::2]).tolist() == ARRAY[::-1, ::2].tolist()
    assert read_array(torch.tensor([1.5, 2.0], dtype=torch.bfloat16)).tolist() == [1.5, 2.0]
    assert read_array(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]
    assert read_array([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert read_array(3).shape == ()
    np.testing.assert_array_equal(read_array([1, None, 2.5]), [1.0, np.nan, 2.5])
    np.testing.assert_array_equal(read_array([[1, None], [2, 3]]), [[1.0, np.nan], [2.0, 3.0]])
    np.testing.assert_array_equal(read_array(rows), [[1.0, 2.0], [3.0, np.nan]])


def test_a_tensor_can_be_written_to_without_changing_the_array():
    array = ARRAY.copy()
    array.flags.writeable = False

    to_float32(array)[:] = 0

    np.testing.assert_array_equal(array, ARRAY)


def test_bfloat16_of_safetensors_is_read(tmp_path):
    values = torch.tensor([1.5, -2.0, 3e38, 1e-30]).bfloat16()
    save_file({"x": values}, tmp_path / "a.safetensors")

    for value in both(tmp_path / "a.safetensors"):
        torch.testing.assert_close(to_float32(read_array(value)), values.float(), rtol=0, atol=0)


def test_a_key_chooses_among_several(tmp_path):
    np.savez(tmp_path / "a.npz", left=ARRAY, right=-ARRAY)
    save_file({"left": torch.from_numpy(ARRAY), "right": torch.from_numpy(-ARRAY)}, tmp_path / "a.safetensors")

    for path in (tmp_path / "a.npz", tmp_path / "a.safetensors"):
        for value in both(path):
            np.testing.assert_array_equal(read_array(value, key="right"), -ARRAY)
            with pytest.raises(ValueError, match=r"holds 2 arrays \['left', 'right'\], and no key was given.*key="):
                read_array(value)
            with pytest.raises(ValueError, match=r"no array 'rihgt' is among them.*Did you mean 'right'"):
                read_array(value, key="rihgt")


@pytest.mark.parametrize("steps", [slice(0, 3), slice(2, 5), slice(5, 99), slice(9, 99), slice(None, None, 2)])
def test_some_steps_are_read_and_all_are_counted(tmp_path, steps):
    np.savez(tmp_path / "a.npz", x=ARRAY)
    save_file({"x": torch.from_numpy(ARRAY)}, tmp_path / "a.safetensors")
    fortran = npy(tmp_path, np.asfortranarray(ARRAY), "f.npy")

    for source in (npy(tmp_path, ARRAY), fortran, tmp_path / "a.npz", tmp_path / "a.safetensors", ARRAY):
        got, length = read_steps(source, steps)

        np.testing.assert_array_equal(got, ARRAY[steps])
        assert length == 7


def test_only_the_steps_that_are_read_count_for_the_limit(tmp_path):
    path = npy(tmp_path, ARRAY)

    assert len(read_steps(path, slice(1, 3), max_bytes=24)[0]) == 2
    with pytest.raises(ValueError, match=r"The array takes 36 bytes\. Expected at most 24"):
        read_steps(path, slice(1, 4), max_bytes=24)


def test_csv_holds_numbers_with_or_without_a_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbftime,"x"\r\n1,2\r\n,3.5\r\n\r\n4, \r\n"5",""\r\n1e3,-2')
    expected = [[1, 2], [np.nan, 3.5], [4, np.nan], [5, np.nan], [1000, -2]]

    for value in both(path):
        np.testing.assert_array_equal(read_array(value), expected)
        np.testing.assert_array_equal(read_array(value, key="x"), [row[1] for row in expected])
    path.write_text("1,2\n3,4\n")
    np.testing.assert_array_equal(read_array(path), [[1, 2], [3, 4]])


def test_parquet_holds_columns_of_numbers_or_one_of_lists(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "a.parquet"

    pandas.DataFrame({"a": [1.0, None, 2.0], "b": [True, False, True], "c": [1, 2, 3]}).to_parquet(path)
    for value in both(path):
        np.testing.assert_array_equal(read_array(value), [[1, 1, 1], [np.nan, 0, 2], [2, 1, 3]])
        np.testing.assert_array_equal(read_array(value, key="c"), [1, 2, 3])
    pandas.DataFrame({"a": list(ARRAY)}).to_parquet(path)
    for value in both(path):
        np.testing.assert_array_equal(read_array(value), ARRAY)

    pandas.DataFrame({"a": [[1.0], [1.0, 2.0]]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"column 'a' has lists of lengths \['1', '2'\]\. Expected one length"):
        read_array(path)
    pandas.DataFrame({"a": ["x"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"column 'a' is of type .*string\. Expected numbers"):
        read_array(path)
    pandas.DataFrame({"a": [[1.0]], "b": [1.0]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"columns \['a', 'b'\], and lists in some.*Say which with key="):
        read_array(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"not a Parquet file that can be read.*Copy it again"):
        read_array(path)


def test_a_pickle_never_runs(tmp_path):
    canary = tmp_path / "canary"
    payload = pickle.dumps(Canary(canary))
    for ending in ("pt", "pth", "pkl", "pickle", "ckpt", "joblib", "bin"):
        (tmp_path / f"a.{ending}").write_bytes(payload)
        with pytest.raises(ValueError, match=rf"A \.{ending} file is a pickle.*Expected \.npy.*Convert it"):
            read_array(tmp_path / f"a.{ending}")
    for ending in ("npy", "npz", "safetensors", "csv", "parquet"):  # renamed
        (tmp_path / f"a.{ending}").write_bytes(payload)
        for value in both(tmp_path / f"a.{ending}"):
            with pytest.raises(ValueError, match=r"The file is a pickle"):
                read_array(value)
    objects = np.empty(1, dtype=object)
    objects[0] = Canary(canary)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=objects, allow_pickle=True)
    torch.save({"x": torch.ones(2)}, tmp_path / "torch.npz")
    for value in (*both(tmp_path / "o.npy"), tmp_path / "o.npz"):
        with pytest.raises(ValueError, match=r"Python objects, which are a pickle.*Convert it|2 arrays"):
            read_array(value, key="x" if value == tmp_path / "o.npz" else None)
    for value in both(tmp_path / "torch.npz"):
        with pytest.raises(ValueError, match=r"a zip with a pickle in it, as torch.save writes"):
            read_array(value)

    assert not canary.exists()
    pickle.loads(payload)
    assert canary.exists()  # the canary sings


def test_what_is_too_large_is_refused_by_its_header(tmp_path):
    zeros = np.zeros((1000, 1000), dtype=np.float32)
    np.savez_compressed(tmp_path / "a.npz", x=zeros)
    save_file({"x": torch.from_numpy(zeros)}, tmp_path / "a.safetensors")

    for path in (npy(tmp_path, zeros), tmp_path / "a.npz", tmp_path / "a.safetensors"):
        for value in both(path):
            with pytest.raises(ValueError, match=r"takes 4000\d\d\d bytes\. Expected at most 1000\. .*raise max_bytes"):
                read_array(value, max_bytes=1000)
            assert read_array(value, max_bytes=None).shape == (1000, 1000)
    (tmp_path / "a.csv").write_text("1,\n" * 100)
    with pytest.raises(ValueError, match=r"takes 1200 bytes\. Expected at most 1000"):
        read_array(tmp_path / "a.csv", max_bytes=1000)


def test_a_parquet_bomb_is_refused_by_its_footer(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(arrow.table({"x": arrow.array(np.zeros(10**6))}), tmp_path / "a.parquet")

    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    with pytest.raises(ValueError, match=r"takes 8000000 bytes\. Expected at most 1000000\."):
        read_array(tmp_path / "a.parquet", max_bytes=10**6)


def test_lying_and_broken_headers_are_errors(tmp_path):
    def refuses(value, message):
        with pytest.raises(ValueError, match=message):
            read_array(value)

    lies = r"its header says shape \(.*\) of float32, \d+ bytes, but 4 follow\. Expected a whole file"
    for shape in ("(4000000000,)", "(2,)", "(0,)", "(1000000000000, 0)"):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
        for value in both(npy_with_header(tmp_path, header, b"\0" * 4)):
            refuses(value, lies)
    refuses(npy_with_header(tmp_path, "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "its header is")
    refuses(npy_with_header(tmp_path, "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000000, 0)}"), "s")
    refuses(npy_with_header(tmp_path, "__import__('os')"), r"not an npy file that can be read")
    refuses(npy_with_header(tmp_path, "(" * 110), r"not an npy file that can be read")
    for descr in ("<c8", "<U3", "|S0", "<M8[D]", "|V8"):
        size = b"\0" * np.dtype(descr).itemsize
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,)}}"
        refuses(
            npy_with_header(tmp_path, header, size), r"The array is of type .*Expected booleans, integers or floats"
        )
    refuses(
        npy_with_header(tmp_path, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"), "its header is"
    )

    whole = npy(tmp_path, ARRAY).read_bytes()
    for length in (0, 3, 8, 60, len(whole) - 1):
        (tmp_path / "a.npy").write_bytes(whole[:length])
        refuses(tmp_path / "a.npy", r"not an (npy|array) file that can be read.*Copy it again")
    refuses(whole + b"\0", r"but 85 follow")


def test_a_broken_npz_is_an_error(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=ARRAY)
    whole = (tmp_path / "a.npz").read_bytes()
    for length in (2, 40, len(whole) - 30):
        with pytest.raises(ValueError, match=r"not an \.npz file that can be read, or it breaks off.*Write it again"):
            read_array(whole[:length])
    at = whole.index(b"x.npy") + 30
    with pytest.raises(ValueError, match=r"not an \.npz file that can be read"):
        read_array(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])

    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy(tmp_path, np.zeros(10**6)).read_bytes())
    with pytest.raises(ValueError, match=r"packed in a way that numpy does not use"):
        read_array(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        for i in range(10_001):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(ValueError, match=r"holds 10001 arrays or more\. Expected at most 10000"):
        read_array(tmp_path / "c.npz", key="0")


SAFETENSORS = {
    "a header of gigabytes": (struct.pack("<Q", 2**40) + b"{}", r"its header would take \d+ bytes"),
    "no header": (b"\0" * 5, r"its header would take"),
    "no JSON": (struct.pack("<Q", 2) + b"{{", r"its header is no JSON object"),
    "a list": (struct.pack("<Q", 2) + b"[]", r"its header is no JSON object"),
    "deep nesting": (struct.pack("<Q", 50_000) + b"[" * 50_000, r"its header is no JSON object"),
}
ENTRIES = {
    "more than there is": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "another shape": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]},
    "a huge shape": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]},
    "a negative offset": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
    "an unordered offset": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
    "no offsets": {"dtype": "F32", "shape": [1]},
    "text": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
    "no entry": 3,
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_broken_safetensors_are_errors(tmp_path, name):
    data, message = SAFETENSORS[name]
    (tmp_path / "a.safetensors").write_bytes(data)

    with pytest.raises(ValueError, match=message):
        read_array(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ENTRIES)
def test_lying_safetensors_are_errors(tmp_path, name):
    path = safetensors_with_header(tmp_path, {"__metadata__": {}, "x": ENTRIES[name]}, b"\0" * 4)

    for value in both(path):
        with pytest.raises(ValueError, match=r"file that can be read: its header.*Copy it again"):
            read_array(value)


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    save_file({"x": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")

    with pytest.raises(ValueError, match=r"of type F8_E4M3\. Expected one of .*'BF16'.*Save it as F32"):
        read_array(tmp_path / "a.safetensors")


CELLS = {
    "unequal lists": ([[1.0], [1.0, 2.0]], r"holds a list that is no array of numbers.*nested to one depth and width"),
    "a mapping": ({"a": 1}, r"holds a dict that is no array"),
    "nothing": (None, r"holds a NoneType that is no array"),
    "text in a list": (["1"], r"of type <U1\. Expected booleans"),
    "text beside null": ([None, "1"], r"holds a list that is no array"),
    "dates": (np.array(["2020-01-01"], dtype="M8[D]"), r"of type datetime64"),
    "complex": (torch.ones(2, dtype=torch.complex64), r"of type complex64"),
    "columns with names": (np.zeros(1, dtype=[("a", "f4")]), r"of type \[\('a'"),
    "an unknown ending": ("a.mat", r"has the ending '\.mat'\. Expected \.npy, \.npz, .* or \.parquet\. Convert it"),
    "a missing file": ("a.npy", r"There is no file 'a\.npy'\. Expected an array file\. Check the path"),
    "no bytes": (b"", r"has no rows\. Expected at least one"),
    "a header alone": (b"a,b\n", r"has no rows\. Expected at least one"),
    "an image": (b"\xff\xd8\xff\xe0\0\0\0\0\0", r"neither an array file that is known nor UTF-8 text"),
    "text in a table": (b"1,2\n3,4\n\n5,six\n", r"Line 4 of the table of numbers holds 'six'\. Expected numbers"),
    "semicolons": (b"a;b\n1,5;2\n", r"Line 2 of the table of numbers holds '5;2'\. .*separated by commas"),
    "a short row": (b"1,2\n3\n", r"Line 2 of the table of numbers has 1 cells\. Expected 2"),
    "an unknown column": ((b"a,b\n1,2\n", "c"), r"holds 2 columns \['a', 'b'\], and no column 'c' is among them"),
    "a column without header": ((b"1,2\n", "c"), r"holds 0 columns"),
}


@pytest.mark.parametrize("name", CELLS)
def test_says_what_is_wrong(name):
    value, message = CELLS[name]
    value, key = value if isinstance(value, tuple) else (value, None)

    with pytest.raises(ValueError, match=message):
        read_array(value, key=key)


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "csv", "parquet"])
def test_any_damage_is_an_error_of_ours(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, ARRAY)
    elif kind == "npz":
        np.savez_compressed(path, x=ARRAY)
    elif kind == "safetensors":
        save_file({"x": torch.from_numpy(ARRAY)}, path)
    elif kind == "csv":
        np.savetxt(path, ARRAY, delimiter=",")
    else:
        pytest.importorskip("pandas").DataFrame(ARRAY, columns=list("abc")).to_parquet(path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)

    for _ in range(200):
        broken = bytearray(whole)
        for at in random.integers(0, len(whole), 3):
            broken[at] = random.integers(0, 256)
        path.write_bytes(broken[: random.integers(len(whole) // 2, len(whole) + 1)])
        try:
            array = read_array(path, max_bytes=10**6)
            assert array.nbytes <= 10**6
        except ValueError as error:  # nothing else may come out
            assert "Expected" in str(error)
