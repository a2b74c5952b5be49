"""What is to be looked at: modalities and labels, from a model or from names of kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmfuse._checks import nearest
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms import TRANSFORMS, Transform

FILES = ("image", "audio", "series", "video", "feature")  # a text cell names a file
CELLS = ("text", "number", "category")
LABELS = ("classification", "multilabel", "regression")
KINDS = {f"{kind.capitalize()}Transform": kind for kind in (*FILES, "text")} | {"TabularTransform": "table"}


@dataclass(frozen=True)
class Modality:
    """One modality: what it is, and in which columns it stands."""

    name: str
    kind: str  # one of FILES, "text", "table" (numbers and categories), or "other"
    columns: tuple[str, ...]
    transform: Any = None  # None: only headers are read, and what finds damage
    numbers: tuple[str, ...] = ()
    categories: Mapping[str, Sequence[str] | None] = field(default_factory=dict)  # those that are known, if any are
    whole: bool = False  # sounds and videos are decoded to their end

    @property
    def takes_path(self) -> bool:
        """Whether a text cell is the path of a file."""
        return self.kind in FILES if self.transform is None else bool(self.transform.takes_path)


@dataclass(frozen=True)
class Label:
    """One task: what its labels are."""

    name: str
    kind: str  # one of LABELS, or "other"
    task: Any = None


def make_plan(table: Table, how: Any) -> tuple[list[Modality], list[Label]]:
    """The modalities and the labels of a table.

    Args:
        table: has their columns.
        how: a model, or a mapping from the name of a modality or task to its kind.

    Raises:
        TypeError, ValueError: it is neither, or says what is not known.
        DataError: the table lacks a column.
    """
    if hasattr(how, "encoders") and hasattr(how, "tasks"):
        modalities = [_from_transform(name, encoder.transform()) for name, encoder in how.encoders.items()]
        labels = [_from_task(name, task) for name, task in how.tasks.items()]
        named: list[str] = []  # a table may lack the labels of a task
    elif isinstance(how, Mapping) and how:
        found = [_from_kind(name, kind) for name, kind in how.items()]
        modalities = [part for part in found if isinstance(part, Modality)]
        labels = [part for part in found if isinstance(part, Label)]
        named = [label.name for label in labels]
    else:
        raise TypeError(
            f"inspect got a {type(how).__name__}. Expected a model, or what stands in each column. "
            "Give {'image': 'image', 'note': 'text', 'label': 'classification'} for example."
        )
    for column in [column for modality in modalities for column in modality.columns] + named:
        table.require_column(column)
    return modalities, labels


def _from_kind(name: str, kind: Any) -> Modality | Label:
    if isinstance(kind, str) and kind in LABELS:
        return Label(name, kind)
    if isinstance(kind, str) and kind in ("number", "category"):
        return _tabular(name, {name: kind})
    if isinstance(kind, str) and kind in (*FILES, "text"):
        return Modality(name, kind, (name,))
    if isinstance(kind, Mapping) and kind and set(kind.values()) <= {"number", "category"}:
        return _tabular(name, kind)
    if hasattr(kind, "encode") and hasattr(kind, "blank"):
        return _from_task(name, kind)
    if isinstance(kind, Transform):
        return _from_transform(name, kind)
    known = [*FILES, *CELLS, *LABELS]
    raise ValueError(
        f"inspect got {kind!r:.80} for {name!r}. Expected one of {known}, a mapping from columns to 'number' or "
        f"'category', a transform or a task.{nearest(kind, known) if isinstance(kind, str) else ''}"
    )


def _tabular(name: str, kinds: Mapping[str, str]) -> Modality:
    numbers = tuple(column for column, kind in kinds.items() if kind == "number")
    categories = {column: None for column, kind in kinds.items() if kind == "category"}
    return Modality(name, "table", tuple(kinds), numbers=numbers, categories=categories)


def _from_transform(name: str, transform: Any) -> Modality:
    kind = KINDS.get(type(transform).__name__, "other")
    kind = kind if isinstance(transform, tuple(TRANSFORMS.values())) else "other"
    columns = getattr(transform, "columns", None) or (name,)
    if kind != "table":
        return Modality(name, kind, tuple(columns), transform)
    return Modality(name, kind, tuple(columns), None, tuple(transform.numbers), transform.categories)


def _from_task(name: str, task: Any) -> Label:
    if hasattr(task, "classes"):
        several = hasattr(task, "separator") or hasattr(getattr(task, "task", None), "separator")
        return Label(name, "multilabel" if several else "classification", task)
    return Label(name, "regression" if {"mae", "rmse"} & set(getattr(task, "metric_names", ())) else "other", task)
