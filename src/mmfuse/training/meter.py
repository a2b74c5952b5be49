"""What a run shows of an epoch while it goes on, and keeps of it."""

import time
from collections.abc import Iterable, Iterator, Sized

from torch import Tensor
from tqdm import tqdm

from mmfuse.contracts import Batch


class Meter:
    """The batches of one epoch behind a progress bar, and the means of its losses over the optimizer steps.

    Of its time, ``wait_share`` was spent waiting for batches: near 0 where the loader keeps up, else more workers help.
    """

    def __init__(self, batches: Iterable[Batch], title: str, *, show: bool) -> None:
        dataset = getattr(batches, "dataset", None)
        total = len(dataset) if isinstance(dataset, Sized) else None
        self.batches = batches
        self.bar = tqdm(total=total, desc=title, unit=" samples", disable=not show, leave=False)
        self.sums: dict[str, Tensor] = {}
        self.steps: dict[str, int] = {}
        self.samples = 0
        self.waited = 0.0  # seconds in which there was nothing to do because no batch was there
        self.began = time.perf_counter()

    def __iter__(self) -> Iterator[Batch]:
        batches, asked = iter(self.batches), time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - asked
            yield batch
            self.samples += len(next(iter(batch.inputs.values())).present)
            asked = time.perf_counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss
            self.steps[name] = self.steps.get(name, 0) + 1
        # A loss is read only when the bar is drawn (ten times a second at most), not at every step.
        if self.bar.update(self.samples - self.bar.n):
            self.bar.set_postfix({name: f"{float(loss):.3f}" for name, loss in losses.items()}, refresh=False)

    def close(self) -> dict[str, float]:
        self.bar.close()
        means = {name: float(total) / self.steps[name] for name, total in self.sums.items()}
        numbers = {"train/loss": sum(means.values()), **{f"train/{name}/loss": mean for name, mean in means.items()}}
        seconds = time.perf_counter() - self.began
        return {**numbers, "samples_per_second": self.samples / seconds, "wait_share": self.waited / seconds}
