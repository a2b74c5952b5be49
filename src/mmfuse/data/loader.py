"""Batches of a table, in an order that is a function of the seed and the epoch."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from mmfuse._checks import require_known_names, require_positive
from mmfuse.contracts import Batch
from mmfuse.data.collate import collate
from mmfuse.data.dataset import Sample, TableDataset
from mmfuse.data.errors import DataError
from mmfuse.data.table import Table
from mmfuse.data.transforms import Transform


def load_batches(  # noqa: PLR0913  flat keywords, as of torch's DataLoader
    table: Table,
    model: Any,
    *,
    train: bool = False,
    batch_size: int = 32,
    workers: int = 0,
    seed: int = 0,
    on_error: str = "raise",
    cache: bool = False,
    transforms: Mapping[str, Transform] | None = None,
) -> "Loader":
    """Batches of a table for a model: its encoders say how to read, its tasks what the labels mean.

    Args:
        table: from :func:`read_table`. A modality or label is read from the column of its name.
        model: a ``MultimodalModel`` (or anything with ``encoders`` and ``tasks``).
        train: shuffle in every epoch, augment where the transforms do, and ask for a column for every task.
        batch_size: samples in a batch; the last one may be smaller.
        workers: processes that read beside the main one.
        seed: of order and augmentation.
        on_error: ``"raise"``, or ``"absent"``: an unreadable file makes its modality absent, and is counted.
        cache: keep what was read in memory, for tables whose rows share files.
        transforms: instead of the encoders' own, for some modalities.
    """
    transforms = dict(transforms or {})
    require_known_names("load_batches(transforms=...)", transforms, model.encoders, "modality")
    chosen = {name: transforms.get(name) or encoder.transform(train) for name, encoder in model.encoders.items()}
    if train:
        for name in model.tasks:
            if all(cell is None for cell in table.column(name)):
                raise DataError(f"{table.name}: column {name!r} has no label. Expected at least one to train on.")
    dataset = TableDataset(table, chosen, model.tasks, on_error=on_error, cache=cache, seed=seed)
    return Loader(dataset, model.tasks, batch_size=batch_size, shuffle=train, workers=workers, seed=seed)


class Loader:
    """Iterates over the batches of a dataset; each pass is the next epoch, with an order of its own if shuffled.

    ``epoch`` is the epoch of the next pass; set it to go on from there.
    """

    def __init__(
        self,
        dataset: TableDataset,
        tasks: Mapping[str, Any] | nn.ModuleDict,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        require_positive("Loader", batch_size=batch_size)
        self.dataset = dataset
        self.shuffled = shuffle
        self.epoch = 0
        blanks: dict[str, Tensor] = {name: task.blank() for name, task in tasks.items()}  # type: ignore[operator]
        self._order = _Order(len(dataset), shuffle=shuffle, seed=seed)
        self._loader = DataLoader(
            _ErrorsAsSamples(dataset),
            batch_size=batch_size,
            sampler=self._order,
            num_workers=workers,
            collate_fn=_Collate(dataset.transforms, blanks),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(seed),  # iter() would draw from the global one
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self._order.epoch = self.epoch
        self.epoch += 1
        for batch in self._loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


def tell_dropped(batches: Any, stacklevel: int) -> None:
    """Warn of what a loader has made absent because it could not be read; other batches have nothing to tell."""
    dropped = getattr(getattr(batches, "dataset", None), "dropped", [])
    if dropped:
        more = f" and {len(dropped) - 5} more" if len(dropped) > 5 else ""
        warnings.warn(
            f"{len(dropped)} cells could not be read and counted as absent: {'; '.join(dropped[:5])}{more}.",
            stacklevel=stacklevel,
        )


class _Order(Sampler):
    """Yields ``(epoch, row)``: what is random in a sample depends on both."""

    def __init__(self, rows: int, *, shuffle: bool, seed: int) -> None:
        self.rows = rows
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch  # another pass may begin before this one ends
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.rows, generator=generator) if self.shuffle else torch.arange(self.rows)
        return ((epoch, row) for row in order.tolist())


class _ErrorsAsSamples(Dataset):
    """Hands a DataError on as a value: raised in a worker, its message would arrive inside a traceback."""

    def __init__(self, dataset: TableDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample | DataError:
        try:
            return self.dataset[key]
        except DataError as error:
            return error


class _Collate:
    """``collate`` with its transforms and blanks, as the workers call it."""

    def __init__(self, transforms: Mapping[str, Transform], blanks: Mapping[str, Tensor]) -> None:
        self.transforms = transforms
        self.blanks = blanks

    def __call__(self, samples: Sequence[Sample | DataError]) -> Batch | DataError:
        whole = []
        for sample in samples:
            if isinstance(sample, DataError):
                return sample
            whole.append(sample)
        return collate(whole, self.transforms, self.blanks)
