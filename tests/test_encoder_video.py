"""An image encoder on every frame, a transformer over the frames: padding, absence, and clips from files to answers."""

import math

import numpy as np
import pytest
import torch
from tiny_models import relative_error, require_finite_gradients
from torch import nn

import mmfuse
from mmfuse import Features, Input
from mmfuse._record import arguments_of
from mmfuse.data import load_batches, read_table
from mmfuse.data.transforms import VideoTransform
from mmfuse.encoders import CNNEncoder, SkipAbsent, VideoEncoder, ViTEncoder
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification

FRAMES = {
    "vit": lambda: ViTEncoder.preset("tiny", size=16),
    "convnext": lambda: CNNEncoder("convnext", size=16, stages=[[8, 1], [16, 1]]),
    "resnet": lambda: CNNEncoder("resnet18", size=32, dim=16),
    "skip": lambda: SkipAbsent(CNNEncoder("convnext", size=16, stages=[[8, 1], [16, 1]])),
}
LENGTHS = [5, 0, 1, 3]


def make(name="vit", **options):
    torch.manual_seed(0)
    return VideoEncoder(FRAMES[name](), **options).eval()


def size_of(encoder):
    return encoder.transform().size


def videos(size, lengths=LENGTHS, time=None, fill=math.nan, seed=0):
    """Clips of these lengths; ``fill`` stands in the padding. Length 0: absent."""
    counts, time = torch.tensor(lengths), time or max(max(lengths), 1)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), max(max(lengths), 1), 3, size, size, generator=generator)
    padded = torch.full((len(lengths), time, 3, size, size), fill)
    padded[:, : values.shape[1]] = values
    mask = torch.arange(time) < counts[:, None]
    return Input(padded.masked_fill(~mask[..., None, None, None], fill), counts > 0, mask)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("fill", [1e4, math.nan])
def test_padding_and_neighbours_change_nothing(name, fill):
    encoder = make(name)
    size = size_of(encoder)
    batch = videos(size)
    separate = [Input(batch.values[i : i + 1, :n], torch.tensor([True])) for i, n in enumerate(LENGTHS) if n]
    expected = [encoder(clip) for clip in separate]

    for padded in (1, 7, 50) if name == "vit" else (1, 7):
        features = encoder(videos(size, time=5 + padded, fill=fill))
        assert features.mask.sum(dim=1).tolist() == LENGTHS
        for i, alone in zip((0, 2, 3), expected, strict=True):
            real = features.mask[i]
            assert relative_error(features.tokens[i][real], alone.tokens[0]) <= 1e-5
            assert relative_error(features.pooled[i], alone.pooled[0]) <= 1e-5
    assert encoder.dim == features.pooled.shape[1]


def test_frames_under_no_mask_would_change_the_result():
    encoder = make()
    batch = videos(16, time=8, fill=1.0)

    unmasked = encoder(Input(batch.values, batch.present)).pooled[0]

    assert relative_error(unmasked, encoder(batch).pooled[0]) > 1e-2


def test_the_order_of_the_frames_counts():
    encoder, batch = make(), videos(16, [5])

    turned = encoder(Input(batch.values.flip(1), batch.present)).pooled

    assert relative_error(turned, encoder(batch).pooled) > 1e-3


def test_without_a_layer_it_is_the_mean_of_the_normed_frames():
    encoder = make("convnext", num_layers=0)
    batch = videos(16, [3, 2], fill=7.0)

    features = encoder(batch)

    for i, n in enumerate((3, 2)):
        frames = encoder.frame_encoder(Input(batch.values[i, :n], torch.ones(n, dtype=torch.bool))).pooled
        position = torch.arange(n)[:, None] / 10000 ** (torch.arange(0, 16, 2) / 16)
        placed = nn.functional.layer_norm(frames, (16,)) + torch.stack(
            [position.sin(), position.cos()], dim=-1
        ).flatten(1)
        expected = nn.functional.layer_norm(placed, (16,)).mean(dim=0)
        torch.testing.assert_close(features.pooled[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0]])
def test_every_parameter_learns_beside_nan_and_absent_clips(name, lengths):
    encoder = make(name).train()

    features = encoder(videos(size_of(encoder), lengths, time=6))

    assert features.present.tolist() == [n > 0 for n in lengths]
    require_finite_gradients(encoder, features)


