"""What every encoder of time series must keep, for its tests: padding, absence, gradients, compile, export, saving."""

import copy

import torch
from tiny_models import relative_error, require_finite_gradients

import mmfuse
from mmfuse import Batch, Input, MultimodalModel
from mmfuse.data.transforms import SeriesTransform
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification

LENGTHS = [40, 17, 16, 5, 1]
CHANNELS = 3


def series(lengths, time=None, fill=0.0, width=CHANNELS, seed=0, dtype=torch.float64):
    """Noise of these lengths; ``fill`` stands in the padding. Length 0: absent."""
    time = time or max(lengths)
    generator = torch.Generator().manual_seed(seed)
    values = torch.full((len(lengths), time, width), fill, dtype=dtype)
    for i, length in enumerate(lengths):
        values[i, :length] = torch.randn(length, width, generator=generator, dtype=torch.float64).to(dtype)
    counts = torch.tensor(lengths)
    return Input(values, counts > 0, torch.arange(time) < counts[:, None])


def cut(batch, i):
    """One series of a batch, without padding and without a mask."""
    length = int(batch.mask[i].sum())
    return Input(batch.values[i : i + 1, :length], batch.present[i : i + 1])


def check_padding(encoder):
    """Each series alone, without padding, gives its row of every padded batch."""
    encoder = encoder.double().eval()
    separate = [encoder(cut(series(LENGTHS), i)).zeroed() for i in range(len(LENGTHS))]

    for padded in (0, 1, 7, 50):
        for fill in (1e4, float("nan")):
            features = encoder(series(LENGTHS, max(LENGTHS) + padded, fill=fill))
            for i, expected in enumerate(separate):
                real = features.mask[i]
                assert real.sum() == expected.mask.sum() > 0
                assert relative_error(features.tokens[i][real], expected.tokens[0][expected.mask[0]]) <= 1e-10
                assert relative_error(features.pooled[i], expected.pooled[0]) <= 1e-10
            assert features.tokens.isfinite().all()


def check_padding_unmasked_would_change_it(encoder):
    encoder = encoder.double().eval()
    masked = encoder(series(LENGTHS, 60))

    unmasked = encoder(Input(series(LENGTHS, 60).values, torch.ones(len(LENGTHS), dtype=torch.bool)))

    assert relative_error(unmasked.pooled, masked.pooled) > 0.05


def check_absence(encoder):
    """Absent series are never read and come out absent; the gradients are those without them."""
    encoder = encoder.double().train()
    lengths = [12, 0, 30, 0]
    with_absent, without = copy.deepcopy(encoder), copy.deepcopy(encoder)
    batch = series(lengths, 33, fill=float("nan"))
    few = Input(batch.values[[0, 2]], batch.present[[0, 2]], batch.mask[[0, 2]])

    features = with_absent(batch)
    features.zeroed().pooled.square().sum().backward()
    without(few).zeroed().pooled.square().sum().backward()

    assert features.present.tolist() == [True, False, True, False]
    assert not features.mask[[1, 3]].any()
    for (name, got), expected in zip(with_absent.named_parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")
    require_finite_gradients(encoder, encoder(batch))
    encoder.zero_grad()
    none = encoder(series([0, 0], 9, fill=float("nan")))
    assert not none.mask.any()
    require_finite_gradients(encoder, none)


def check_every_parameter_learns(encoder):
    encoder = encoder.double().train()

    encoder(series(LENGTHS)).zeroed().pooled.sin().sum().backward()

    for name, parameter in encoder.named_parameters():
        assert parameter.grad.abs().max() > 0, f"{name} does not learn"


def check_half_precision(encoder):
    encoder = encoder.float().eval()
    batch = series(LENGTHS, 45, fill=float("nan"), dtype=torch.float32)
    expected = encoder(batch).zeroed().pooled

    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = encoder(batch).zeroed().pooled.float()
    narrow = copy.deepcopy(encoder).bfloat16()(batch).zeroed().pooled.float()

    for half in (got, narrow):
        cosine = torch.nn.functional.cosine_similarity(half, expected)
        assert cosine.min() >= 0.995
        assert relative_error(half, expected) < 0.1


def check_compiles(encoder, lengths):
    """One compiled encoder for batches of several lengths equals the plain one."""
    encoder = encoder.float().eval()
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")

    for longest in lengths:
        batch = series([longest, 4, 0], longest, dtype=torch.float32)
        torch.testing.assert_close(compiled(batch).tokens, encoder(batch).tokens)


def check_exports(encoder, times):
    """An exported program equals the encoder at these lengths, for any number of series."""
    encoder = encoder.float().eval()
    batch = series([24, 4, 0], 24, dtype=torch.float32)
    shapes = torch.export.ShapesCollection()
    count = torch.export.Dim("batch", min=2, max=64)
    length = {1: torch.export.Dim("time", min=4, max=512)} if len(times) > 1 else {}
    shapes[batch.present] = {0: count}
    shapes[batch.values] = shapes[batch.mask] = {0: count} | length

    program = torch.export.export(encoder, (batch,), dynamic_shapes=shapes).module()

    for longest in times:
        batch = series([longest, 4, 0, 1], longest, dtype=torch.float32, seed=1)
        torch.testing.assert_close(program(batch).pooled, encoder(batch).pooled)


def check_saves(encoder, folder):
    """A model with the encoder comes back with its weights, its settings and its transform."""
    model = MultimodalModel(
        {"series": encoder.float()},
        Concat({"series": encoder.dim}, dim=8),
        {"label": Classification(8, classes=["a", "b"])},
    ).eval()
    batch = Batch({"series": series(LENGTHS, dtype=torch.float32)})

    mmfuse.save(model, folder)
    loaded = mmfuse.load(folder)

    torch.testing.assert_close(loaded(batch).predictions["label"], model(batch).predictions["label"], rtol=0, atol=0)
    again, transform = loaded.encoders["series"], encoder.transform()
    assert isinstance(again.transform(), SeriesTransform)
    assert again.pretrained
    cell = torch.randn(9, CHANNELS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.transform()(cell), transform(cell), rtol=0, atol=0)
