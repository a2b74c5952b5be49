"""Runs a frozen encoder over the cells of a table that are not in its cache yet."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from mmfuse.contracts import Features
from mmfuse.data.errors import DataError
from mmfuse.data.loading.dataset import TableDataset
from mmfuse.data.loading.passes import BatchOrder, Pass
from mmfuse.data.loading.report import Read
from mmfuse.data.loading.workers import Workers
from mmfuse.training.caching.shards import ShardWriter, Stored

Changed = Callable[[Sequence[int], Sequence[bytes]], list[int]]  # which rows no longer have the keys that they had


class Reading(NamedTuple):
    """How cells are read: so many together, by so many processes beside this one, each with so many seconds."""

    batch_size: int
    workers: int
    timeout: int | float


class Encoding:
    """One modality of a table, to be encoded.

    Args:
        name: of the modality.
        encoder: frozen, on its device.
        dataset: reads this modality alone.
        device: where the encoder is.
        tokens: keep tokens beside the pooled vectors.
        dtype: of the stored numbers.
    """

    def __init__(
        self,
        name: str,
        encoder: Any,
        dataset: TableDataset,
        device: torch.device,
        *,
        tokens: bool,
        dtype: torch.dtype,
    ) -> None:
        self.name, self.encoder, self.dataset, self.device = name, encoder, dataset, device
        self.tokens, self.dtype = tokens, dtype
        self.error = 0.0  # largest difference that rounding has made, over the largest number of its batch
        self.seconds = 0.0  # that the last batch took
        self.unreadable: dict[str, str] = {}  # why, by the key in hexadecimal digits

    def run(
        self, rows: Sequence[int], keys: Sequence[bytes], writer: ShardWriter, reading: Reading, changed: Changed
    ) -> Generator[int, None, None]:
        """Encode some rows; yields, after each batch, how many cells it had. ``seconds`` says how long it took.

        Raises:
            DataError: a file was written to after its key was taken: its features would stand under a wrong one.
        """
        key_of = dict(zip(rows, keys, strict=True))
        batches = [list(rows[start : start + reading.batch_size]) for start in range(0, len(rows), reading.batch_size)]
        began, restore = time.perf_counter(), _in_evaluation(self.encoder)
        try:
            for read in _reads(self.dataset, batches, reading.workers, reading.timeout):
                self.dataset.report.add(read)
                own = [key_of[row] for row in read.rows]
                self._require_unchanged(changed(read.rows, own))
                for sample in self._encode(read, own):
                    writer.add(sample)
                now = time.perf_counter()
                self.seconds, began = now - began, now
                yield len(read.rows)
        finally:  # also of a run that is interrupted
            restore()
            writer.flush()

    def _require_unchanged(self, changed: Sequence[int]) -> None:
        if changed:
            row = changed[0]
            raise DataError(
                f"{self.dataset.place(row, self.name)}: file {self.dataset.content(row, self.name)} was written to "
                "while features were made. Expected files that stay as they are. Call cache_features again when they "
                "do; it goes on where it was."
            )

    def _encode(self, read: Read, keys: Sequence[bytes]) -> Iterator[Stored]:
        key_of = dict(zip(read.rows, keys, strict=True))
        bad = {problem.row: problem.reason for problem in read.problems}
        self.unreadable |= {key_of[row].hex(): reason for row, reason in bad.items() if key_of[row]}
        with torch.inference_mode():
            given = read.batch.to(self.device).inputs[self.name]
            features = _on_cpu(self.encoder(given))
        rounded = self._rounded(features, read)
        lost = read.lost.get(self.name) or [0] * len(keys)
        for place, (row, key) in enumerate(zip(read.rows, keys, strict=True)):
            if row not in bad and key:
                yield _stored(key, rounded, place, int(lost[place]), self.tokens)

    def _rounded(self, features: Features, read: Read) -> Features:
        """The features as they are stored; what is not finite is an error that names its row."""
        real = features.zeroed()
        if not self.tokens:
            real = Features.from_pooled(real.pooled, features.present)
        rounded = Features(real.tokens.to(self.dtype), real.mask, real.pooled.to(self.dtype))
        self._require_finite(real, rounded, read)
        if self.dtype != real.pooled.dtype:
            largest = max(real.tokens.abs().max(), real.pooled.abs().max()).item() or 1.0
            error = max((rounded.tokens - real.tokens).abs().max(), (rounded.pooled - real.pooled).abs().max()).item()
            self.error = max(self.error, error / largest)
        return rounded

    def _require_finite(self, exact: Features, rounded: Features, read: Read) -> None:
        finite = [part.isfinite().flatten(1).all(dim=1) for part in (rounded.tokens, rounded.pooled)]
        if bool((ok := finite[0] & finite[1]).all()):
            return
        place = int((~ok).nonzero()[0])
        where = self.dataset.place(read.rows[place], self.name)
        whole = exact.tokens[place].isfinite().all() and exact.pooled[place].isfinite().all()
        if whole:
            largest = float(max(exact.tokens[place].abs().max(), exact.pooled[place].abs().max()))
            raise ValueError(
                f"{where}: a feature of size {largest:.3g} does not fit into {self.dtype}. Expected features that the "
                "stored dtype can hold. Use dtype='bfloat16' or dtype='float32'."
            )
        raise ValueError(
            f"{where}: the encoder gives features that are NaN or infinite. Expected finite numbers. "
            "Look for NaN in its weights, and run it in float32."
        )


def _in_evaluation(encoder: nn.Module) -> Callable[[], None]:
    """Set an encoder to evaluation; what is returned puts the modes back."""
    modes = {part: part.training for part in encoder.modules()}
    encoder.eval()

    def restore() -> None:
        for part, mode in modes.items():
            part.training = mode

    return restore


def _stored(key: bytes, features: Features, place: int, lost: int, tokens: bool) -> Stored:
    pooled, mask = features.pooled[place][None], features.mask[place]
    present = bool(mask.any())
    if not tokens or not present:
        return Stored(key, pooled, present, None, lost)
    length = int(mask.nonzero().max()) + 1
    real = None if bool(mask[:length].all()) else torch.cat([torch.tensor([True]), mask[:length]])
    return Stored(key, torch.cat([pooled, features.tokens[place, :length]]), present, real, lost)


def _on_cpu(features: Features) -> Features:
    return Features(features.tokens.cpu(), features.mask.cpu(), features.pooled.cpu())


class _Batches(BatchOrder):
    """These rows, in this order."""

    shuffle, seed = False, 0

    def __init__(self, batches: Sequence[list[int]]) -> None:
        self._batches = batches

    @property
    def identity(self) -> dict[str, Any]:
        return {}  # nobody goes on in the middle of it: what is stored is not read again

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def steps(self, now: Pass) -> int:  # noqa: ARG002
        return len(self._batches)

    def rows(self, now: Pass) -> Iterator[list[int]]:  # noqa: ARG002
        return iter(self._batches)


def _reads(dataset: TableDataset, batches: Sequence[list[int]], workers: int, timeout: int | float) -> Iterator[Read]:
    """What is read of each batch; a worker that dies or hangs is a DataError that names its rows."""
    if workers:
        yield from Workers(dataset, _Batches(batches), workers, timeout=timeout, pin=False).reads(Pass(0))
    else:
        yield from (dataset.read(torch.tensor(rows), 0) for rows in batches)
