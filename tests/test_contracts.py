"""The six contracts: what they check, how they move, that torch can look through them."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from mmfuse import Batch, Features, Fused, Input, MultimodalModel, Output, Target, dims_of
from mmfuse.fusion import Concat
from mmfuse.missing import hide
from mmfuse.tasks import Classification, Regression

YES = torch.ones(2, dtype=torch.bool)


class Mean(nn.Module):
    """Sequences to the mean of their real steps, through a linear layer."""

    def __init__(self, width, dim=6):
        super().__init__()
        self.dim = dim
        self.layer = nn.Linear(width, dim)

    def forward(self, input):
        mask = input.mask & input.present[:, None]
        tokens = self.layer(input.zeroed().values)
        pooled = (tokens * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        return Features(tokens, mask, pooled)


def make_model():
    torch.manual_seed(0)
    encoders = {"text": Mean(3), "audio": Mean(4)}
    tasks = {"mood": Classification(8, ["good", "bad"]), "age": Regression(8)}
    return MultimodalModel(encoders, Concat(dims_of(encoders), 8), tasks)


def make_batch(rows=3, time=5):
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(time) < torch.tensor([time, 2, 1][:rows])[:, None]
    inputs = {
        "text": Input(torch.randn(rows, time, 3, generator=g), torch.tensor([True, True, False][:rows]), mask),
        "audio": Input(torch.randn(rows, time, 4, generator=g), torch.tensor([True, False, False][:rows]), mask),
    }
    return Batch(inputs, {"mood": Target(torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool))})


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: Features(torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, 4)),
            ValueError,
            r"Features.mask has shape \(2, 4\). Expected \(batch=2, time=3\). A mask has one value for each",
        ),
        (
            lambda: Features(torch.zeros(2, 3, 4), torch.ones(2, 3), torch.zeros(2, 4)),
            TypeError,
            "Features.mask has dtype torch.float32. Expected torch.bool with True where real. Use mask.bool()",
        ),
        (
            lambda: Features(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 5)),
            ValueError,
            r"Features.pooled has shape \(2, 5\). Expected \(batch=2, dim=4\). Pool with layers.masked_mean",
        ),
        (
            lambda: Features(torch.zeros(2, 4), YES[:, None], torch.zeros(2, 4)),
            ValueError,
            r"Features.tokens has shape \(2, 4\). Expected \(batch, time, dim\). Use Features.from_pooled",
        ),
        (lambda: Input(torch.zeros(3, 4), YES), ValueError, r"Input.present has shape \(2,\). Expected \(batch=3\)"),
        (lambda: Input(torch.zeros(2, 9), YES, torch.ones(2, 8).bool()), ValueError, r"Input.mask has shape \(2, 8\)"),
        (lambda: Target(torch.zeros(2), torch.ones(2)), TypeError, "Target.known has dtype torch.float32"),
        (
            lambda: Batch({"a": Input(torch.zeros(2, 1), YES)}, {"t": Target(torch.zeros(3), torch.ones(3).bool())}),
            ValueError,
            "Batch holds unequal numbers of samples: {'a': 2, 't': 3}. Expected one number",
        ),
    ],
)
def test_a_contract_checks_itself_when_it_is_made(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_zeroed_leaves_only_what_is_real():
    nan = float("nan")
    mask = torch.tensor([[True, False], [False, False]])
    features = Features(torch.full((2, 2, 3), nan), mask, torch.full((2, 3), nan)).zeroed()
    values = torch.full((2, 2), nan)
    values[0, 0] = 1.0

    assert features.present.tolist() == [True, False]
    assert features.tokens[0, 1].tolist() == features.tokens[1, 0].tolist() == [0.0] * 3
    assert features.pooled[1].tolist() == [0.0] * 3
    assert features.pooled[0].isnan().all()
    assert Input(values, YES, mask).zeroed().values.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert Input(torch.full((2, 3, 4, 4), nan), ~YES).zeroed().values.eq(0).all()


def test_a_batch_moves_as_a_whole():
    batch = make_batch()

    moved = batch.to("meta")

    assert moved.inputs["text"].values.device.type == moved.inputs["audio"].mask.device.type == "meta"
    assert moved.targets["mood"].known.device.type == "meta"
    assert moved.inputs["text"].values.shape == batch.inputs["text"].values.shape
    assert callable(batch.pin_memory)  # the loader calls it, where there is a GPU


@pytest.mark.plain
def test_trees_of_contracts_can_be_mapped_to_anything():
    shapes = pytree.tree_map(lambda x: tuple(x.shape), make_batch())

    assert shapes.inputs["text"].values == (3, 5, 3)
    assert Fused in pytree.SUPPORTED_NODES
    assert Output in pytree.SUPPORTED_NODES


def test_a_model_gives_everything_that_it_made():
    output = make_model()(make_batch())

    assert set(output.features) == {"text", "audio"}
    assert output.fused.features.present.tolist() == [True, True, False]
    assert output.predictions["mood"].shape == (3, 2)
    assert output.predictions["age"].shape == (3,)


def test_a_missing_key_equals_a_hidden_modality():
    model, batch = make_model(), make_batch()
    without = Batch({"text": batch.inputs["text"]}, batch.targets)

    hidden, missing, whole = (model(b).predictions["mood"] for b in (hide(batch, ["audio"]), without, batch))

    torch.testing.assert_close(missing, hidden, rtol=0, atol=0)
    assert not torch.equal(missing, whole)


def test_what_is_between_encoders_and_fusion_is_run():
    class Twice(nn.Module):
        def forward(self, features):
            return {n: Features(2 * x.tokens, x.mask, 2 * x.pooled) for n, x in features.items()}

    model, batch = make_model(), make_batch()
    expected = model(batch)
    model.missing = Twice()

    output = model(batch)

    torch.testing.assert_close(output.features["text"].pooled, 2 * expected.features["text"].pooled)


@pytest.mark.plain
def test_the_whole_model_compiles_and_exports():
    model, batch = make_model().eval(), make_batch()
    expected = model(batch)

    compiled = torch.compile(model, fullgraph=True, backend="eager")(batch)
    shapes = torch.export.ShapesCollection()
    for given in batch.inputs.values():
        for tensor in (given.values, given.present, given.mask):
            shapes[tensor] = {0: torch.export.Dim.DYNAMIC}
    for target in batch.targets.values():
        for tensor in (target.values, target.known):
            shapes[tensor] = {0: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(model, (batch,), dynamic_shapes=shapes).module()

    torch.testing.assert_close(compiled.predictions, expected.predictions)
    torch.testing.assert_close(exported(batch).predictions, expected.predictions)
    smaller = make_batch(rows=2)
    torch.testing.assert_close(exported(smaller).predictions, model(smaller).predictions)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda e, f, t: MultimodalModel({}, f, t),
            "MultimodalModel got 0 encoders and 1 tasks. Expected",
        ),
        (lambda e, f, t: MultimodalModel(e, f, {}), "got 1 encoders and 0 tasks"),
        (lambda e, f, t: MultimodalModel({"items": e["text"]}, f, t), "A modality cannot be named 'items', because"),
        (lambda e, f, t: MultimodalModel({"a.b": e["text"]}, f, t), "cannot be named 'a.b'.* Write a_b_ for example"),
        (lambda e, f, t: MultimodalModel(e, f, {"type": t["mood"]}), "A task cannot be named 'type'"),
        (
            lambda e, f, t: MultimodalModel(e, Concat({"text": 9}, 8), t),
            "Concat was built for {'text': 9}, but the encoders give {'text': 6}. Expected the same names and widths",
        ),
        (
            lambda e, f, t: MultimodalModel(e, f, {"mood": Classification(9, 2)}),
            r"The task 'mood' was built for vectors of 9, but Concat makes 8. .* Build Classification\(8, ...\)",
        ),
    ],
)
def test_a_model_that_cannot_work_is_not_built(build, message):
    encoders = {"text": Mean(3)}
    with pytest.raises(ValueError, match=message):
        build(encoders, Concat({"text": 6}, 8), {"mood": Classification(8, 2)})


@pytest.mark.plain
def test_a_batch_with_wrong_names_is_refused():
    model, batch = make_model(), make_batch()

    with pytest.raises(ValueError, match="Batch.inputs: unknown modality 'txt'. .* Did you mean 'text'"):
        model(Batch({"txt": batch.inputs["text"]}))
    with pytest.raises(ValueError, match="Batch.inputs is empty. Expected at least one of"):
        model(Batch({}))
    with pytest.raises(ValueError, match="hide: unknown modality 'adio'.* Did you mean 'audio'"):
        hide(batch, ["adio"])
