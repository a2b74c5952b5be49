"""What DDP and FSDP2 do with weights that are frozen, alone, large, or in bf16, and what they refuse."""

import importlib
from typing import Any

import pytest
import torch
from processes import outcomes, run
from tiny_numbers import make_model, table_of
from torch import Tensor, nn

from mmfuse.contracts import Batch
from mmfuse.data import load_batches
from mmfuse.distributed import rank
from mmfuse.encoders import ViTEncoder
from mmfuse.losses import Sum, UncertaintyWeighting
from mmfuse.training.distributed import parallel
from mmfuse.training.gradients import Gradients
from mmfuse.training.objective import Objective, totals_of
from mmfuse.training.precision import Precision
from mmfuse.training.sharding import shard, units_of

pytestmark = pytest.mark.filterwarnings("ignore:.* rows have no modality at all")
FLOAT32 = Precision("float32", torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What DDP and FSDP2 import is imported once, and not in every process."""
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch.distributed.fsdp")


def batch_of(model: nn.Module) -> Batch:
    return next(iter(load_batches(table_of(8), model, batch_size=4, max_errors=1.0)))


def backward(objective: nn.Module, model: Any, precision: Precision = FLOAT32) -> None:
    batch = batch_of(model)
    with precision.autocast():
        total, *_ = objective(batch, totals_of([batch], list(model.tasks)))
    total.backward()


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def sent_bytes() -> tuple[int, int, int]:
    """What DDP sends in a step, of a model with a frozen encoder."""
    model = make_model().float()
    model.encoders["b"].requires_grad_(False)
    objective = parallel(Objective(model, Sum()), "ddp", FLOAT32)
    sent = []

    def count(_state, bucket):
        sent.append(bucket.buffer().numel() * bucket.buffer().element_size())
        return torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda x: x.value()[0])

    objective.register_comm_hook(None, count)
    backward(objective, model)
    return sum(sent), 4 * sum(p.numel() for p in model.parameters() if p.requires_grad), len(sent)


def test_frozen_parameters_do_not_travel():
    for sent, trainable, messages in run(2, sent_bytes):
        assert sent == trainable
        assert messages >= 1


def weights_of_rank_0(strategy: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model, weigh = make_model(), UncertaintyWeighting(["kind", "size"]).double()
    model.tasks["kind"].classify = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    for tensor in [*model.parameters(), *weigh.parameters(), *model.buffers()]:
        with torch.no_grad():
            tensor += rank()
    objective = parallel(Objective(model, weigh), strategy, FLOAT32)
    states = {**model.state_dict(), **weigh.state_dict()}
    began = {name: whole(value).clone() for name, value in states.items()}
    backward(objective, model)
    model.tasks["kind"].classify[0].momentum = 0.0  # the next batch changes nothing, after they have been shared
    backward(objective, model)
    return began, {name: value for name, value in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_processes_begin_with_the_weights_and_statistics_of_rank_0(strategy):
    (first, statistics), (second, others) = run(2, weights_of_rank_0, strategy)

    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert len(statistics) == 2
    for name, value in statistics.items():
        assert torch.equal(value, others[name]), name
        assert not torch.equal(value, first[name])


def unused() -> list[str]:
    """The parameters without a gradient where no process has a label of a task."""
    model = make_model()
    objective = parallel(Objective(model, Sum()), "ddp", FLOAT32)
    batch = batch_of(model)
    batch = Batch(batch.inputs, {"kind": batch.targets["kind"]})
    objective(batch, totals_of([batch], list(model.tasks)))[0].backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_what_no_process_uses_has_no_gradient_and_is_not_decayed():
    expected = [name for name, _ in make_model().named_parameters() if name.startswith("tasks.size")]

    assert run(2, unused) == [expected, expected]


def gradients(kind: str) -> tuple[dict[str, Tensor], Tensor, list[str]]:
    """Of a model with a number that stands alone, frozen while the model is shared out."""
    model = make_model().float()
    model.tasks["size"].scale = nn.Parameter(torch.ones(()))
    forward = model.tasks["size"].forward
    model.tasks["size"].forward = lambda features: forward(features) * model.tasks["size"].scale
    model.tasks["size"].scale.requires_grad_(False)
    precision = Precision("bf16" if kind == "bf16" else "float32", torch.device("cpu"))
    objective = Objective(model, UncertaintyWeighting(["kind", "size"]))
    objective = parallel(objective, "ddp", FLOAT32) if kind == "ddp" else shard(objective, precision, unit_bytes=1000)
    sharded = [name for name, module in model.named_modules() if hasattr(module, "unshard")]
    model.tasks["size"].scale.requires_grad_(True)
    if kind == "ddp":
        objective = parallel(objective.module, "ddp", FLOAT32)
    backward(objective, model, precision)
    parameters = list(objective.parameters())
    together = Gradients(torch.optim.SGD(parameters))
    norm = together.norm()
    together.clip(0.1, norm)
    names = [name.removeprefix("module.") for name, _ in objective.named_parameters()]
    found = {name: whole(p.grad) for name, p in zip(names, parameters, strict=True) if p.grad is not None}
    return found, norm, sharded


def test_fsdp_gives_the_gradients_and_the_norm_of_ddp_and_those_of_bf16_are_near():
    (expected, norm, _), _ = run(2, gradients, "ddp")
    (found, same, sharded), _ = run(2, gradients, "fsdp")
    (rough, near, _), _ = run(2, gradients, "bf16")

    assert any(name.startswith("encoders.b.") for name in sharded)  # its layers
    assert "" in sharded  # the model
    assert expected.keys() == found.keys() == rough.keys()
    assert "model.tasks.size.scale" in expected
    torch.testing.assert_close(same, norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(near, norm, rtol=0.05, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
        assert (rough[name] - gradient).norm() < 0.1 * gradient.norm() + 0.01 * norm, name
    total = torch.stack([gradient.norm() for gradient in found.values()]).norm()
    torch.testing.assert_close(total, torch.tensor(0.1), rtol=1e-4, atol=0)


def sometimes(windows: list[list[int]]) -> list[Tensor | None]:
    """After each step, the gradient of a number that stands alone and is used by some processes in some passes."""
    model = make_model()
    scale = model.tasks["size"].scale = nn.Parameter(torch.ones(()).double())
    forward, using = model.tasks["size"].forward, [rank()]
    model.tasks["size"].forward = lambda features: forward(features) * (scale if rank() in using else 1)
    objective = parallel(Objective(model, Sum()), "fsdp", FLOAT32)
    found = []
    for using[:] in windows:
        backward(objective, model)
        found.append(None if scale.grad is None else scale.grad.clone())
    return found


def test_a_number_that_some_processes_use_has_the_mean_of_their_gradients_under_fsdp():
    first, second = run(2, sometimes, [[], [1], [0], [0, 1]])

    assert first == second
    nothing, of_1, of_both, twice_of_both = first
    assert nothing is None
    assert 0 != of_1 != of_both
    torch.testing.assert_close(twice_of_both, 2 * of_both)


def test_units_are_neighbouring_blocks_of_at_least_so_many_bytes():
    encoders = nn.ModuleDict({"image": ViTEncoder.preset("tiny", size=16)})
    (layers,) = units_of(encoders, 10**9) or [[]]
    whole_row = units_of(encoders, 1)
    size = sum(p.numel() * 4 for p in whole_row[0][0].parameters())

    assert layers == []  # small: all of it travels with the rest of the model
    assert [len(unit) for unit in whole_row] == [1] * len(whole_row)
    assert len(whole_row) > 1
    assert [len(unit) for unit in units_of(encoders, size + 1)] == [len(whole_row)]


def refused(kind: str) -> None:
    model = make_model()
    objective = Objective(model, Sum())
    if kind == "fp16":
        precision = Precision("float32", torch.device("cpu"))
        precision.name = "fp16"
        parallel(objective, "fsdp", precision)
    parallel(objective, "fsdp", FLOAT32)
    if kind == "ddp after":
        parallel(objective, "auto", FLOAT32)
    batch = batch_of(model)
    objective(Batch({"a": batch.inputs["a"]}, batch.targets), totals_of([batch], list(model.tasks)))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fp16", "FSDP2 does not train in fp16 here. Expected bf16 or float32."),
        ("ddp after", "strategy='auto' was asked for a model whose weights an earlier run has shared out."),
        ("no input", "FSDP2: the batch got no ['b'], only ['a']. Expected ['a', 'b']. A process that skips an encoder"),
    ],
    ids=["fp16", "ddp after", "no input"],
)
def test_what_fsdp_cannot_do_right_is_refused(kind, message):
    for each in outcomes(2, refused, kind):
        assert message in str(each.error)


def twice() -> list[list[Tensor]]:
    model = make_model()
    found = []
    for _ in range(2):
        model.zero_grad()
        backward(parallel(Objective(model, UncertaintyWeighting(["kind", "size"]).double()), "fsdp", FLOAT32), model)
        found.append([whole(p.grad) for p in model.parameters() if p.grad is not None])
    return found


def test_a_model_that_is_shared_out_can_be_trained_again():
    for first, second in run(2, twice):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)


@pytest.mark.plain
def test_a_process_on_its_own_has_no_strategy():
    objective = Objective(make_model(), Sum())

    assert parallel(objective, "auto", FLOAT32) is objective
    with pytest.raises(ValueError, match=r"was asked for in a process on its own. .* torchrun --nproc-per-node=2"):
        parallel(objective, "ddp", FLOAT32)
    with pytest.raises(ValueError, match="parallel got strategy='fspd'. Expected one of .* Did you mean 'fsdp'"):
        parallel(objective, "fspd", FLOAT32)
