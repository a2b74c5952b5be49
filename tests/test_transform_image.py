"""Images of every kind become one kind of tensor; and what is said about those that cannot be read."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmfuse.data.transforms import ImageTransform

PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def picture(width=48, height=32):
    """Red on the left, blue on the right."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[:, : width // 2, 0] = 200
    values[:, width // 2 :, 2] = 200
    return Image.fromarray(values)


def test_an_image_is_cut_resized_and_normalised(tmp_path):
    picture().save(tmp_path / "a.png")

    image = ImageTransform(16, mean=[0.1, 0.2, 0.3], std=[0.5, 0.5, 2.0])(tmp_path / "a.png")

    assert (image.shape, image.dtype) == ((3, 16, 16), torch.float32)
    red, blue = 200 / 255, 200 / 255
    expected_left = torch.tensor([(red - 0.1) / 0.5, -0.2 / 0.5, -0.3 / 2])
    expected_right = torch.tensor([-0.1 / 0.5, -0.2 / 0.5, (blue - 0.3) / 2])
    torch.testing.assert_close(image[:, 8, 0], expected_left, atol=0.01, rtol=0)
    torch.testing.assert_close(image[:, 8, 15], expected_right, atol=0.01, rtol=0)


def test_the_orientation_of_the_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture(32, 32).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    transform = ImageTransform(32, **PLAIN)

    from_file = transform(str(tmp_path / "turned.jpg"))
    from_pil = transform(Image.open(tmp_path / "turned.jpg"))

    for image in (from_file, from_pil):
        assert image[2, 16, 2] > 0.5 > image[0, 16, 2]  # blue is on the left now


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_grey_palette_and_transparent_images_become_rgb(mode, tmp_path):
    if mode == "I;16":
        Image.fromarray(np.full((20, 20), 51400, dtype=np.uint16)).save(tmp_path / "a.png")
    else:
        Image.new("RGB", (20, 20), (200, 200, 200)).convert(mode).save(tmp_path / "a.png")

    image = ImageTransform(16, **PLAIN)(tmp_path / "a.png")

    assert image.shape == (3, 16, 16)
    if mode not in ("1", "P"):
        torch.testing.assert_close(image, torch.full((3, 16, 16), 200 / 255), atol=0.02, rtol=0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP"])
def test_bytes_and_formats(format):
    buffer = io.BytesIO()
    picture(32, 32).save(buffer, format, **({"lossless": True} if format == "WEBP" else {}))

    image = ImageTransform(32, **PLAIN)(buffer.getvalue())

    assert image[0, 16, 4] > 0.6 > image[2, 16, 4]


def test_a_tensor_and_a_pil_image_give_the_same(tmp_path):
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    transform = ImageTransform(16, **PLAIN)

    torch.testing.assert_close(transform(pixels), transform(picture()))
    assert transform(pixels[:1]).shape == (3, 16, 16)


def test_random_crops_follow_the_seed_and_mirrors_only_on_request():
    transform = ImageTransform(16, **PLAIN, crop_scale=(0.3, 1.0))
    mirror = ImageTransform(16, **PLAIN, flip=1.0)

    torch.manual_seed(0)
    one, other = transform(picture()), transform(picture())
    torch.manual_seed(0)
    again = transform(picture())

    assert transform.random and mirror.random and not ImageTransform(16, **PLAIN).random
    torch.testing.assert_close(one, again)
    assert not torch.equal(one, other)
    assert one[0, :, 0].mean() > 0.6 and mirror(picture())[2, :, 0].mean() > 0.6


@pytest.mark.plain
def test_says_what_is_wrong_with_an_image(tmp_path):
    transform = ImageTransform(16, **PLAIN)
    picture().resize((400, 400)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")

    for value, message in [
        (data[: len(data) // 2], r"image breaks off or is damaged\. Expected a whole file\. Copy"),
        (b"hello, I am no image", r"not an image that can be read\. Expected JPEG.*Convert"),
        (b"", r"image file is empty\. Expected.*Copy"),
        (bomb.getvalue(), r"too many pixels to be unpacked safely\. Expected at most 178956970\. Make"),
        (tmp_path / "none.png", r"no file '.*none\.png'\. Expected an image\. Check"),
        (
            torch.zeros(8, 8, 3, dtype=torch.uint8),
            r"shape \(8, 8, 3\).*Expected \(channel, height, width\).*Use permute",
        ),
        (torch.zeros(3, 8, 8), r"dtype torch\.float32\. Expected .* torch\.uint8"),
        (7, r"The image is a int\. Expected a path.*Turn an array"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            transform(value)
        assert len(str(caught.value)) < 300


@pytest.mark.plain
def test_says_what_is_wrong_with_the_settings_of_an_image():
    with pytest.raises(
        ValueError, match=r"interpolation='cubic'\. Expected one of \['bicubic', 'bilinear'\].*'bicubic'"
    ):
        ImageTransform(16, **PLAIN, interpolation="cubic")
    with pytest.raises(ValueError, match=r"mean=\[0\.5\].*Expected three values each.*Repeat"):
        ImageTransform(16, mean=[0.5], std=[0.5])
    with pytest.raises(ValueError, match=r"ImageTransform got size=0\. Expected"):
        ImageTransform(0, **PLAIN)
