"""torch.compile round a model whose batches have unequal lengths."""

import copy

import pytest
import torch
from processes import in_a_process_of_its_own
from tiny_data import WORDS
from tiny_models import BERT

from mmfuse import Batch, Input, MultimodalModel, Target, dims_of
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import SkipAbsent, TextEncoder, TransformerEncoder
from mmfuse.fusion import AttentionFusion
from mmfuse.losses import Sum, known_counts, task_losses
from mmfuse.tasks import Regression
from mmfuse.training import compiled, fit

pytestmark = [
    pytest.mark.plain,  # the shape checks cannot be traced
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning"),
]
ONE_LAYER = BERT | {"model_type": "bert", "num_hidden_layers": 1}
LENGTHS = [(8, 7), (9, 7), (9, 9), (12, 20), (5, 11)]  # of both modalities; none is 1


@pytest.fixture(autouse=True)
def afresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_model(*names):
    torch.manual_seed(0)
    encoders = {
        "text": TextEncoder(
            BERT | {"model_type": "bert", "num_hidden_layers": 1}, train_tokenizer(WORDS, vocab_size=60)
        ),
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


def batch(words, steps, names=("text", "series")):
    g = torch.Generator().manual_seed(words)
    text = sequence(words, None, g)
    ids = Input(torch.randint(5, 30, (4, words), generator=g), text.present, text.mask)
    inputs = {"text": ids, "series": sequence(steps, 3, g)}
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


@in_a_process_of_its_own
def test_the_compiled_model_equals_the_model_and_so_do_the_gradients():
    model = make_model("series").train()
    other = copy.deepcopy(model)
    forward = compiled(model, {"backend": "aot_eager"})

    for lengths in LENGTHS[:2]:
        given = batch(*lengths, names=["series"])
        found, expected = gradients(model, forward, given), gradients(other, other, given)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


def test_a_fit_that_is_compiled_equals_one_that_is_not():
    batches = [batch(*lengths, names=["series"]) for lengths in LENGTHS[:3]]
    plain, other = make_model("series"), make_model("series")

    expected = fit(plain, batches, epochs=2, progress=False, device="cpu")
    found = fit(other, batches, epochs=2, progress=False, device="cpu", compile={"backend": "eager"})

    assert found["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-12)
    for (name, value), compiled_value in zip(plain.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(compiled_value, value, rtol=0, atol=1e-12, msg=name)


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
