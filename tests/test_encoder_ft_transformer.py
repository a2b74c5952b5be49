"""FT-Transformer: its equations, cells that are missing, absent rows."""

import pytest
import torch
import torch.nn.functional as F
from tabular_columns import COLUMNS, NUMBERS

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.encoders import FTTransformerEncoder

ABSENT = 2


def make(name="both", **to):
    torch.manual_seed(0)
    return FTTransformerEncoder(16, **COLUMNS[name], num_layers=2, num_heads=2, dropout=0.0).to(**to)


def rows(encoder, batch=12, dtype=torch.float32, fill=float("nan")):
    """Random rows with missing and unseen cells, one of them absent; ``fill`` stands where no number is."""
    generator = torch.Generator().manual_seed(0)
    kinds, parts = encoder.transform(), []
    if kinds.numbers:
        numbers = torch.randn(batch, 2, generator=generator, dtype=torch.float64)
        observed = torch.rand(batch, 2, generator=generator) < 0.6
        parts += [numbers.masked_fill(~observed, fill), observed]
    if kinds.categories:
        parts.append(torch.stack([torch.randint(0, n, (batch,), generator=generator) for n in (4, 5)], dim=1))
    values = torch.cat([part.to(dtype) for part in parts], dim=1)
    values[ABSENT] = fill
    return Input(values, torch.arange(batch) != ABSENT)


def expected_cls(encoder, row):
    """[CLS] of one row by the equations of the paper: only the cells that are there, one at a time."""
    tokenize = encoder.tokenize
    tokens = [tokenize.cls]
    sex, ward = tokenize.embed.weight[:2], tokenize.embed.weight[2:]
    for j in range(2):
        if row[2 + j]:
            tokens.append(tokenize.bias[j] + row[j] * tokenize.weight[j])
    for j, known in enumerate((sex, ward)):
        code = int(row[4 + j])
        if code:
            tokens.append(tokenize.bias[2 + j] + (known.mean(dim=0) if code == 1 else known[code - 2]))
    x = torch.stack(tokens)
    for number, layer in enumerate(encoder.layers):
        normed = x if number == 0 else F.layer_norm(x, (16,), layer.norm_attention.weight, layer.norm_attention.bias)
        q = layer.attention.query(normed).unflatten(-1, (2, 8))
        k, v = layer.attention.key_value(normed).unflatten(-1, (2, 2, 8)).unbind(1)
        heads = [((q[:, h] @ k[:, h].T) / 8**0.5).softmax(dim=-1) @ v[:, h] for h in range(2)]
        x = x + layer.attention.out(torch.cat(heads, dim=-1))
        normed = F.layer_norm(x, (16,), layer.norm_feed_forward.weight, layer.norm_feed_forward.bias)
        wide = layer.widen(normed)
        x = x + layer.narrow(wide[:, :21] * wide[:, 21:].clamp_min(0))
    return F.layer_norm(x[0], (16,), encoder.norm.weight, encoder.norm.bias)


def test_a_row_equals_the_equations_of_the_paper():
    encoder = make(dtype=torch.float64)
    inputs = rows(encoder, dtype=torch.float64)

    features = encoder(inputs)

    for i, row in enumerate(inputs.values):
        if i != ABSENT:
            torch.testing.assert_close(features.pooled[i], expected_cls(encoder, row), rtol=0, atol=1e-12)
            assert features.mask[i].tolist() == [True, *(row[2:] > 0.5).tolist()]
    assert not features.mask[ABSENT].any()


@pytest.mark.parametrize("name", COLUMNS)
def test_what_stands_in_an_empty_cell_is_never_read(name):
    encoder = make(name)

    features = [encoder(rows(encoder, fill=fill)).zeroed() for fill in (float("nan"), 1e4, float("inf"))]

    for got in features[1:]:
        torch.testing.assert_close(got.tokens, features[0].tokens, rtol=0, atol=0)
    assert features[0].tokens.isfinite().all()


def test_a_cell_that_is_there_is_read():
    encoder = make()
    inputs = rows(encoder, fill=0.0)
    flags = inputs.values[:, 2] > 0.5
    changed = inputs.values.clone()
    changed[:, 0] += 1

    difference = (encoder(Input(changed, inputs.present)).pooled - encoder(inputs).pooled).abs().amax(dim=1)

    assert (difference[flags & inputs.present] > 1e-3).all()
    assert (difference[~flags] == 0).all()


def test_each_row_alone_gives_its_row_of_the_batch():
    encoder = make(dtype=torch.float64)
    inputs = rows(encoder, dtype=torch.float64)

    pooled = encoder(inputs).pooled

    for i in (0, 1, 3, 4):
        alone = encoder(Input(inputs.values[i : i + 1], inputs.present[i : i + 1])).pooled[0]
        torch.testing.assert_close(pooled[i], alone, rtol=0, atol=1e-12)


def test_a_row_of_empty_cells_that_is_present_is_the_cls_token_alone():
    encoder = make()

    features = encoder(Input(torch.zeros(2, 6), torch.tensor([True, False])))

    assert features.mask.tolist() == [[True] + [False] * 4, [False] * 5]
    assert features.pooled[0].isfinite().all()


def test_remembers_how_it_was_built_and_hands_out_its_transform():
    encoder = make()

    again = FTTransformerEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    transform = again.transform(train=True)
    assert transform.columns == ("age", "dose", "sex", "ward")
    assert again(Input(transform.blank()[None], torch.tensor([False]))).tokens.shape == (1, 5, 16)


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"FTTransformerEncoder input has shape \(4, 5\)\. Expected \(batch, width"):
        make()(Input(torch.zeros(4, 5), torch.ones(4).bool()))
    with pytest.raises(ValueError, match=r"TabularTransform got no columns"):
        FTTransformerEncoder(16)
    with pytest.raises(ValueError, match=r"FTTransformerEncoder cannot split dim=12 into num_heads=8"):
        FTTransformerEncoder(12, numbers=NUMBERS)
    with pytest.raises(ValueError, match=r"FTTransformerEncoder got num_layers=0\. Expected a number above 0"):
        FTTransformerEncoder(16, numbers=NUMBERS, num_layers=0)
