"""A training step asks nothing of its device but once: whether all is finite.

The weights and batches are fake here: they have shapes and no values, so whatever reads a value raises.
"""

import pytest
import torch
from processes import in_a_process_of_its_own
from tiny_data import WORDS
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mmfuse import Batch, Features, Input, MultimodalModel, Target, dims_of
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import (
    CNNEncoder,
    FTTransformerEncoder,
    SeriesEncoder,
    SkipAbsent,
    SpectrogramEncoder,
    TextEncoder,
    TransformerEncoder,
    VideoEncoder,
    ViTEncoder,
)
from mmfuse.fusion import FUSIONS, Concat
from mmfuse.losses import Sum, UncertaintyWeighting, known_counts, task_losses
from mmfuse.tasks import Classification, Regression
from mmfuse.training import (
    ExponentialMovingAverage,
    Precision,
    loop,
    make_optimizer,
    parameter_groups,
    train_epoch,
    warmup_cosine,
)

PRESENT = torch.tensor([True, True, False, True])
CPU = torch.device("cpu")
NUMBERS = {"a": (0.0, 1.0), "b": (0.0, 1.0)}


def steps(time, *width):
    mask = torch.arange(time) < torch.tensor([[time], [3], [2], [time]])
    return Input(torch.randn(4, time, *width), PRESENT, mask)


ENCODERS = {
    "steps": (lambda: TransformerEncoder(16, width=3), lambda: steps(12, 3)),
    "series": (lambda: SeriesEncoder(16, channels=3), lambda: steps(12, 3)),
    "sound": (lambda: SpectrogramEncoder(dim=32, num_layers=1, hide_time=0.2, hide_mels=4), lambda: steps(1600)),
    "norms": (lambda: CNNEncoder("resnet18", size=32), lambda: Input(torch.randn(4, 3, 32, 32), PRESENT)),
    "image": (lambda: ViTEncoder.preset("tiny"), lambda: Input(torch.randn(4, 3, 32, 32), PRESENT)),
    "video": (lambda: VideoEncoder(CNNEncoder.preset("tiny")), lambda: steps(3, 3, 32, 32)),
    "table": (lambda: FTTransformerEncoder(16, numbers=NUMBERS), lambda: Input(torch.rand(4, 4), PRESENT)),
}


def make_model(names):
    torch.manual_seed(0)
    encoders = {name: ENCODERS[name][0]() for name in names}
    tasks = {"y": Regression(8), "c": Classification(8, ["a", "b"])}
    return MultimodalModel(encoders, Concat(dims_of(encoders), 8), tasks)


def make_batch(names):
    targets = {"y": Target(torch.randn(4), PRESENT), "c": Target(torch.tensor([0, 1, 0, 1]), ~PRESENT)}
    return Batch({name: ENCODERS[name][1]() for name in names}, targets)


def without_values(module, mode):
    """A module whose parameters and buffers have no values."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                with mode:
                    part._parameters[name] = nn.Parameter(mode.from_tensor(parameter.detach()))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer)
    return module


@pytest.fixture
def mode(monkeypatch):
    """Batches lose their values on the way to the device; the one question that is allowed is answered with yes."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def moved(batches, _device):
        for batch in batches:
            yield pytree.tree_map_only(torch.Tensor, mode.from_tensor, batch)

    monkeypatch.setattr(loop, "prefetch", moved)
    monkeypatch.setattr(loop.NonFinite, "may_step", lambda *_args, **_more: True)
    return mode


def train(model, batches, mode, weigh=None, precision=None):
    weigh = without_values(weigh or Sum(), mode)
    optimizer = make_optimizer(parameter_groups(model, weigh))
    schedule = warmup_cosine(optimizer, steps=4)
    average = ExponentialMovingAverage(model)
    options = {"weigh": weigh, "optimizer": optimizer, "accumulate": 2, "clip": 1.0, "schedule": schedule}
    done = 0
    for losses in train_epoch(model, batches, precision=precision, **options):
        average.update()
        assert set(losses) == {"y", "c"}
        done += 1
    return done


@pytest.mark.parametrize("name", ENCODERS)
@in_a_process_of_its_own
def test_a_step_reads_nothing_from_the_device(mode, name):
    model = without_values(make_model([name]), mode)

    assert train(model, [make_batch([name]) for _ in range(3)], mode) == 2


@pytest.mark.parametrize("fusion", FUSIONS)
@in_a_process_of_its_own
def test_no_fusion_reads_from_the_device(fusion):
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fuse = without_values(FUSIONS[fusion]({"left": 8, "right": 8}, 8), mode).train()
    features = {}
    for name, time in {"left": 5, "right": 3}.items():
        tokens, mask = torch.randn(4, time, 8), PRESENT[:, None].expand(4, time)
        features[name] = Features(*map(mode.from_tensor, (tokens, mask.contiguous(), tokens.mean(dim=1))))

    fused = fuse(features)

    (fused.features.pooled.sum() + sum(fused.penalties.values())).backward()


@in_a_process_of_its_own
def test_mixed_precision_reads_nothing_from_the_device(mode):
    model = without_values(make_model(["steps"]), mode)

    assert train(model, [make_batch(["steps"])], mode, UncertaintyWeighting(["y", "c"]), Precision("bf16", CPU)) == 1


@in_a_process_of_its_own
def test_the_test_can_fail(mode):
    class Curious(nn.Module):
        def forward(self, losses):
            return losses["y"] if losses["y"].item() > 0 else -losses["y"]

    model = without_values(make_model(["steps"]), mode)

    with pytest.raises(DataDependentOutputException):
        train(model, [make_batch(["steps"])], mode, Curious())


class Questions(TorchDispatchMode):
    """Counts what is read from tensors with values, once for each question."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("wrap", "most"),
    [
        (lambda encoder: encoder, 1),  # transformers asks whether anything is padding
        (SkipAbsent, 3),  # and how many rows there are, and how long the longest is
    ],
)
def test_encoders_that_ask_are_known(wrap, most):
    encoder = wrap(TextEncoder.preset("tiny", tokenizer=train_tokenizer(WORDS, vocab_size=60)))
    model = MultimodalModel({"text": encoder}, Concat({"text": 64}, 8), {"y": Regression(8)})
    text = steps(6)
    text = Input(torch.randint(5, 30, (4, 6)), text.present, text.mask)
    batch = Batch({"text": text}, {"y": Target(torch.randn(4), PRESENT)})
    counts = known_counts([batch])

    with Questions() as questions:
        output = model.train()(batch)
        Sum()(task_losses(model.tasks, output, batch.targets, counts)).backward()

    assert questions.count <= most
