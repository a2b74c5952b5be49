"""The moving average of the weights."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmfuse.training import ExponentialMovingAverage


def network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).to(dtype)


def train(model, steps, average=None, seed=0):
    """Some steps; yields the weights after each."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 4, generator=generator, dtype=next(model.parameters()).dtype)
        model(x).square().mean().backward()
        optimizer.step()
        if average is not None:
            average.update()
        yield copy.deepcopy(model.state_dict())


def test_the_average_equals_its_equation():
    model = network()
    average = ExponentialMovingAverage(model, decay=0.3)
    expected = copy.deepcopy(model.state_dict())

    for t, weights in enumerate(train(model, 6, average)):
        beta = min(0.3, (1 + t) / (10 + t))
        for name, value in weights.items():
            floating = value.is_floating_point()
            expected[name] = beta * expected[name] + (1 - beta) * value if floating else value

    with average.swapped():
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


def test_the_model_has_its_own_weights_again_after_the_swap_and_after_an_error_in_it():
    model = network()
    average = ExponentialMovingAverage(model, decay=0.9)
    *_, own = train(model, 3, average)

    with pytest.raises(RuntimeError, match="in the middle"), average.swapped():
        assert not torch.equal(model[0].weight, own["0.weight"])
        raise RuntimeError("in the middle")

    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name]), name


def test_the_model_can_keep_the_average():
    model = network()
    average = ExponentialMovingAverage(model, decay=0.9)
    list(train(model, 3, average))
    with average.swapped():
        expected = copy.deepcopy(model.state_dict())

    average.copy_to_model()

    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_an_average_that_is_saved_and_put_back_goes_on_bit_for_bit():
    whole, parted = network(dtype=torch.float32), network(dtype=torch.float32)
    average = ExponentialMovingAverage(whole, decay=0.5)
    list(train(whole, 3, average))
    state, weights = copy.deepcopy(average.state_dict()), copy.deepcopy(whole.state_dict())
    list(train(whole, 4, average, seed=1))

    parted.load_state_dict(weights)
    resumed = ExponentialMovingAverage(parted, decay=0.5)
    resumed.load_state_dict(state)
    list(train(parted, 4, resumed, seed=1))

    for one, other in zip(
        average.state_dict()["averages"].values(), resumed.state_dict()["averages"].values(), strict=True
    ):
        assert torch.equal(one, other)
    assert average.updates == resumed.updates == 7


def test_frozen_parameters_cost_nothing():
    model = network()
    model[0].requires_grad_(False)

    average = ExponentialMovingAverage(model)

    names = average.state_dict()["names"]
    assert not [name for name in names if name.startswith("0.")]
    assert {"1.running_mean", "1.num_batches_tracked", "2.weight"} <= set(names)


def test_small_changes_of_bfloat16_weights_are_not_lost():
    model = nn.Linear(2, 2, bias=False).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    average = ExponentialMovingAverage(model, decay=0.999)
    average.updates = 100_000  # beyond the first steps
    nn.init.constant_(model.weight, 1.0078125)  # the next number of bfloat16

    for _ in range(693):  # (1 - 0.999) ** 693 is a half
        average.update()

    (value,) = average.state_dict()["averages"].values()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, torch.full((2, 2), 1 + 0.0078125 / 2), rtol=0, atol=1e-5)


def test_an_update_is_one_kernel_and_never_waits_for_the_device():
    class Kernels(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    seen = []
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(20)))
    average = ExponentialMovingAverage(model)

    with Kernels():
        average.update()

    assert [name for name in seen if "detach" not in name] == ["aten::_foreach_lerp_"]


def test_weights_shared_out_by_fsdp_are_averaged_where_they_are():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        plain, sharded = nn.Linear(3, 3, dtype=torch.float64), nn.Linear(3, 3, dtype=torch.float64)
        sharded.load_state_dict(plain.state_dict())
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        averages = [ExponentialMovingAverage(model, decay=0.5) for model in (plain, sharded)]
        for model, average in zip((plain, sharded), averages, strict=True):
            model(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            average.update()
        values = [average.state_dict()["averages"].values() for average in averages]
        for one, other in zip(*values, strict=True):
            assert torch.equal(one, other.full_tensor())
        averages[1].copy_to_model()
        assert torch.equal(sharded.weight.full_tensor(), averages[0].state_dict()["averages"][0])
    finally:
        dist.destroy_process_group()


@pytest.mark.plain
def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"got decay=1.0. Expected a number from 0 to below 1. Try 0.999"):
        ExponentialMovingAverage(network(), decay=1.0)
    model = network()
    state = ExponentialMovingAverage(model).state_dict()
    model[0].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"other weights than this model trains: they differ in \['0.bias'\]. Expect"):
        ExponentialMovingAverage(model).load_state_dict(state)
