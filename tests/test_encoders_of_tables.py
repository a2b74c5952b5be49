"""What every encoder of a row of cells keeps: gradients beside NaN and absence, compile and export, half precision."""

import copy

import pytest
import test_encoder_ft_transformer
import test_encoder_tabular
import torch
from tabular_columns import COLUMNS
from tiny_models import relative_error, require_finite_gradients

from mmfuse import Input

FAMILIES = pytest.mark.parametrize(
    "family", [test_encoder_tabular, test_encoder_ft_transformer], ids=["TabularEncoder", "FTTransformerEncoder"]
)


@FAMILIES
@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("absent", [False, True])
def test_every_parameter_learns_beside_nan_and_absent_rows(family, name, absent):
    encoder = family.make(name)
    inputs = family.rows(encoder)
    if absent:
        inputs = Input(inputs.values, torch.zeros(len(inputs.values), dtype=torch.bool))

    features = encoder(inputs)

    require_finite_gradients(encoder, features)


@pytest.mark.plain
@FAMILIES
@pytest.mark.parametrize("name", COLUMNS)
def test_compiles_whole_and_exports(family, name):
    torch._dynamo.reset()
    encoder = family.make(name).eval()
    inputs = family.rows(encoder, fill=0.0)
    expected = encoder(inputs).zeroed()

    compiled = torch.compile(encoder, fullgraph=True, backend="eager")(inputs)
    shapes, few = torch.export.ShapesCollection(), Input(inputs.values[:3], inputs.present[:3])
    shapes[few.values] = shapes[few.present] = {0: torch.export.Dim("batch")}
    exported = torch.export.export(encoder, (few,), dynamic_shapes=shapes).module()(inputs)

    for made in (compiled.zeroed(), exported.zeroed()):
        torch.testing.assert_close(made.tokens, expected.tokens)
        torch.testing.assert_close(made.pooled, expected.pooled)


@FAMILIES
def test_half_precision_stays_near(family):
    encoder = family.make()
    expected = encoder(family.rows(encoder)).zeroed().pooled

    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = encoder(family.rows(encoder)).zeroed().pooled
    half = copy.deepcopy(encoder).to(torch.bfloat16)(family.rows(encoder)).zeroed().pooled

    assert relative_error(mixed.float(), expected) < 0.05
    assert relative_error(half.float(), expected) < 0.05
