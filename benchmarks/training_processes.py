"""G23: what DDP adds to a step, and how much travels; in one process that has met nobody else, over gloo on a CPU."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from common import Row
from data_measure import Case, Setting
from training_loops import CLIP, RATE
from training_models import DEVICE, three_modalities
from training_steps import step_row
from training_turns import in_turns

from mmfuse import Batch, MultimodalModel
from mmfuse.losses import Sum
from mmfuse.training import Objective, Precision, make_optimizer, parameter_groups, train_epoch
from mmfuse.training.distributed import parallel


def one_process(setting: Setting) -> list[Row]:
    """The step of three transformers: DDP in a world of one, to no DDP.

    Two copies of one model differ by up to 4 %, each time by another number that stays as long as they do: where in
    memory they came to lie. So the loops begin several times, with copies of their own.
    """
    starts, rounds, steps = (1, 5, 2) if setting.quick else (8, 12, 3)
    seconds: dict[str, list[float]] = {"ddp": [], "auto": []}
    for _ in range(starts):
        model, batches = three_modalities()
        with met():
            loops = {name: partial(train, deepcopy(model), wrap=name) for name in seconds}
            for name, found in in_turns(loops, batches, rounds=rounds, steps=steps).items():
                seconds[name] += found
    name = "a step of three transformers: DDP in one process to no DDP"
    return [step_row(name, seconds, "ddp", "auto", setting.target(1.06))]


def traffic(_: Setting) -> list[Row]:
    """Bytes of gradients that DDP sends in a step, while one of three encoders is frozen and while none is."""
    rows = []
    for frozen in ((), ("text",)):
        model, batches = three_modalities(size=2)
        for name in frozen:
            model.encoders[name].requires_grad_(False)
        sent = traffic_of(model, batches)
        learned = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        name = f"gradients sent in a step, {' and '.join(frozen) or 'nothing'} frozen: to the bytes that are trained"
        rows.append(Row(name, sent / 1024, learned / 1024, sent / learned, 1, "KiB"))
    return rows


def traffic_of(model: MultimodalModel, batches: list[Batch]) -> float:
    """Bytes that a step sends, by the mean."""
    sent: list[int] = []

    def count(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent.append(bucket.buffer().numel() * bucket.buffer().element_size())
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    with met():
        train(model, batches, wrap="ddp", hook=count)
    return sum(sent) / len(batches)


def train(model: MultimodalModel, batches: Iterable[Batch], *, wrap: str, hook: Any = None) -> None:
    """``train_epoch`` of the model as DDP runs it, or plain."""
    objective = parallel(Objective(model, Sum()), wrap, Precision("float32", DEVICE))
    if hook is not None:
        objective.register_comm_hook(None, hook)  # type: ignore[operator]
    optimizer = make_optimizer(parameter_groups(model, learning_rate=RATE))
    for _ in train_epoch(model, batches, weigh=Sum(), optimizer=optimizer, clip=CLIP, objective=objective):
        pass


@contextmanager
def met() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if DEVICE.type == "cuda" else "cpu:gloo", store=dist.HashStore(),
                            rank=0, world_size=1)  # fmt: skip
    try:
        yield
    finally:
        dist.destroy_process_group()


CASES: dict[str, Case] = {"DDP in one process": one_process, "DDP traffic": traffic}