def test_batch_norm_of_the_frame_encoder_sees_real_frames_only():
    padded, plain = make("resnet").train(), make("resnet").train()
    batch = videos(32, [3, 0, 3], time=6)  # 6 real frames, and 12 copies: each frame stands there three times

    padded(batch)

    frames = batch.values[batch.mask]
    plain(Input(frames[None], torch.tensor([True])))
    for one, other in zip(padded.named_buffers(), plain.named_buffers(), strict=True):
        if "running_mean" in one[0]:
            torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-5, msg=one[0])


def test_a_frozen_frame_encoder_stays_as_it_is():
    torch.manual_seed(0)
    encoder = VideoEncoder(CNNEncoder("resnet18", size=32, dim=16, freeze="all")).train()
    before = {key: value.clone() for key, value in encoder.frame_encoder.backbone.state_dict().items()}

    features = encoder(videos(32))

    require_finite_gradients(encoder, features)
    assert not any(part.training for part in encoder.frame_encoder.backbone.modules())
    assert all(torch.equal(value, before[key]) for key, value in encoder.frame_encoder.backbone.state_dict().items())
    assert encoder.backbone is encoder.frame_encoder.backbone
    assert not encoder.pretrained
    encoder.pretrained = True
    assert encoder.frame_encoder.pretrained


class Shade(nn.Module):
    """A user's own image encoder: the brightness of each channel."""

    dim = 3

    def __init__(self, transform):
        super().__init__()
        self._transform = transform

    def forward(self, input):
        return Features.from_pooled(input.zeroed().values.float().mean(dim=(2, 3)), input.present)

    def transform(self, train=False):
        return self._transform


def test_takes_an_image_encoder_of_ones_own():
    encoder = VideoEncoder(Shade(VideoTransform(8, num_frames=1)), num_heads=1, fps=2.0, max_seconds=9.0)

    features = encoder(videos(8))

    assert features.mask.sum(dim=1).tolist() == LENGTHS
    assert (encoder.transform().fps, encoder.transform().max_seconds, encoder.transform().padding) == (2.0, 9.0, 0)
    assert encoder.backbone is encoder.frame_encoder


def test_the_transform_makes_what_the_encoder_takes():
    encoder = make("convnext", num_frames=3)
    frames = torch.randint(0, 256, (7, 20, 24), dtype=torch.uint8)

    train, evaluate = encoder.transform(train=True), encoder.transform()

    assert (train.random, evaluate.random, train.size, evaluate.num_frames) == (True, False, 16, 3)
    batch = torch.stack([train(frames), evaluate(frames), evaluate.blank()])
    features = encoder(Input(batch, torch.tensor([True, True, False])))
    normal = (batch / 255 - torch.tensor(encoder.frame_encoder.mean)[:, None, None]) / torch.tensor(
        encoder.frame_encoder.std
    )[:, None, None]
    same = encoder(Input(normal, torch.tensor([True, True, False])))
    torch.testing.assert_close(features.zeroed().tokens, same.zeroed().tokens, rtol=1e-4, atol=1e-4)
    assert make().transform().num_frames == 8


