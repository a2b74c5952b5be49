"""Several processes train as one does that has the joint batches: in float64, to the last digits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from processes import run
from test_training import cut, model_of_vectors, random_batch
from tiny_numbers import make_model, table_of
from torch import Tensor, nn

from mmfuse.contracts import Features, Fused
from mmfuse.data import load_batches
from mmfuse.distributed import rank, world
from mmfuse.losses import UncertaintyWeighting
from mmfuse.training import fit

pytestmark = pytest.mark.filterwarnings("ignore:.* rows have no modality at all")


class Penalised(nn.Module):
    """A fusion with a penalty: the mean square of what another makes."""

    def __init__(self, fusion: nn.Module) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, features: dict[str, Features]) -> Fused:
        fused = self.fusion(features)
        return replace(fused, penalties={"size": fused.features.zeroed().pooled.square().sum(dim=1).mean()})


def train(rows: int, batch_size: int, penalised: bool = False, lacking: int = 0, **how: Any) -> tuple[dict, list[dict]]:
    """The weights and the history of a run with batches of so many rows over all processes.

    Args:
        rows: of the table; those at its end get no label of ``size``.
        batch_size: over all processes.
        penalised: the fusion has a penalty.
        lacking: so many rows at the beginning have no ``b``.
    """
    model = make_model()
    if penalised:
        model.fusion = Penalised(model.fusion)
    weigh = UncertaintyWeighting(model.tasks).double()
    table = table_of(rows)
    table = table.with_column("b", [None] * lacking + table.column("b")[lacking:])
    batches = load_batches(table, model, train=not lacking, batch_size=batch_size // world(), max_errors=1.0)
    settings = {"epochs": 2, "learning_rate": 1e-2, "weigh": weigh, "clip": 0.5, "progress": False, "device": "cpu"}
    history = fit(model, batches, load_batches(table, model, batch_size=4), **settings | how)
    state = {**model.state_dict(), **{f"weigh.{name}": value for name, value in weigh.state_dict().items()}}
    return {name: whole(value) for name, value in state.items()}, history.epochs


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def require_same(found: tuple[dict, list[dict]], expected: tuple[dict, list[dict]]) -> None:
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-10, atol=1e-10, msg=name)
    for row, same in zip(found[1], expected[1], strict=True):
        for name in same.keys() - {"seconds", "samples_per_second", "wait_share", "memory_mb"}:
            assert row[name] == pytest.approx(same[name], rel=1e-10, abs=1e-10, nan_ok=True), name


CASES = {
    "a whole epoch": ((16, 8), {}),
    "an uneven last batch": ((13, 8), {}),
    "a blank row at the end": ((9, 8), {}),
    "no row of a modality on one process": ((16, 8), {"lacking": 4}),
    "a penalty": ((13, 8), {"penalised": True}),
    "a penalty and a blank row": ((9, 8), {"penalised": True}),
    "accumulation with a shorter last window": ((29, 4), {"accumulate": 3}),
}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, strategy):
    (rows, batch_size), how = CASES[case]

    expected = train(rows, batch_size, **how)

    for found in run(2, train_as, rows, batch_size, {**how, "strategy": strategy}):
        require_same(found, expected)


def train_as(rows: int, batch_size: int, how: dict[str, Any]) -> tuple[dict, list[dict]]:
    return train(rows, batch_size, **how)


def train_with_own_batches(targets: Any) -> dict[str, float]:
    """The history of an epoch of one step, of which each process brings its part, with some of its targets."""
    part = cut(random_batch(12, known=1.0), [12 // world()] * world())[rank()]
    part = replace(part, targets={name: part.targets[name] for name in targets[rank()]})
    return fit(model_of_vectors(), [part], progress=False, device="cpu", epochs=1).epochs[0]


def test_each_task_keeps_its_loss_where_processes_hold_their_targets_in_other_orders():
    expected = train_with_own_batches([["sort", "size"]])

    for found in run(2, train_with_own_batches, [["sort", "size"], ["size", "sort"]]):
        for name in ("train/loss", "train/sort/loss", "train/size/loss"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), name
