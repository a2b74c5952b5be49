"""A tar in the manner of WebDataset, read as a stream: members with one key follow each other and are one sample.

Nothing is ever extracted: names are only names, and contents stay in memory. The standard library reads the headers;
what it passes over in silence (an end that is missing, a header that is none) is an error here.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mmfuse.data.errors import DataError

MOST_HEADER_BYTES = 1 << 20  # a header with a long name has a few hundred
MOST_NAME = 4096
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"\x28\xb5": "unzstd"}
BROKEN = (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError, EOFError, LookupError)
META = re.compile(r"__[^/]*__($|/)")  # names that WebDataset keeps for itself


@dataclass(frozen=True)
class Entry:
    """One sample, by its headers: its key, and each member by what follows the first dot of its name."""

    key: str
    offset: int  # where its first header begins
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)


class TarReader:
    """The samples of one shard, in their order. Headers are read one by one, contents when asked for.

    Args:
        path: an uncompressed tar.
        offset: the byte where a sample begins that is to be the first; all of it from 0.

    Raises:
        DataError: it is missing, compressed, breaks off, or has a member that is not a plain file below its root.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.passed_over = 0  # members without key or extension, such as README
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(
                f"The shard {path.name} cannot be opened: {error.strerror}. Expected a tar. Check the path {path}."
            ) from None
        try:
            self._require_plain()
            self._file.seek(offset)
            self._tar = tarfile.open(fileobj=_Bounded(self._file), mode="r:")  # noqa: SIM115
        except BROKEN as error:
            self.close()
            raise error if isinstance(error, DataError) else self._broken(error) from None

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def entries(self) -> Iterator[Entry]:
        """Each sample once; the members of one key must follow each other."""
        entry: Entry | None = None
        for header in self._headers():
            if (parts := split_name(header.name)) is None:
                self.passed_over += not META.match(header.name)
                continue
            key, kind = parts
            if entry is None or key != entry.key:
                if entry is not None:
                    yield entry
                entry = Entry(key, header.offset)
            if kind in entry.members:
                raise DataError(
                    f"The shard {self.path.name} has two members {key!r}.{kind}. Expected one of each kind in a "
                    "sample. Give every sample a key of its own, and write the shard again."
                )
            entry.members[kind] = header
        if entry is not None:
            yield entry

    def read(self, header: tarfile.TarInfo, max_bytes: int) -> bytes:
        """The content of one member.

        Raises:
            ValueError: it is larger than ``max_bytes``.
            DataError: the shard breaks off in it.
        """
        if header.size > max_bytes:
            raise ValueError(
                f"It has {header.size} bytes. Expected at most {max_bytes}. "
                "Make it smaller, or trust it with a larger max_bytes."
            )
        self._file.seek(header.offset_data)
        content = self._file.read(header.size)
        if len(content) < header.size:
            raise self._broken(f"{header.name!r} has {len(content)} of {header.size} bytes")
        return content

    def _headers(self) -> Iterator[tarfile.TarInfo]:
        """Regular members, checked. The list that tarfile keeps is emptied: a shard may have millions."""
        end = 0
        while (header := self._next()) is not None:
            self._tar.members.clear()  # type: ignore[attr-defined]
            if header.offset < end or header.size < 0:
                raise self._broken(f"the header of {header.name[:80]!r} leads back")
            end = header.offset + 512
            self._require_harmless(header)
            if not header.isdir():
                yield header
        self._require_end()

    def _next(self) -> tarfile.TarInfo | None:
        try:
            return self._tar.next()
        except BROKEN as error:
            raise self._broken(error) from None

    def _require_plain(self) -> None:
        start = self._file.read(512)
        if not start:
            raise DataError(f"The shard {self.path.name} has 0 bytes. Expected a tar. Copy or write it again.")
        if tool := COMPRESSED.get(start[:2]):
            raise DataError(
                f"The shard {self.path.name} is compressed. Expected a plain tar: pictures and sounds are compressed "
                f"already, and only a plain tar can be resumed within. Unpack it once with {tool}."
            )

    def _require_harmless(self, header: tarfile.TarInfo) -> None:
        name = header.name
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or "\0" in name or name[1:2] == ":":
            raise self._refused(header, "has a name that leads out of it", "relative names without '..'")
        if len(name) > MOST_NAME:
            raise self._refused(header, f"has a name of {len(name)} letters", f"at most {MOST_NAME}")
        if not (header.isdir() or header.isreg()) or header.issparse():
            raise self._refused(header, f"is {_kind(header)}", "plain files, the only members that a sample has")

    def _refused(self, header: tarfile.TarInfo, what: str, expected: str) -> DataError:
        return DataError(
            f"The shard {self.path.name} is refused: its member {header.name[:80]!r} {what}. Expected {expected}. "
            "Write the shard again from files that you trust."
        )

    def _require_end(self) -> None:
        """Blocks of zeros end a tar, and nothing follows. tarfile would take any damage for the end."""
        self._file.seek(self._tar.offset)
        rest = self._file.read(MOST_HEADER_BYTES)
        if len(rest) < 512:
            raise self._broken("its end is missing")
        if rest.strip(b"\0") or self._file.read(1):
            raise self._broken(f"what stands at byte {self._tar.offset} is no member")

    def _broken(self, error: object) -> DataError:
        return DataError(
            f"The shard {self.path.name} is damaged or breaks off: {error}. Expected a whole tar. "
            "Copy, download or write it again."
        )


class _Bounded:
    """What tarfile reads headers from. A header that says it is very long would fill the memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.name, self.mode = "", "rb"

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension as WebDataset has them: at the first dot of the last part; None where there is no such.

    Folders belong to the key; extensions are in lower case: ``a/1.left.JPG`` is ``("a/1", "left.jpg")``.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, kind = base.partition(".")
    if META.match(name) or not (stem and dot and kind):
        return None
    return folder + slash + stem, kind.lower()


def _kind(header: tarfile.TarInfo) -> str:
    if header.issym() or header.islnk():
        return f"a link to {header.linkname[:80]!r}"
    if header.isdev():
        return "a device or pipe"
    return "a file with holes" if header.issparse() else f"of kind {header.type!r}"
