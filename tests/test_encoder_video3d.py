"""3D networks of torchvision behind one encoder: absence, statistics of BatchNorm, freezing, loading, compiling."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import relative_error, require_finite_gradients
from torch import nn

import mmfuse
from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.data.transforms import VideoTransform
from mmfuse.encoders import Video3DEncoder
from mmfuse.encoders._batchnorm import run_present
from mmfuse.encoders._networks3d import CLIPS, behead, run_network, stem_and_layers
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification

SWIN = {"name": "swin3d", "stages": [[16, 1], [32, 1]], "num_frames": 4, "size": 16}
SMALL = {
    "swin": SWIN,
    "s3d": {"name": "s3d", "num_frames": 8, "size": 32},
    "r3d": {"name": "r3d_18", "num_frames": 4, "size": 16, "dim": 12},
}


def make(which="swin", **options):
    torch.manual_seed(0)
    return Video3DEncoder(**SMALL[which] | options).eval()


def clips(encoder, present=(True, False, True), seed=1):
    present = torch.tensor(present)
    shape = (len(present), encoder.num_frames, 3, encoder.size, encoder.size)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    values[~present] = float("nan")
    return Input(values, present)


@pytest.mark.parametrize("which", SMALL)
def test_a_sample_alone_is_the_same_as_in_a_batch_beside_absent_ones(which):
    encoder = make(which)
    batch = clips(encoder)

    features = encoder(batch)

    for i in (0, 2):
        alone = encoder(Input(batch.values[i : i + 1], batch.present[i : i + 1]))
        assert relative_error(features.tokens[i], alone.tokens[0]) <= 1e-5
        assert relative_error(features.pooled[i], alone.pooled[0]) <= 1e-5
    assert features.present.tolist() == [True, False, True]
    assert encoder.dim == features.tokens.shape[2]


def test_tokens_are_the_cells_by_time_row_and_column():
    encoder = make(size=32, num_frames=8)
    batch = clips(encoder, present=(True, True))

    features = encoder(batch)

    assert features.tokens.shape == (2, 4 * 4 * 4, 32)  # patches of 2 x 4 x 4, merged to 2 x 8 x 8
    torch.testing.assert_close(features.pooled, features.tokens.mean(dim=1))
    changed = batch.values.clone()
    changed[:, -1, :, -1, -1] += 50.0
    moved = (encoder(Input(changed, batch.present)).tokens - features.tokens).norm(dim=-1)[0]
    assert int(moved.argmax()) == 63


@pytest.mark.parametrize("which", SMALL)
@pytest.mark.parametrize("present", [(True, False, True), (False, False)])
def test_every_parameter_learns_beside_absent_clips(which, present):
    encoder = make(which).train()
    before = {key: value.clone() for key, value in encoder.named_buffers()}

    features = encoder(clips(encoder, present))

    require_finite_gradients(encoder, features)
    if not any(present):  # nothing to take statistics of
        assert all(torch.equal(value, before[key]) for key, value in encoder.named_buffers())


def test_absent_clips_leave_no_trace_in_the_statistics_of_batch_norm():
    mixed, alone = make("s3d").train(), make("s3d").train()
    batch = clips(mixed, present=(True, False, True, False))

    features = mixed(batch)

    expected = alone(Input(batch.values[batch.present], batch.present[batch.present]))
    torch.testing.assert_close(features.tokens[batch.present], expected.tokens, rtol=1e-3, atol=1e-3)
    for one, other in zip(mixed.named_buffers(), alone.named_buffers(), strict=True):
        if "running_mean" in one[0]:
            torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-5, msg=one[0])


@pytest.mark.parametrize("name, size, frames", [("r2plus1d_18", 32, 8), ("s3d", 32, 8), ("swin3d_t", 32, 4)])
def test_local_weights_give_the_classes_of_torchvision(name, size, frames, tmp_path):
    from torchvision import models

    torch.manual_seed(3)
    theirs = models.get_model(name, weights=None, num_classes=7).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")

    encoder = Video3DEncoder.from_pretrained(name, tmp_path / "model.safetensors", size=size, num_frames=frames).eval()

    batch = clips(encoder, present=(True,))
    with torch.no_grad():
        theirs.avgpool = nn.AdaptiveAvgPool3d(1)  # that of S3D wants clips of 224 pixels
        pooled, expected = encoder(batch).pooled, theirs(batch.values.transpose(1, 2))
        head = next(getattr(theirs, n) for n in ("fc", "head", "classifier") if hasattr(theirs, n))
        got = head(pooled[:, :, None, None, None]).flatten(1) if name == "s3d" else head(pooled)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert encoder.pretrained


def test_mvit_has_its_class_token_as_pooled_vector():
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    torch.manual_seed(3)
    wide = MSBlockConfig(1, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2])
    narrow = MSBlockConfig(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1])
    flags = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True, "proj_after_attn": True}
    theirs = MViT((32, 32), 4, [wide, narrow], **flags, num_classes=7).eval()
    values = torch.randn(2, 3, 4, 32, 32)

    cells, pooled = run_network(theirs, values)

    assert cells.shape == (2, 2 * 4 * 4, 32)
    torch.testing.assert_close(theirs.head(pooled), theirs(values))
    assert behead(theirs) == 32


@pytest.mark.parametrize("name", CLIPS)
def test_every_network_has_layers_and_a_width(name):
    with torch.device("meta"):
        encoder = Video3DEncoder(name)

    stem, layers = stem_and_layers(encoder.backbone)
    assert stem and len(layers) >= 4
    assert encoder.dim in (512, 768, 1024)
    assert encoder.transform().num_frames == CLIPS[name][0]


def test_the_recommended_weights_come_with_their_transform(monkeypatch):
    from torchvision import models

    state = models.get_model("r3d_18", weights=None).state_dict()
    monkeypatch.setattr(models.video.R3D_18_Weights, "get_state_dict", lambda self, **options: state)

    encoder = Video3DEncoder.from_pretrained("r3d_18", freeze="all")

    transform = encoder.transform()
    assert isinstance(transform, VideoTransform)
    assert (transform.size, transform.num_frames, transform.random) == (112, 16, False)
    assert (encoder.mean, encoder.std) == ([0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989])
    assert encoder.transform(train=True).random
    torch.testing.assert_close(encoder.backbone.stem[0].weight, state["stem.0.weight"])


def test_pixels_are_normalised_on_the_device():
    encoder = make()
    frames = torch.randint(0, 256, (9, 20, 24), dtype=torch.uint8)
    batch = torch.stack([encoder.transform()(frames), encoder.transform().blank()])
    present = torch.tensor([True, False])
    mean, std = (torch.tensor(x)[:, None, None] for x in (encoder.mean, encoder.std))

    features = encoder(Input(batch, present))

    expected = encoder(Input((batch / 255 - mean) / std, present))
    torch.testing.assert_close(features.tokens[0], expected.tokens[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["swin", "r3d"])
@pytest.mark.parametrize("freeze, layers", [("all", None), (0, 0), (2, 2)])
def test_frozen_parts_do_not_learn_and_stay_in_evaluation_mode(which, freeze, layers):
    encoder = make(which, freeze=freeze).train()
    stem, rest = stem_and_layers(encoder.backbone)
    frozen = [encoder.backbone] if layers is None else [*stem, *rest[:layers]]
    before = [value.clone() for part in frozen for value in part.buffers()]

    features = encoder(clips(encoder))

    assert not any(p.requires_grad for part in frozen for p in part.parameters())
    assert not any(module.training for part in frozen for module in part.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, [x for part in frozen for x in part.buffers()], strict=True))
    if layers is not None:
        assert all(part.training for part in rest[layers:])
        require_finite_gradients(encoder, features)


@pytest.mark.plain
@pytest.mark.parametrize("which, train", [("swin", False), ("r3d", True)])
def test_compiles_whole(which, train):
    torch._dynamo.reset()
    encoder = make(which).train(train)
    batch = clips(encoder)
    expected = encoder(batch)

    features = torch.compile(encoder, fullgraph=True, backend="eager")(batch)

    torch.testing.assert_close(features.zeroed().pooled, expected.zeroed().pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.plain
def test_exports():
    encoder = make()

    program = torch.export.export(encoder, (clips(encoder),))

    other = clips(encoder, (False, True, True), seed=4)
    torch.testing.assert_close(program.module()(other).zeroed().pooled, encoder(other).zeroed().pooled)


@pytest.mark.parametrize("which", SMALL)
def test_half_precision_stays_near(which):
    encoder = make(which)
    expected = encoder(clips(encoder)).zeroed().pooled

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(clips(encoder))
    half = encoder.bfloat16()(clips(encoder))

    assert relative_error(features.zeroed().pooled.float(), expected) < 0.1
    assert relative_error(half.zeroed().pooled.float(), expected) < 0.1


def test_learns_the_direction_of_a_movement():
    torch.manual_seed(0)
    encoder, head = make(num_frames=8).train(), nn.Linear(32, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    left = torch.arange(16) % 2 == 0
    present = torch.ones(16, dtype=torch.bool)

    for _ in range(60):
        at = torch.where(left[:, None], 14 - 2 * torch.arange(8), 2 * torch.arange(8))
        frames = torch.full((16, 8, 3, 16, 16), 20, dtype=torch.uint8)
        frames.scatter_(4, at[:, :, None, None, None].expand(-1, -1, 3, 16, 1), 220)
        loss = nn.functional.cross_entropy(head(encoder(Input(frames, present)).pooled), left.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert loss < 0.2


def test_is_saved_and_loaded(tmp_path):
    encoder = make("swin", dim=12)
    tasks = {"label": Classification(8, ["a", "b"])}
    mmfuse.save(mmfuse.MultimodalModel({"video": encoder}, Concat({"video": 12}, 8), tasks), tmp_path / "model")

    again = mmfuse.load(tmp_path / "model").encoders["video"].eval()

    assert torch.equal(again(clips(encoder)).zeroed().tokens, encoder(clips(encoder)).zeroed().tokens)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_remembers_how_it_was_built(preset):
    encoder = Video3DEncoder.preset(preset, dim=24)

    again = Video3DEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert again.dim == 24


@pytest.mark.plain
def test_says_what_is_wrong(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no network named 'r3d_8'\. Expected one of .*Did you mean 'r3d_18'\?"):
        Video3DEncoder("r3d_8")
    for name in ("num_frames", "size", "dim"):
        with pytest.raises(ValueError, match=rf"Video3DEncoder got {name}=0\. Expected a number above 0"):
            make(**{name: 0})
    with pytest.raises(ValueError, match=r"num_frames=8 and size=224 for 'mvit_v1_b'\. Expected num_frames=16 and"):
        Video3DEncoder("mvit_v1_b", num_frames=8)
    with pytest.raises(ValueError, match=r"stages=\[\[16, 1\], \[40, 1\]\]\. Expected channels that double.*Try"):
        make(stages=[[16, 1], [40, 1]])
    with pytest.raises(ValueError, match=r"stages=\[\[16, 1\]\]\. Expected .*two blocks"):
        make(stages=[[16, 1]])
    with pytest.raises(ValueError, match=r"freeze=9\. Expected 'none', 'all', or a number from 0 to 3"):
        make(freeze=9)
    encoder = make()
    with pytest.raises(ValueError, match=r"Video3DEncoder input has shape \(1, 2, 3, 16, 16\).*time=4.*transform\(\)"):
        encoder(Input(torch.zeros(1, 2, 3, 16, 16), torch.tensor([True])))
    masked = Input(torch.zeros(1, 4, 3, 16, 16), torch.tensor([True]), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got clips with a mask\. Expected 4 real frames.*take VideoEncoder"):
        encoder(masked)
    with pytest.raises(ValueError, match=r"does not read 'a\.pth'.*Expected a \.safetensors file.*Convert it once"):
        Video3DEncoder.from_pretrained("r3d_18", tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"no file '.*b\.safetensors'\. Expected weights as \.safetensors\. Check"):
        Video3DEncoder.from_pretrained("r3d_18", tmp_path / "b.safetensors")
    save_file({"stem.0.weight": torch.zeros(2), "other": torch.zeros(2)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"weights for 'r3d_18': 1 tensors do not fit, such as 'stem.0.weight'.*Give"):
        Video3DEncoder.from_pretrained("r3d_18", tmp_path / "c.safetensors")
    from torchvision import models

    def fail(self, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(models.video.S3D_Weights, "get_state_dict", fail)
    with pytest.raises(ValueError, match=r"not download the weights of 's3d': Name.*Expected a network.*Give a local"):
        Video3DEncoder.from_pretrained("s3d")


@pytest.mark.plain
def test_says_why_one_value_cannot_be_trained_on():
    network = nn.Sequential(nn.BatchNorm3d(2)).train()

    with pytest.raises(ValueError, match=r"Some cannot train on a batch of shape \(1, 2, 1, 1, 1\): .*Choose a batch"):
        run_present("Some", network, network, torch.zeros(1, 2, 1, 1, 1), torch.tensor([True]))
