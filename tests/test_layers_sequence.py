"""The transformer over steps: padding, absence and order."""

import pytest
import torch

from mmfuse.layers.sequence import SequenceTransformer


def steps(*lengths, time=9):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(len(lengths), time, 8, generator=generator, dtype=torch.float64)
    return tokens, torch.arange(time) < torch.tensor(lengths)[:, None]


def test_padding_and_absence_change_nothing():
    torch.manual_seed(0)
    encode = SequenceTransformer(8, 2).double()
    tokens, mask = steps(9, 4, 0)

    spoilt = tokens.masked_fill(~mask[..., None], torch.nan)
    together, alone = encode(spoilt, mask), encode(tokens[1:2, :4], mask[1:2, :4])

    assert together.isfinite().all()
    torch.testing.assert_close(together[1, :4], alone[0], rtol=0, atol=1e-12)
    assert (together[~mask] == 0).all()
    together.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encode.parameters())


def test_the_order_of_the_steps_matters():
    torch.manual_seed(0)
    encode = SequenceTransformer(8, 1).double()
    tokens, mask = steps(9)

    changed = encode(tokens.flip(1), mask).flip(1)

    assert (changed - encode(tokens, mask)).abs().max() > 1e-3


@pytest.mark.plain
def test_it_compiles_whole():
    encode = SequenceTransformer(8, 1)
    tokens, mask = steps(9, 3)

    compiled = torch.compile(encode, fullgraph=True, backend="eager")(tokens.float(), mask)

    torch.testing.assert_close(compiled, encode(tokens.float(), mask))
