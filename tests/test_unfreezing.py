"""Encoders that are trained only from some epoch on."""

import copy

import pytest
import torch
from processes import run as run_processes
from tiny_data import make_model
from torch import nn

from mmfuse import Batch, Features, Input, MultimodalModel, Target
from mmfuse.distributed import rank, world
from mmfuse.encoders import CNNEncoder, LoRA, ViTEncoder
from mmfuse.fusion import Concat
from mmfuse.losses import Sum
from mmfuse.tasks import Regression
from mmfuse.training import (
    ExponentialMovingAverage,
    Unfreezing,
    check_partition,
    fit,
    make_optimizer,
    parameter_groups,
    set_training,
    train_epoch,
)


def model_of_images(encoder=None):
    torch.manual_seed(0)
    encoder = encoder or ViTEncoder.preset("tiny", size=16)
    return MultimodalModel({"image": encoder}, Concat({"image": encoder.dim}, 8), {"y": Regression(8)})


def batch(size=6, pixels=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    every = torch.ones(size, dtype=torch.bool)
    images = torch.randn(size, 3, pixels, pixels, generator=g)
    return Batch({"image": Input(images, every)}, {"y": Target(torch.randn(size, generator=g), every)})


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_an_encoder_is_trained_from_its_epoch_on():
    model = make_model()
    every = trained(model)
    plan = Unfreezing(model, {"text": 3})

    changes, found = [], []
    for epoch in range(1, 5):
        changes.append(plan.apply(epoch))
        found.append(trained(model))

    text = {name for name in every if name.startswith("encoders.text.")}
    assert changes == [True, False, True, False]
    assert found == [every - text, every - text, every, every]


def test_layers_are_trained_from_the_top_down():
    model = model_of_images()  # two layers above the embeddings, and a norm above these
    every = trained(model)
    plan = Unfreezing(model, {"image": {2: 1, 3: 2, 5: "all"}})

    found = {}
    for epoch in (1, 2, 3, 4, 5):
        plan.apply(epoch)
        found[epoch] = every - trained(model)

    def names(*parts):
        return {n for n in every if n.startswith(tuple(f"encoders.image.backbone.{part}" for part in parts))}

    lower, higher = (sorted(names(where)) for where in ("layers.0.", "layers.1."))
    assert lower and higher
    assert found[1] == names("")
    assert found[2] == names("embeddings.", "layers.0.")
    assert found[3] == found[4] == names("embeddings.")
    assert found[5] == set()


def test_what_is_frozen_is_a_function_of_the_epoch_alone():
    one, other = model_of_images(), model_of_images()
    plans = [Unfreezing(model, {"image": {2: 1, 4: "all"}}) for model in (one, other)]

    for epoch in range(1, 6):
        plans[0].apply(epoch)
        for before in (7, 1):  # wherever it was before
            plans[1].apply(before)
            plans[1].apply(epoch)
            assert trained(one) == trained(other)


def test_what_is_frozen_for_good_stays_frozen_and_new_layers_are_trained_from_the_beginning():
    model = model_of_images(CNNEncoder("resnet18", dim=8, size=32, freeze=2))
    every = trained(model)
    plan = Unfreezing(model, {"image": 2})

    plan.apply(1)
    assert {"encoders.image.project.weight", "fusion.project.weight"} & trained(model) == (
        {"encoders.image.project.weight", "fusion.project.weight"} & every
    )
    assert not any(name.startswith("encoders.image.backbone") for name in trained(model))
    plan.apply(2)
    assert trained(model) == every


def test_weights_stay_as_they_are_until_their_epoch_and_the_optimizer_holds_them_all_along():
    model = model_of_images()
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.5)
    check_partition(groups, [model])
    optimizer = make_optimizer(groups)
    plan = Unfreezing(model, {"image": 3})
    before = copy.deepcopy(model.encoders.state_dict())
    inside = list(model.encoders.parameters())

    for epoch in (1, 2):
        plan.apply(epoch)
        list(train_epoch(model, [batch()], weigh=Sum(), optimizer=optimizer))
        for name, value in model.encoders.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert not any(parameter in optimizer.state for parameter in inside)
    plan.apply(3)
    list(train_epoch(model, [batch()], weigh=Sum(), optimizer=optimizer))

    for name, value in model.encoders.state_dict().items():
        assert not torch.equal(value, before[name]), name
    assert all(optimizer.state[parameter]["step"] == 1 for parameter in inside)


def run(model, epochs, start=None):
    """Some epochs of one step; returns the state after each. ``start``: the state to go on from, and its epoch."""
    optimizer = make_optimizer(parameter_groups(model, learning_rate=1e-2))
    average = ExponentialMovingAverage(model, decay=0.5)
    plan = Unfreezing(model, {"image": {2: 1, 4: "all"}})
    first = 1
    if start is not None:
        first, weights, state, averages = start
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        average.load_state_dict(averages)
    for epoch in range(first, epochs + 1):
        plan.apply(epoch)
        for _ in train_epoch(model, [batch(seed=epoch)], weigh=Sum(), optimizer=optimizer):
            average.update()
        yield copy.deepcopy((epoch + 1, model.state_dict(), optimizer.state_dict(), average.state_dict()))


