"""Which files the cells of a table may name, and that the others are never opened."""

import os
import subprocess
import sys

import pytest

from mmfuse.data import read_table
from mmfuse.data.tables.paths import safe_path

pytestmark = pytest.mark.plain


@pytest.fixture
def root(tmp_path):
    """A folder with files and links in it, and a secret beside it."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "images" / "cat.png").write_bytes(b"cat")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "inside.png").symlink_to(root / "images" / "cat.png")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe")
    return root


def test_files_of_the_folder_are_found_by_any_way_that_stays_inside(root):
    cat = root / "images" / "cat.png"

    for cell in ("images/cat.png", "images/../images/cat.png", "./images//cat.png", str(cat), "inside.png"):
        assert safe_path(root, cell).samefile(cat)


def test_a_folder_may_itself_be_reached_by_a_link(root, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(root)

    assert safe_path(link, "images/cat.png").samefile(root / "images" / "cat.png")
    assert safe_path(link, str(link / "images" / "cat.png")).samefile(root / "images" / "cat.png")


REFUSED = {
    "/etc/passwd": "'/etc/passwd' leads out of .* Expected a file in that folder. .* outside=True if you trust",
    "../secret.png": "'../secret.png' leads out of",
    "images/../../secret.png": "leads out of",
    "out.png": "'out.png' leads out of",
    "up/secret.png": "leads out of",
    "../missing.png": "leads out of",
    "file:///etc/passwd": "'file:///etc/passwd' is an address. Expected the path of a file. Download it first",
    "http://169.254.169.254/latest": "is an address. .* Download it first, for example with urllib.request.urlretrieve",
    "HTTPS://example.com/a.png": "is an address",
    "s3://bucket/a.png": "is an address",
    "file:/etc/passwd": "is an address",
    "\\\\host\\share\\a.png": "is a network path. Expected a file of this machine. Copy it here first",
    "//host/share/a.png": "is a network path",
    "images/cat.png\0.txt": "holds a NUL character. Expected the path of a file. Mend the cell",
    "x" * 4097: "xxx...' is 4097 letters long. Expected .* at most 255 letters a name. Is it the right column",
    "ä" * 200 + ".png": "is 204 letters long",
    "a/" * 2047 + "b.png": "letters long",
    "images": "is a folder. Expected a regular file. Name one file",
    ".": "is a folder",
    "pipe": "is a device, pipe or socket. Expected a regular file",
    "loop.png": "cannot be looked at: .*[Ss]ymbolic link",
    "images/cta.png": r"no such file \(paths are relative to .*\). Did you mean 'cat.png'",
    "image/cat.png": r"no such file, for there is no folder 'image' .*Did you mean 'images'",
    "images/cat.png/x": "no such file",
}


@pytest.mark.parametrize(("cell", "message"), REFUSED.items(), ids=[name[:20].replace("\0", "0") for name in REFUSED])
def test_what_is_no_file_of_the_folder_is_refused(root, cell, message):
    with pytest.raises(ValueError, match=message) as caught:
        safe_path(root, cell)

    assert len(str(caught.value).replace(str(root), "data")) < 400


@pytest.mark.parametrize("cell", [["a.png"], 3, b"a.png", None])
def test_a_cell_that_is_no_text_names_no_file(root, cell):
    with pytest.raises(ValueError, match="The cell is a .* Expected the path of one file. Choose one"):
        safe_path(root, cell)


def test_files_outside_are_found_only_where_the_table_allows_it(root, tmp_path):
    rows = [{"image": "../secret.png"}, {"image": str(tmp_path / "secret.png")}, {"image": "out.png"}]
    closed, open_ = read_table(rows, root=root), read_table(rows, root=root, outside=True)

    for cell in closed.column("image"):
        assert open_.take([0]).path(cell).read_bytes() == b"secret"
        with pytest.raises(ValueError, match="leads out of"):
            closed.path(cell)
    with pytest.raises(ValueError, match="is a device, pipe or socket"):
        open_.path("/dev/null")
    with pytest.raises(ValueError, match="is an address"):
        open_.path("file:///etc/passwd")


def test_nothing_that_is_refused_is_opened(root):
    cells = [cell for cell in REFUSED if "\0" not in cell]
    code = f"""
import os, sys
from pathlib import Path
from mmfuse.data.tables.paths import safe_path
opened, forbidden = [], {{"open", "os.open", "socket.connect", "subprocess.Popen"}}
sys.addaudithook(lambda event, args: opened.append((event, args)) if event in forbidden else None)
for cell in {cells!r}:
    try:
        safe_path(Path({str(root)!r}), cell)
    except ValueError:
        pass
print(opened)
open({str(root / "images" / "cat.png")!r})
print(len(opened))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["[]", "1"]  # the hook sees what is opened