@pytest.mark.plain
@pytest.mark.parametrize("name, train", [("vit", False), ("convnext", True)])
def test_compiles_whole_with_clips_of_any_length(name, train):
    torch._dynamo.reset()
    encoder = make(name).train(train)
    size = size_of(encoder)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager", dynamic=True)

    for lengths in ([5, 0, 3], [2, 4, 1]):
        batch = videos(size, lengths)
        expected = encoder(batch)
        torch.testing.assert_close(compiled(batch).zeroed().tokens, expected.zeroed().tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.plain
def test_exports_for_any_number_and_length_of_clips():
    encoder = make("convnext")
    batch, time = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("time", min=2, max=64)
    shapes = {"input": [{0: batch, 1: time}, {0: batch}, {0: batch, 1: time}]}

    program = torch.export.export(encoder, (videos(16),), dynamic_shapes=shapes)

    other = videos(16, [7, 2, 0])
    torch.testing.assert_close(program.module()(other).zeroed().pooled, encoder(other).zeroed().pooled)


def test_half_precision_stays_near():
    encoder, batch = make("convnext"), videos(16)
    expected = encoder(batch).zeroed().pooled

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(batch)

    assert relative_error(features.zeroed().pooled.float(), expected) < 0.05


def directions(count=16):
    """A bright stripe that moves to the left or to the right: no single frame tells which."""
    left = torch.arange(count) % 2 == 0
    steps = torch.arange(6) * 2
    at = torch.where(left[:, None], 12 - steps, 2 + steps) + torch.randint(0, 2, (count, 1))
    frames = torch.full((count, 6, 16, 16), 20, dtype=torch.uint8)
    for offset in range(2):
        frames.scatter_(3, (at + offset)[..., None, None].expand(-1, -1, 16, 1), 220)
    return frames, left


def test_learns_the_direction_of_a_movement():
    torch.manual_seed(0)
    encoder, head = make("convnext", num_frames=6).train(), nn.Linear(16, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=5e-3)
    transform = encoder.transform()

    for _ in range(80):
        frames, left = directions()
        clips = torch.stack([transform(clip) for clip in frames])
        loss = nn.functional.cross_entropy(
            head(encoder(Input(clips, torch.ones(16, dtype=torch.bool))).pooled), left.long()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert loss < 0.2


def make_model(**options):
    torch.manual_seed(0)
    encoder = VideoEncoder(CNNEncoder("convnext", size=16, stages=[[8, 1], [16, 1]]), **options)
    return mmfuse.MultimodalModel(
        {"video": encoder},
        Concat({"video": 16}, 8),
        {"label": Classification(8, ["a", "b"])},
    )


def test_is_saved_and_loaded(tmp_path):
    model = make_model(num_frames=4).eval()
    mmfuse.save(model, tmp_path / "model")

    again = mmfuse.load(tmp_path / "model").encoders["video"].eval()

    assert arguments_of(again)["num_frames"] == 4
    expected = model.encoders["video"](videos(16)).zeroed().tokens
    torch.testing.assert_close(again(videos(16)).zeroed().tokens, expected, rtol=0, atol=0)


def test_grey_clips_of_an_array_in_memory_go_through_the_loader():
    depth = torch.randint(0, 256, (6, 9, 20, 24), dtype=torch.uint8).numpy()
    model = make_model(num_frames=4)
    table = read_table({"video": depth, "label": list("ababab")})

    batches = list(load_batches(table, model, train=True, batch_size=4))

    assert [batch.inputs["video"].values.shape for batch in batches] == [(4, 4, 3, 16, 16), (2, 4, 3, 16, 16)]
    assert batches[0].inputs["video"].mask is None
    assert model(batches[0]).predictions["label"].isfinite().all()


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_same_frames(workers, tmp_path):
    av = pytest.importorskip("av")
    for name in "ab":
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
            rng = np.random.default_rng(ord(name))
            for _ in range(20):
                frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    (tmp_path / "table.csv").write_text("video,label\na.mp4,a\nb.mp4,b\n,a\nb.mp4,b\n")
    model = make_model(fps=3.0)

    def read(count):
        table = read_table(tmp_path / "table.csv")
        loader = load_batches(table, model, train=True, batch_size=2, workers=count, seed=1)
        return [batch.inputs["video"] for batch in loader]

    got, expected = read(workers), read(0)

    assert got[0].values.dtype == torch.uint8
    assert sum(int(batch.mask.sum()) for batch in got) == 18
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.values, other.values) and torch.equal(one.mask, other.mask)


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"VideoEncoder got a Linear\. Expected an encoder of images.*Build one first"):
        VideoEncoder(nn.Linear(3, 4))
    with pytest.raises(TypeError, match=r"how large the frames of Shade are\. Expected a transform.*Give yours a size"):
        VideoEncoder(Shade(nn.Identity()), num_heads=1)
    with pytest.raises(ValueError, match=r"VideoEncoder cannot split dim=3 into num_heads=4"):
        VideoEncoder(Shade(VideoTransform(8, num_frames=1)))
    with pytest.raises(ValueError, match=r"num_frames=4 and fps=2\.0\. Expected one of the two"):
        make(num_frames=4, fps=2.0)
    with pytest.raises(ValueError, match=r"VideoEncoder input has shape \(2, 3, 16, 16\)\. Expected \(batch, time, ch"):
        make()(Input(torch.zeros(2, 3, 16, 16), torch.tensor([True, True])))
