"""Layers equal their equations, read nothing that is not real, and give finite gradients where nothing is."""

import math

import pytest
import torch
from fusion_equations import attend, attention_pool, cross_block, linear, self_block
from torch import nn

from mmfuse.layers.attention import Attention, score_bias
from mmfuse.layers.join import JoinTokens
from mmfuse.layers.linear import add_linear, either, factor_linear, linear_or
from mmfuse.layers.masking import mean_of_real, real_only, wide
from mmfuse.layers.modalities import by_name, read_pooled, read_tokens
from mmfuse.layers.pooling import AttentionPool
from mmfuse.layers.transformer import CrossBlock, FeedForward, SelfBlock
from mmfuse.testing import DIMS, random_features
from mmfuse.testing.samples import spoiled, watched

MASK = torch.tensor([[True, True, True, True, True], [True, False, True, True, False], [False] * 5])


def sequence(*, time=5, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, time, dim, generator=generator, dtype=torch.float64)


def zeroed(tokens, mask):
    return tokens.masked_fill(~mask[..., None], 0.0)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_attention_equals_its_equation():
    attention, queries, keys = Attention(8, 2, key_dim=6).double(), sequence(time=2), sequence(dim=6, seed=1)

    read = attention(queries, keys, MASK)

    for i in range(3):
        for query, found in zip(queries[i], read[i], strict=True):
            expected = attend(attention, query, list(keys[i, MASK[i]]))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_attention_reads_what_was_projected_before():
    attention, queries, keys = Attention(8, 2).double(), sequence(time=2), sequence(seed=1)

    read = attention.read(queries, attention.project(keys), MASK)

    assert torch.equal(read, attention(queries, keys, MASK))


@pytest.mark.parametrize("make", [SelfBlock, CrossBlock, AttentionPool])
def test_a_mask_of_all_equals_no_mask(make):
    layer, tokens = make(8, 2).double(), sequence()
    arguments = (tokens, sequence(seed=1)) if make is CrossBlock else (tokens,)

    masked, plain = layer(*arguments, torch.ones(3, 5, dtype=torch.bool)), layer(*arguments)

    torch.testing.assert_close(masked, plain, rtol=0, atol=1e-12)


def test_a_bias_of_scores_made_once_equals_the_mask():
    block, tokens = SelfBlock(8, 2).double(), sequence()[:2]

    found = block(tokens, score_bias(MASK[:2], tokens.dtype))

    torch.testing.assert_close(found, block(tokens, MASK[:2]), rtol=0, atol=1e-12)


def test_feed_forward_has_an_inner_layer_of_four_widths():
    assert [layer.weight.shape for layer in FeedForward(8) if isinstance(layer, nn.Linear)] == [(32, 8), (8, 32)]


def test_self_block_equals_its_equation_on_real_tokens():
    block, tokens = SelfBlock(8, 2).double(), sequence()

    found = block(tokens, MASK)

    for i in range(2):
        expected = torch.stack(self_block(block, list(tokens[i, MASK[i]])))
        torch.testing.assert_close(found[i, MASK[i]], expected, rtol=0, atol=1e-12)


def test_cross_block_equals_its_equation_and_keeps_its_tokens_without_a_key():
    block, tokens, keys = CrossBlock(8, 2, key_dim=6).double(), sequence(time=2), sequence(dim=6, seed=1)

    found = block(tokens, keys, MASK)

    for i in range(3):
        expected = torch.stack(cross_block(block, list(tokens[i]), list(keys[i, MASK[i]])))
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[2], tokens[2] + block.feed_forward(block.norm_feed_forward(tokens[2])))


def test_cross_block_reads_what_was_projected_before():
    block, tokens, keys = CrossBlock(8, 2).double(), sequence(time=2), sequence(seed=1)

    assert torch.equal(block.read(tokens, block.project(keys), MASK), block(tokens, keys, MASK))


def test_attention_pool_equals_its_plain_form():
    pool, tokens = AttentionPool(8, 2).double(), sequence()

    pooled = pool(tokens, MASK)

    for i in range(3):
        expected = attention_pool(pool, list(tokens[i, MASK[i]]))
        torch.testing.assert_close(pooled[i], expected, rtol=0, atol=1e-12)


