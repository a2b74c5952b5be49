"""The cells of one sample of a shard: which member is which column, and what its bytes mean."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmfuse._checks import nearest
from mmfuse.data.errors import DataError

Columns = Mapping[str, str | Sequence[str] | None]

# What people call the members of these modalities, besides by the name of the modality.
USUAL = {
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"),
    "audio": ("wav", "flac", "mp3", "ogg"),
    "speech": ("wav", "flac", "mp3", "ogg"),
    "video": ("mp4", "webm", "mkv", "avi", "mov"),
    "text": ("txt", "text"),
    "label": ("cls",),
    "class": ("cls",),
}
TEXTS = {"txt", "text", "transcript", "cls", "cls2", "index", "inx", "id"}


@dataclass(frozen=True)
class Encoded:
    """One sample as the shard has it: what the shuffle buffer holds. An error stands for a member that is too large."""

    shard: str
    key: str
    members: Mapping[str, bytes | ValueError]

    def cell(self, names: Collection[str]) -> Any:
        """What the first of these names that the sample has says: text, bytes of a file, a JSON value, or None.

        A name is that of a member (all that follows the first dot, or a part of it up to another dot); if there is
        none, that of a value in the member ``json``.

        Raises:
            ValueError: the member is not what its extension says.
        """
        if (kind := first_member(names, self.members)) is not None:
            return _decode(kind, self._content(kind))
        fields = self._fields() if names and "json" in self.members else {}
        return next((_or_none(fields[name]) for name in names if name in fields), None)

    def _fields(self) -> Mapping[str, Any]:
        fields = _decode("json", self._content("json"))
        return fields if isinstance(fields, dict) else {}

    def _content(self, kind: str) -> bytes:
        content = self.members[kind]
        if isinstance(content, ValueError):
            raise content
        return content


def names_of(columns: Columns, wanted: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Under which names to look for each modality and task, in this order; none for what is said to be absent."""
    names: dict[str, tuple[str, ...]] = {}
    for column in wanted:
        given = columns.get(column, (column, *USUAL.get(column, ())))
        listed = () if given is None else (given,) if isinstance(given, str) else given
        names[column] = tuple(name.removeprefix(".") for name in listed)
    return names


def needed(names: Collection[str], members: Collection[str]) -> set[str]:
    """The members that have to be read for a column of these names."""
    if (kind := first_member(names, members)) is not None:
        return {kind}
    return {"json"} & set(members) if names else set()


def first_member(names: Iterable[str], members: Collection[str]) -> str | None:
    """The member of the first name that has one."""
    return next((kind for name in names if (kind := find_member(name, members)) is not None), None)


def find_member(name: str, members: Collection[str]) -> str | None:
    """The member of a name: ``jpg``, or for ``image`` the first in the alphabet that is like ``image.jpg``."""
    if name.lower() in members:
        return name.lower()
    return min((kind for kind in members if kind.startswith(f"{name.lower()}.")), default=None)


def json_names(content: bytes) -> list[str]:
    """The names in a JSON object; none if it is no object."""
    try:
        fields = _decode("json", content)
    except ValueError:
        return []
    return list(fields) if isinstance(fields, dict) else []


def require_column(column: str, names: Collection[str], known: Collection[str]) -> None:
    """Raise DataError unless some sample that was looked at has the column, or it is said to be absent."""
    if not names or any(find_member(name, known) is not None or name in known for name in names):
        return
    shown = sorted(known)[:20]
    raise DataError(
        f"The shards have no {column!r}: no member and no value in a JSON member is named {' or '.join(names)}. "
        f"Expected one of {shown}.{nearest(column, shown)} Say where it stands: "
        f"load_shards(..., columns={{{column!r}: 'its extension'}}), with None for it if there is none."
    )


def _decode(kind: str, content: bytes) -> Any:
    last = kind.rpartition(".")[2]
    if last not in TEXTS and last != "json":
        return content
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"It is not UTF-8 text ({error.reason}). Expected UTF-8. Write it so.") from None
    if last != "json":
        return _or_none(text.rstrip("\r\n"))
    try:
        return _or_none(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"It is not JSON: {error}. Expected one JSON value. Write the member again.") from None


def _or_none(value: Any) -> Any:
    """Empty cells as None: no text, NaN."""
    if isinstance(value, str) and not value.strip():
        return None
    return None if isinstance(value, float) and math.isnan(value) else value
