"""Mean and deviation of the channels of training images: exact, read one by one, and kept by the model."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmfuse import MultimodalModel, dims_of, load, save
from mmfuse.data import DataError, load_batches, pixel_statistics, read_table
from mmfuse.data.transforms import ImageTransform, VideoTransform, VolumeTransform
from mmfuse.encoders import CNNEncoder, VideoEncoder
from mmfuse.fusion import FUSIONS
from mmfuse.tasks import Classification


def pictures(count, *shape):
    return np.random.default_rng(0).integers(0, 200, (count, *shape), dtype=np.uint8)


def moments(values, axes):
    values = np.concatenate([x.reshape(-1, *x.shape[-3:]) for x in values]).astype(np.float64) / 255
    return values.mean(axes), values.std(axes)


def test_they_are_those_of_all_pixels_of_images_without_the_empty_cells():
    images = pictures(5, 3, 96, 96)
    table = read_table({"image": [images[0], None, *images[1:]], "label": list("abcabc")})

    found = pixel_statistics(table, "image")

    mean, std = moments(images, (0, 2, 3))
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(found["std"], std, rtol=1e-10)
    assert [type(x) for x in found["mean"] + found["std"]] == [float] * 6


def test_clips_are_read_by_their_frames_and_the_model_keeps_what_was_found(tmp_path):
    clips = pictures(4, 8, 3, 96, 96) // 8
    table = read_table({"clip": list(clips), "label": list("abab")})
    found = pixel_statistics(table, "clip")
    encoders = {"clip": VideoEncoder(CNNEncoder.preset("plain", size=32, **found), num_frames=4)}
    tasks = {"label": Classification(8, ["a", "b"])}
    model = MultimodalModel(encoders, FUSIONS["Concat"](dims_of(encoders), 8), tasks)

    save(model, tmp_path / "model")
    again = load(tmp_path / "model")

    mean, std = moments(clips, (0, 2, 3))
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(found["std"], std, rtol=1e-10)
    frames = again.encoders["clip"].frame_encoder
    assert {"mean": frames.mean, "std": frames.std} == found
    (batch,) = load_batches(table, again, batch_size=4)
    seen = frames.pixels(type(batch.inputs["clip"])(batch.inputs["clip"].values.flatten(0, 1), torch.ones(16) > 0))
    assert seen.mean((0, 2, 3)).abs().max() < 0.1


def test_a_sample_of_the_rows_is_drawn_and_it_is_the_same_each_time(tmp_path):
    names = [f"{i}.png" for i in range(30)]
    for name, pixels in zip(names, pictures(30, 8, 8), strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "table.csv").write_text("image\n" + "\n".join(names) + "\n")
    table = read_table(tmp_path / "table.csv")
    read = []

    class Noted(ImageTransform):
        def __call__(self, value):
            read.append(value.name)
            return super().__call__(value)

    found = pixel_statistics(table, "image", transform=Noted(8), samples=10)

    assert found == pixel_statistics(table, "image", transform=ImageTransform(8), samples=10)
    assert len(set(read)) == 10
    assert read != sorted(read, key=names.index)
    assert found["mean"][1:] == pytest.approx(found["mean"][:1] * 2)  # grey


def test_a_constant_channel_has_the_deviation_one_and_a_volume_its_own_transform():
    found = pixel_statistics(read_table({"image": [np.full((3, 9, 9), 77, np.uint8)]}), "image")
    volumes = read_table({"scan": [np.random.default_rng(0).normal(size=(6, 12, 12)).astype(np.float32)]})

    scan = pixel_statistics(volumes, "scan", transform=VolumeTransform(12, slices=6))

    assert found == {"mean": [pytest.approx(77 / 255)] * 3, "std": [1.0] * 3}
    assert 0.3 < scan["mean"][0] < 0.7


@pytest.mark.plain
def test_says_what_is_wrong(tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    (tmp_path / "table.csv").write_text("image,empty,x\na.png,,1\n")
    table = read_table(tmp_path / "table.csv")

    with pytest.raises(DataError, match=r"table\.csv line 2, column 'image', 'a\.png': .*Mend or empty the cell"):
        pixel_statistics(table, "image")
    with pytest.raises(DataError, match=r"column 'empty' has no image\. Expected at least one\. Fill some cells"):
        pixel_statistics(table, "empty")
    with pytest.raises(DataError, match=r"imag"):
        pixel_statistics(table, "imag")
    with pytest.raises(ValueError, match=r"got samples=0\. Expected a number above 0"):
        pixel_statistics(table, "image", samples=0)
    random = VideoTransform(8, num_frames=2, jitter=True)
    with pytest.raises(ValueError, match=r"a VideoTransform that changes images at random\. Expected the one of eval"):
        pixel_statistics(table, "image", transform=random)
    with pytest.raises(ValueError, match=r"method gave a torch\.float32\. Expected pixels of uint8"):
        pixel_statistics(read_table({"x": [torch.zeros(3, 4, 4)]}), "x", transform=torch.zeros(1).add)
