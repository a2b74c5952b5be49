"""torch.compile round a model whose batches have unequal lengths."""

import copy

import pytest
import torch
from tiny_data import WORDS

from mmfuse import Batch, Input, MultimodalModel, Target, dims_of
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import SkipAbsent, SpectrogramEncoder, TextEncoder, TransformerEncoder
from mmfuse.fusion import AttentionFusion
from mmfuse.losses import Sum, known_counts, task_losses
from mmfuse.tasks import Regression
from mmfuse.training import compiled

pytestmark = [
    pytest.mark.plain,  # the shape checks cannot be traced
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning"),
]
LENGTHS = [(8, 1600, 7), (9, 1600, 7), (9, 1300, 9), (12, 1700, 20), (5, 3000, 11)]  # no axis of length 1


@pytest.fixture(autouse=True)
def afresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_model(*names):
    torch.manual_seed(0)
    encoders = {
        "text": TextEncoder.preset("tiny", tokenizer=train_tokenizer(WORDS, vocab_size=60)),
        "audio": SpectrogramEncoder(dim=16, num_mels=24),
        "series": SkipAbsent(TransformerEncoder(16, width=3, num_layers=1, dropout=0.0)),
    }
    encoders = {name: encoders[name] for name in names or encoders}
    fusion = AttentionFusion(dims_of(encoders), 8)
    return MultimodalModel(encoders, fusion, {"y": Regression(8)}).double()


def sequence(steps, width, g):
    lengths = torch.tensor([steps, steps // 2, max(1, steps - 3), steps])
    shape = (4, steps) if width is None else (4, steps, width)
    present = torch.tensor([True, True, True, steps % 2 == 0])
    return Input(torch.randn(shape, generator=g, dtype=torch.float64), present, torch.arange(steps) < lengths[:, None])


def batch(words, samples, steps, names=("text", "audio", "series")):
    g = torch.Generator().manual_seed(words)
    text = sequence(words, None, g)
    ids = Input(torch.randint(5, 30, (4, words), generator=g), text.present, text.mask)
    inputs = {"text": ids, "audio": sequence(samples, None, g), "series": sequence(steps, 3, g)}
    target = torch.randn(4, generator=g, dtype=torch.float64)
    return Batch({name: inputs[name] for name in names}, {"y": Target(target, torch.tensor([True, True, False, True]))})


def gradients(model, forward, batch):
    model.zero_grad()
    output = forward(batch)
    Sum()(task_losses(model.tasks, output, batch.targets, known_counts([batch]))).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_one_graph_serves_all_lengths():
    graphs = []

    def counting(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    forward = compiled(make_model().train(), {"backend": counting})

    for lengths in LENGTHS:
        forward(batch(*lengths))

    assert len(graphs) == 1  # no break, and not compiled again


def test_the_compiled_model_equals_the_model_and_so_do_the_gradients():
    model = make_model("series").train()
    other = copy.deepcopy(model)
    forward = compiled(model, {"backend": "aot_eager"})

    for lengths in LENGTHS[:3]:
        given = batch(*lengths, names=["series"])
        found, expected = gradients(model, forward, given), gradients(other, other, given)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


def test_the_model_itself_stays_as_it_is():
    model = make_model("series")
    names, kind = list(model.state_dict()), type(model)

    forward = compiled(model, {"backend": "eager"})
    forward(batch(*LENGTHS[0], names=["series"]))

    assert forward is not model
    assert (list(model.state_dict()), type(model)) == (names, kind)
    assert compiled(model, False) is model


def test_true_is_torch_compile_with_lengths_that_may_change(monkeypatch):
    asked = []

    def compile(function, **options):
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    model = make_model()

    compiled(model, True)
    compiled(model, {"mode": "max-autotune", "dynamic": None})

    assert asked == [{"dynamic": True}, {"dynamic": None, "mode": "max-autotune"}]


@pytest.mark.parametrize("wrong", ["inductor", 1, None])
def test_anything_else_is_refused(wrong):
    with pytest.raises(TypeError, match=f"compiled got compile={wrong!r}. Expected True, False, or options of torch"):
        compiled(make_model(), wrong)
