"""The numbers that a model is trained in, and the switches of torch."""

import copy
import math

import pytest
import torch
from torch import nn

from mmfuse.training import Precision, arithmetic

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def switches():
    cudnn = torch.backends.cudnn
    return (
        torch.get_float32_matmul_precision(),
        cudnn.allow_tf32,
        cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@pytest.mark.parametrize(("major", "name"), [(7, "float32"), (8, "bf16"), (9, "bf16")])
def test_auto_takes_bf16_only_where_the_gpu_calculates_in_it(monkeypatch, major, name):
    def supported(including_emulation=True):
        return including_emulation or major >= 8

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)

    assert Precision("auto", CUDA).name == name


def test_auto_is_float32_on_a_cpu_whatever_it_could_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)

    assert Precision("auto", CPU).name == "float32"


@pytest.mark.parametrize("tf32", [True, False, None])
def test_tf32_is_switched_and_put_back(tf32):
    before = switches()

    with pytest.raises(KeyError), arithmetic(CPU, tf32=tf32):
        inside = switches()
        raise KeyError

    matmul = {True: "high", False: "highest", None: before[0]}[tf32]
    assert inside == (matmul, before[1] if tf32 is None else tf32, *before[2:])
    assert switches() == before


def test_a_user_who_sets_tf32_the_new_way_is_left_alone():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"  # now torch refuses to tell it by the old names
    try:
        with arithmetic(CPU, deterministic=True):
            assert matmul.fp32_precision == "tf32"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_deterministic_refuses_what_cannot_repeat_and_is_put_back(monkeypatch):
    before = switches()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    values, index = torch.ones(4, requires_grad=True), torch.tensor([0, 0, 1, 1])

    with arithmetic(CPU, deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            torch.zeros(2).put_(index[:2], values.detach()[:2])

    assert switches() == (*before[:2], True, *before[3:])


@pytest.mark.plain
def test_deterministic_on_a_gpu_says_which_variable_it_needs(monkeypatch):
    before = switches()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    said = pytest.raises(ValueError, match="Run: CUBLAS_WORKSPACE_CONFIG=:4096:8 python train.py")
    with said, arithmetic(CUDA, deterministic=True):
        pass
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with arithmetic(CUDA, deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()

    assert switches() == before


def scaled(scale=65536.0):
    """Mixed precision with a scaler, as on a GPU."""
    precision = Precision("float32", CPU)
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return precision


def step(precision, optimizer, factor):
    """One step with a loss whose gradient is ``factor``; whether it changed the weight."""
    (weight,) = optimizer.param_groups[0]["params"]
    before = weight.detach().clone()
    optimizer.zero_grad()
    precision.scaler.scale((weight * factor).sum()).backward()
    precision.scaler.unscale_(optimizer)
    precision.scaler.step(optimizer)
    precision.scaler.update()
    return not torch.equal(weight, before)


def test_a_scaler_on_its_way_to_the_right_scale_is_told_from_a_fault():
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], fused=True)
    too_large, fault = scaled(), scaled()

    steps = []
    while not step(too_large, optimizer, 1e36):  # too large for float32 times 65536
        steps.append(too_large.searches())
    assert 1 < len(steps) < 17
    assert all(steps)

    steps = []
    while fault.searches() and not step(fault, optimizer, math.inf):
        steps.append(fault.scaler.get_scale())
    assert len(steps) == 17  # 65536 halved until it is below 1
    assert weight.isfinite().all()
    assert not Precision("float32", CPU).searches()


def test_the_state_of_the_scaler_goes_on_where_it_was():
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], fused=True)
    one, other = scaled(), scaled()
    for factor in (math.inf, 1.0, 1.0):
        step(one, optimizer, factor)

    other.scaler.load_state_dict(copy.deepcopy(one.scaler.state_dict()))

    assert other.scaler.state_dict() == one.scaler.state_dict()
    assert other.scaler.state_dict()["scale"] == 32768.0
    assert other.scaler.state_dict()["_growth_tracker"] == 2


@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_the_norm_is_clipped_after_the_scale_is_taken_off(scale):
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    precision = scaled(scale)

    precision.scaler.scale(layer(torch.ones(2, 4)).square().sum()).backward()
    precision.scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(layer.parameters(), 0.5)

    assert nn.utils.get_total_norm([p.grad for p in layer.parameters()]).item() == pytest.approx(0.5, rel=1e-5)


def test_float32_is_float32_inside_of_an_autocast_too():
    left, right = torch.ones(2, 2), torch.ones(2, 2)

    with torch.autocast("cpu", torch.bfloat16):
        with Precision("float32", CPU).autocast():
            inside = left @ right
        outside = left @ right

    assert (inside.dtype, outside.dtype) == (torch.float32, torch.bfloat16)


def test_the_weights_stay_in_float32_under_autocast():
    layer = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)

    with Precision("bf16", CPU).autocast():
        out = layer(torch.ones(2, 4))
    out.float().sum().backward()
    optimizer.step()

    assert out.dtype == torch.bfloat16
    assert {p.dtype for p in layer.parameters()} == {p.grad.dtype for p in layer.parameters()} == {torch.float32}
    assert {s["exp_avg"].dtype for s in optimizer.state.values()} == {torch.float32}