def test_a_run_that_is_resumed_before_or_after_an_unfreezing_ends_with_the_same_bits():
    states = list(run(model_of_images(), 5))

    for state in states[:-1]:
        *_, end = run(model_of_images(), 5, start=state)
        for part in (1, 3):
            one, other = ({**s[part], **s[part].get("averages", {})} for s in (states[-1], end))
            for name, value in one.items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(value, other[name]), (state[0], name)


def test_a_frozen_encoder_is_in_evaluation_mode_while_the_rest_is_trained():
    model = model_of_images(CNNEncoder("resnet18", size=32))
    plan = Unfreezing(model, {"image": {2: 1, 3: "all"}})
    statistics = {n: x.clone() for n, x in model.named_buffers() if "running" in n}
    images = batch(pixels=32)

    moved = {}
    for epoch in (1, 2, 3):
        plan.apply(epoch)
        set_training(model)
        model(images)
        moved[epoch] = {n for n, x in model.named_buffers() if n in statistics and not torch.equal(x, statistics[n])}

    assert model.fusion.training
    assert moved[1] == set()
    assert moved[2] and all(".backbone.4." in name for name in moved[2])
    assert moved[3] == set(statistics)


class Noisy(nn.Module):
    """Somebody's own encoder, which knows nothing of freezing."""

    def __init__(self):
        super().__init__()
        self.dim = 4
        self.layer = nn.Linear(3 * 16 * 16, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input):
        return Features.from_pooled(self.dropout(self.layer(input.values.flatten(1))), input.present)


def test_an_encoder_that_knows_nothing_of_freezing_is_frozen_whole_and_without_dropout():
    model = model_of_images(Noisy())
    plan = Unfreezing(model, {"image": 2})

    plan.apply(1)
    set_training(model)
    one, other = (model(batch()).features["image"].pooled for _ in range(2))
    plan.apply(2)
    set_training(model)
    noisy = model(batch()).features["image"].pooled

    assert torch.equal(one, other)
    assert not torch.equal(noisy, one)


def share_of(batch):
    """The part of a batch that this process trains on, in float64."""
    rows = slice(rank(), None, world())
    inputs = {n: Input(x.values[rows].double(), x.present[rows]) for n, x in batch.inputs.items()}
    targets = {n: Target(x.values[rows].double(), x.known[rows]) for n, x in batch.targets.items()}
    return Batch(inputs, targets)


def fit_in_stages(strategy, adapt):
    """The weights after a run whose encoder is trained in stages, by rates of layers, with a moving average."""
    torch.manual_seed(0)
    encoder = ViTEncoder.preset("tiny", size=16)
    encoder.pretrained = True
    model = model_of_images(adapt(encoder)).double()
    batches = [share_of(batch(seed=seed)) for seed in range(2)]
    plan = {"image": {2: 1, 3: "all"}}
    options = {"ema": 0.9, "layer_decay": 0.8, "unfreeze": plan, "device": "cpu", "progress": False}
    fit(model, batches, epochs=3, strategy=strategy, **options)
    weights = {n: x.full_tensor() if hasattr(x, "full_tensor") else x for n, x in model.state_dict().items()}
    return {name: value.detach().clone() for name, value in weights.items()}


def whole(encoder):
    return encoder


def adapted(encoder):
    return LoRA(encoder, rank=2)


@pytest.mark.parametrize(("strategy", "adapt"), [("ddp", whole), ("fsdp", whole), ("fsdp", adapted)])
def test_two_processes_unfreeze_as_one_does(strategy, adapt):
    (one,) = run_processes(1, fit_in_stages, "auto", adapt)

    first, second = run_processes(2, fit_in_stages, strategy, adapt)

    for name, value in one.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-10, msg=name)
        assert torch.equal(second[name], first[name]), name


@pytest.mark.plain
def test_a_plan_that_does_not_fit_is_refused():
    model = model_of_images()
    with pytest.raises(ValueError, match=r"unfreeze: unknown modality 'imag'. Expected one of \['image'\]. Did you"):
        Unfreezing(model, {"imag": 2})
    with pytest.raises(ValueError, match=r"unfreeze got 4 stages of 'image'. Expected 'all', or a number from 1 to 3"):
        Unfreezing(model, {"image": {2: 4}})
    with pytest.raises(ValueError, match=r"unfreeze got the epoch 0 for 'image'. Expected a whole number from 1 up"):
        Unfreezing(model, {"image": 0})
    with pytest.raises(ValueError, match=r"unfreeze got the epoch 1.5 for 'image'. Expected a whole number"):
        Unfreezing(model, {"image": 1.5})


def test_an_encoder_that_is_frozen_for_good_cannot_be_unfrozen():
    with pytest.raises(ValueError, match=r"'image' is frozen for good, so no epoch trains it"):
        Unfreezing(model_of_images(ViTEncoder.preset("tiny", size=16, freeze="all")), {"image": 2})