def test_attention_pool_equals_the_attention_of_torch():
    pool, tokens = AttentionPool(8, 2).double(), sequence()
    peer = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([torch.eye(8), pool.key.weight, pool.value.weight]))
        peer.in_proj_bias.copy_(torch.cat([torch.zeros(16), pool.value.bias]))
        peer.out_proj.load_state_dict(pool.out.state_dict())

    expected, _ = peer(pool.query.reshape(1, 1, 8).expand(2, 1, 8), tokens[:2], tokens[:2], key_padding_mask=~MASK[:2])

    torch.testing.assert_close(pool(tokens, MASK)[:2], expected[:, 0], rtol=0, atol=1e-12)


def test_attention_pool_gives_zeros_and_no_shares_where_nothing_is_real():
    pool, tokens = AttentionPool(8, 2).double(), sequence()

    pooled, shares = pool(tokens, MASK), pool.shares(tokens, MASK)

    assert not pooled[2].any()
    assert not shares[2].any()
    assert not shares.masked_select(~MASK[:, None]).any()
    torch.testing.assert_close(shares[:2].sum(dim=2), torch.ones(2, 2).double())


@pytest.mark.parametrize("make", [SelfBlock, CrossBlock, AttentionPool])
def test_what_is_not_real_changes_nothing_and_gradients_are_finite(make):
    layer = make(8, 2).double()
    first = [sequence(seed=1)] if make is CrossBlock else []
    tokens = zeroed(sequence(), MASK).requires_grad_()
    other = (zeroed(sequence(), MASK) + 100 * ~MASK[..., None]).requires_grad_()

    one, same = layer(*first, tokens, MASK), layer(*first, other, MASK)
    real = MASK if make is SelfBlock else torch.ones(len(one), dtype=torch.bool)
    one[real].square().sum().backward()

    torch.testing.assert_close(same[real], one[real], rtol=0, atol=1e-12)
    assert not tokens.grad[~MASK].any()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("make", [SelfBlock, CrossBlock, AttentionPool])
def test_a_batch_with_nothing_real_gives_finite_gradients(make):
    layer, tokens = make(8, 2).double(), torch.zeros(3, 5, 8).double().requires_grad_()
    first = [sequence(seed=1)] if make is CrossBlock else []

    result = layer(*first, tokens, torch.zeros(3, 5, dtype=torch.bool))
    result.square().sum().backward()

    assert result.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("make", [SelfBlock, CrossBlock, AttentionPool])
def test_gradients_agree_with_finite_differences(make):
    layer = make(8, 2).double()
    tokens = sequence().requires_grad_()
    first = [sequence(seed=1)] if make is CrossBlock else []

    assert torch.autograd.gradcheck(lambda x: layer(*first, x, MASK), tokens, fast_mode=True)


