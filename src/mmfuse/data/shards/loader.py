"""Batches of shards, in an order that is a function of the seed and the epoch, and that can be taken up anywhere."""

import os
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfuse._checks import require_known_names, require_positive, require_whole
from mmfuse.contracts import Batch
from mmfuse.data.errors import DataError
from mmfuse.data.loading.chosen import transforms_of
from mmfuse.data.loading.loader import Loader
from mmfuse.data.loading.mixup import Mixup, require_training
from mmfuse.data.shards.cells import Columns, names_of, require_column
from mmfuse.data.shards.dataset import ShardDataset, columns_of
from mmfuse.data.shards.index import find_shards, read_shards
from mmfuse.data.shards.order import Order
from mmfuse.data.transforms import Transform


def load_shards(  # noqa: PLR0913  flat keywords, as of load_batches
    shards: str | Path | Sequence[str | Path],
    model: Any,
    *,
    columns: Columns | None = None,
    train: bool = False,
    batch_size: int = 32,
    workers: int = 0,
    seed: int = 0,
    buffer: int = 1000,
    on_error: str = "raise",
    max_errors: float | None = None,
    check_finite: bool = True,
    transforms: Mapping[str, Transform] | None = None,
    mix: Mixup | None = None,
    timeout: float = 300.0,
    rank: int | None = None,
    world: int | None = None,
    max_bytes: int = 2**28,
) -> "ShardLoader":
    """Batches of tar shards in the format of WebDataset, read as a stream: for data too large for a table.

    Members ``000123.jpg``, ``000123.txt`` and ``000123.json`` are one sample. A modality or label is read from the
    member of its name (``000123.image.jpg`` for ``image``), else from the member that usually has it (``jpg`` or
    ``png`` for ``image``, ``wav`` for ``audio``, ``txt`` for ``text``, ``cls`` for ``label``), else from the value of
    its name in the JSON. What a sample lacks is absent.

    Every epoch has each sample once, over all ranks, and every rank makes as many steps. (Only in training with
    ``batch_size=1``, fewer samples than there are ranks are left out.) Batches do not depend on ``workers``.

    Args:
        shards: a folder, a pattern such as ``train-*.tar`` or ``train-{000000..000099}.tar``, or a list of paths.
        model: a ``MultimodalModel`` (or anything with ``encoders`` and ``tasks``).
        columns: names that differ: ``{"image": "left.png", "emotion": "cls", "audio": None}``; several are tried in
            turn, and None says that there is none.
        train: shuffle shards, and samples in the buffer, in every epoch; augment where the transforms do.
        batch_size: samples in a batch on each rank; the last ones may be smaller.
        workers: processes that read beside the main one. Each skips what the others read by its headers.
        seed: of order, augmentation and mixing.
        buffer: samples that are shuffled together: as many are in memory, as they are in the shard. Choose several
            times the samples of a shard if those were not shuffled when they were written.
        on_error: what a member that cannot be read does, as in ``load_batches``. A damaged tar always raises.
        max_errors: largest share of samples with such a member; None: 1 % with ``"skip"``, half with ``"absent"``;
            1.0 is no limit.
        check_finite: a NaN or an infinity in an input cannot be read either.
        transforms: instead of the encoders' own, for some modalities.
        mix: mixes the samples of each batch; only to train.
        timeout: longest time to wait for a batch of the workers, in seconds.
        rank: which of several processes this is; from ``torch.distributed``, or the environment, if None.
        world: how many processes there are, likewise.
        max_bytes: a larger member cannot be read.
    """
    require_whole("load_shards", batch_size=batch_size, workers=workers, buffer=buffer)
    require_positive("load_shards", batch_size=batch_size, buffer=buffer, max_bytes=max_bytes)
    require_training("load_shards", mix, train=train)
    chosen = transforms_of("load_shards", model, transforms, train=train)
    inputs = [column for name, transform in chosen.items() for column in columns_of(name, transform)]
    require_known_names("load_shards(columns=...)", columns or {}, [*inputs, *model.tasks], "column")
    names = names_of(columns or {}, [*inputs, *model.tasks])

    found = read_shards(find_shards(shards))
    if not sum(shard.samples for shard in found):
        raise DataError(f"The {len(found)} shards have no sample. Expected one or more. Are they the right files?")
    known = {column for shard in found for column in shard.columns}
    for column in [*inputs, *(model.tasks if train else ())]:
        require_column(column, names[column], known)

    rank, world = _ranks(rank, world)
    counts = tuple(shard.samples for shard in found)
    order = Order(counts, batch_size, train, buffer, seed, rank, world)
    _tell(order, sum(shard.passed_over for shard in found))
    errors = {"on_error": on_error, "max_errors": max_errors, "check_finite": check_finite}
    dataset = ShardDataset(found, names, order, chosen, model.tasks, max_bytes=max_bytes, errors=errors)
    return ShardLoader(dataset, workers=workers, mix=mix, timeout=timeout)