@pytest.mark.parametrize("make", [SelfBlock, CrossBlock, AttentionPool])
def test_low_precision_comes_out_as_it_went_in_and_agrees(make):
    layer = make(8, 2)
    arguments = [sequence().float()] * (2 if make is CrossBlock else 1)
    exact = layer(*arguments, MASK)

    rough = layer.bfloat16()(*(x.bfloat16() for x in arguments), MASK)

    assert rough.dtype == torch.bfloat16
    assert torch.cosine_similarity(rough.float().flatten(), exact.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("make", [SelfBlock, CrossBlock])
def test_blocks_drop_in_training_only(make):
    block, tokens = make(8, 2, dropout=0.5).double(), sequence()
    arguments = (tokens, tokens) if make is CrossBlock else (tokens,)

    assert not torch.equal(block(*arguments), block(*arguments))
    block.eval()
    assert torch.equal(block(*arguments), block(*arguments))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_reading_puts_zeros_where_nothing_is_real(value):
    features = watched(spoiled(random_features(), value))

    pooled, present = read_pooled(features, DIMS)
    tokens, masks = read_tokens(features, DIMS)
    sum(x.sum() for x in (*pooled.values(), *tokens.values())).backward()

    for place, (name, x) in enumerate(features.items()):
        assert torch.equal(present[:, place], x.present)
        assert torch.equal(masks[name], x.mask)
        assert torch.equal(pooled[name], random_features()[name].zeroed().pooled)
        assert torch.equal(tokens[name], random_features()[name].zeroed().tokens)
        assert torch.equal(x.tokens.grad, x.mask[..., None].double().expand_as(x.tokens))
        assert torch.equal(x.pooled.grad, x.present[:, None].double().expand_as(x.pooled))


def test_reading_takes_the_named_modalities_in_the_order_of_the_names():
    names = ["image", "text"]

    pooled, present = read_pooled(random_features(), names)
    tokens, masks = read_tokens(random_features(), names)

    assert list(pooled) == list(tokens) == list(masks) == names
    assert torch.equal(present[:, 1], random_features()["text"].present)


@pytest.mark.plain
@pytest.mark.parametrize("read", [read_pooled, read_tokens])
def test_reading_says_which_modality_is_missing(read):
    with pytest.raises(ValueError, match=r"The fusion got no \['smell'\], only \['audio', 'image', 'text'\]. Expected"):
        read(random_features(), ["text", "smell"])


def test_columns_go_by_name():
    weights = torch.arange(6.0).reshape(2, 3)

    named = by_name(DIMS, weights)

    assert {name: column.tolist() for name, column in named.items()} == {
        "text": [0, 3], "audio": [1, 4], "image": [2, 5]
    }  # fmt: skip


def test_joined_tokens_stand_in_the_order_of_dims():
    join, features = JoinTokens(DIMS, 8).double(), random_features()

    tokens, mask = join(dict(reversed(features.items())))

    assert torch.equal(mask, torch.cat([features[name].mask for name in DIMS], dim=1))
    for i in range(6):
        expected = [
            linear(join.project[name], x) for name in DIMS for x in features[name].tokens[i, features[name].mask[i]]
        ]
        assert len(expected) == mask[i].sum()
        for found, wanted in zip(tokens[i, mask[i]], expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.plain
def test_attention_pool_compiles_whole():
    pool, tokens = AttentionPool(8, 2).double(), sequence()

    compiled = torch.compile(pool, fullgraph=True, backend="eager")

    torch.testing.assert_close(compiled(tokens, MASK), pool(tokens, MASK))
    torch.testing.assert_close(compiled(tokens), pool(tokens))


@pytest.mark.plain
@pytest.mark.parametrize("make", [Attention, AttentionPool])
def test_a_width_that_cannot_be_split_into_heads_is_refused(make):
    with pytest.raises(ValueError, match=f"{make.__name__} cannot split dim=10 into num_heads=4 .* Choose dim=12"):
        make(10, 4)


def test_a_factor_has_half_of_its_variance_from_its_bias():
    torch.manual_seed(0)

    layer = factor_linear(400, 4000, gain=2.0)

    assert layer.weight.var().item() * 400 == pytest.approx(2, rel=0.1)
    assert layer.bias.var().item() == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.0])
def test_only_real_values_stay_and_pass_a_gradient(dtype, value):
    values = sequence().to(dtype).masked_fill(~MASK[..., None], value).requires_grad_()

    kept = real_only(values, MASK[..., None])
    kept.sum().backward()

    assert kept.dtype == dtype
    assert torch.equal(kept, zeroed(values, MASK))
    assert torch.equal(values.grad, MASK[..., None].expand_as(values).to(dtype))


def test_a_real_value_that_is_not_finite_is_not_hidden():
    values = torch.tensor([math.nan, math.inf, 2.0])

    assert real_only(values, torch.tensor([True, True, False])).isfinite().tolist() == [False, False, True]


def test_zeros_in_place_of_what_is_not_real_work_with_second_gradients_and_vmap():
    values, mask = sequence().requires_grad_(), MASK[..., None]

    assert torch.autograd.gradgradcheck(lambda x: real_only(x, mask).square(), values)
    each = torch.func.vmap(real_only)(values, mask)
    torch.testing.assert_close(each, real_only(values, mask), rtol=0, atol=0)


def test_a_linear_layer_can_start_from_another_bias_for_each_sample():
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)

    torch.testing.assert_close(add_linear(layer.bias.expand(4, 2), layer, x), layer(x))


def test_a_vector_stands_for_what_a_linear_layer_has_not():
    torch.manual_seed(0)
    layer, absent, present = nn.Linear(3, 2), torch.randn(2), torch.tensor([True, False, True])
    x = torch.randn(3, 3) * present[:, None]

    expected = torch.stack([layer(x[0]), absent, layer(x[2])])
    torch.testing.assert_close(linear_or(absent, layer, x, either(present, x.dtype)), expected)


def test_the_mean_of_real_values_is_zero_without_any():
    values, real = torch.tensor([[1.0, math.nan], [5.0, math.nan]]), torch.tensor([[True, False], [True, False]])

    assert mean_of_real(values, real).item() == 3
    assert mean_of_real(values, torch.zeros_like(real)).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_wide_values_are_float32_or_better(dtype):
    assert wide(torch.ones(2, dtype=dtype)).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