class ShardLoader(Loader):
    """Iterates over the batches of shards; each pass is the next epoch. It can be taken up after any batch.

    ``state_dict()`` says how many batches of which epoch were handed out; with ``load_state_dict`` the next pass of a
    new loader begins with the batch after them, whatever its ``workers``. Nothing has to be decoded for it.
    """

    dataset: ShardDataset

    def __init__(
        self, dataset: ShardDataset, *, workers: int = 0, mix: Mixup | None = None, timeout: float = 300.0
    ) -> None:
        order = dataset.order
        self._next = self._now = (0, 0)  # epoch and batch: of the next pass, and after what was handed out
        super().__init__(
            dataset,
            batch_size=order.batch_size,
            shuffle=order.shuffle,
            workers=workers,
            seed=order.seed,
            mix=mix,
            timeout=timeout,
        )
        self._order: Any = _Rows(order)

    @property
    def epoch(self) -> int:
        """The epoch of the next pass. Setting another one begins it from its first batch."""
        return self._next[0]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if epoch != self._next[0]:
            self._next = self._now = (epoch, 0)

    def __iter__(self) -> Iterator[Batch]:
        epoch, self._order.first = self._next
        self._next = (epoch + 1, 0)
        for number, batch in self._batches(epoch, self._order.first):
            self._now = (epoch, number + 1) if number + 1 < len(self) else (epoch + 1, 0)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the order, and what the order is made of. The same on every rank after the same steps."""
        return {"epoch": self._now[0], "batches": self._now[1], "order": self._description()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next pass where another loader was.

        Raises:
            ValueError: its batches were others, and it was in the middle of an epoch.
        """
        epoch, batches, now = int(state["epoch"]), int(state["batches"]), self._description()
        began = state["order"]
        if batches and (
            other := [f"{name}={now[name]} for {began.get(name)}" for name in now if now[name] != began.get(name)]
        ):
            raise ValueError(
                f"load_shards cannot go on in the middle of epoch {epoch}: it got {', '.join(other)}. Expected the "
                "same shards and settings as then. Give them, or begin the next epoch: loader.epoch = "
                f"{epoch + 1}."
            )
        self._next = self._now = (epoch, batches)

    def _description(self) -> dict[str, Any]:
        order = self.dataset.order
        settings = {name: getattr(order, name) for name in ("batch_size", "shuffle", "buffer", "seed", "world")}
        return {**settings, "shards": len(order.counts), "counts": zlib.crc32(repr(order.counts).encode())}


class _Rows:
    """Yields ``(epoch, rows)`` of each batch, from the first one that is wanted."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.batch_size = order.batch_size
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return self.order.batches

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        epoch = self.epoch  # another pass may begin before this one ends
        return ((epoch, torch.tensor(rows)) for rows in self.order.rows(epoch, self.first))


def _ranks(rank: int | None, world: int | None) -> tuple[int, int]:
    if (rank is None) != (world is None):
        raise ValueError(f"load_shards got rank={rank} and world={world}. Expected both or neither. Give both.")
    if rank is not None and world is not None:
        return rank, world
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _tell(order: Order, passed_over: int) -> None:
    if passed_over:
        warnings.warn(
            f"{passed_over} members of the shards have no key or no extension, such as README, and were passed over.",
            stacklevel=3,
        )
    if order.left_out:
        warnings.warn(
            f"{order.left_out} of {order.total} samples are left out of each epoch, others each time, so that "
            f"{order.world} ranks make as many steps. With batch_size=2 or more none is.",
            stacklevel=3,
        )
