"""Images of every kind become one kind of tensor; and what is said about those that cannot be read."""

import io
import pickle
import re
import struct
import zlib
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from mmfuse._record import arguments_of
from mmfuse.data.transforms import ImageTransform, VideoTransform, VolumeTransform, _decode_image
from mmfuse.data.transforms._decode_image import Box, Picture
from mmfuse.data.transforms._open_image import open_image

LOSSLESS = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}
AUGMENTS = ["trivialaugment", "randaugment", "autoaugment", "augmix"]


def picture(width=48, height=32):
    """Red on the left, blue on the right."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[:, : width // 2, 0] = 200
    values[:, width // 2 :, 2] = 200
    return Image.fromarray(values)


def photo(width, height, seed=0):
    """Smooth colours with a little noise, as a photograph has them."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray((smooth + generator.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def before(image, size, interpolation="bicubic"):
    """The evaluation as it was defined first: everything decoded, cut, and resized by torchvision."""
    pixels = v2.functional.pil_to_tensor(ImageOps.exif_transpose(image).convert("RGB"))
    side = min(pixels.shape[-2:])
    cut = v2.functional.center_crop(pixels, [side, side])
    return v2.functional.resize(cut, [size, size], v2.InterpolationMode(interpolation), antialias=True)


def difference(one, other):
    return (one.float() - other.float()).abs()


def centre(image):
    """The colour in the middle."""
    return image[:, image.shape[1] // 2, image.shape[2] // 2].tolist()


# what comes out


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("width, height", [(500, 375), (375, 501), (1000, 700), (30, 40)])
def test_evaluation_is_what_torchvision_makes_of_the_whole_image(width, height, interpolation, tmp_path):
    photo(width, height).save(tmp_path / "a.jpg", quality=90)

    image = ImageTransform(64, interpolation=interpolation)(tmp_path / "a.jpg")

    assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)
    assert image.is_contiguous()
    assert difference(image, before(Image.open(tmp_path / "a.jpg"), 64, interpolation)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_camera_is_applied(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(101, 64).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    transform = ImageTransform(32)

    from_file = transform(str(tmp_path / "turned.jpg"))
    from_pil = transform(Image.open(tmp_path / "turned.jpg"))

    expected = before(Image.open(tmp_path / "turned.jpg"), 32)
    assert difference(from_file, expected).max() <= 1
    assert difference(from_pil, expected).max() <= 1
    assert orientation == 1 or difference(from_file, before(photo(101, 64), 32)).mean() > 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_part_of_a_turned_image_is_that_part_of_the_upright_one(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(41, 30), "PNG", exif=exif)
    upright = v2.functional.pil_to_tensor(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))

    with open_image(data) as image:
        whole = Picture(image)
        part = whole.cut(Box(top=3, left=7, height=11, width=16))

    assert (whole.height, whole.width) == tuple(upright.shape[1:])
    assert torch.equal(part, upright[:, 3:14, 7:23])


def test_damaged_notes_of_the_camera_do_not_refuse_an_image():
    data = encoded(picture(32, 32), exif=b"Exif\x00\x00no such thing")

    assert ImageTransform(16)(data)[0, 8, 2] > 150


COLOURS = {
    "L": (120, [120, 120, 120]),
    "1": (1, [255, 255, 255]),
    "RGBA": ((200, 0, 0, 127), [228, 128, 128]),
    "LA": ((100, 51), [224, 224, 224]),
    "CMYK": ((0, 255, 255, 55), [200, 0, 0]),
    "YCbCr": ((76, 85, 255), [254, 0, 0]),
    "La": ((20, 51), [224, 224, 224]),
    "RGBa": ((100, 0, 0, 127), [228, 128, 128]),
    "HSV": ((0, 255, 200), [200, 0, 0]),
}


@pytest.mark.parametrize("mode, value, expected", [(mode, *rest) for mode, rest in COLOURS.items()])
def test_every_mode_becomes_rgb_and_white_shows_through(mode, value, expected):
    image = Image.new(mode, (24, 20), value)

    got = centre(ImageTransform(16)(image))

    assert np.abs(np.subtract(got, expected)).max() <= 1


@pytest.mark.parametrize(
    "format, kind", [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("GIF", "RGBA"), ("PNG", "P")]
)
def test_what_lies_under_transparent_pixels_is_not_seen(format, kind):
    image = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    image.paste((200, 100, 50, 255), (0, 0, 16, 32))
    if kind == "P":
        image = image.quantize(4)
    data = encoded(image.convert(kind) if kind != "P" else image, format, **LOSSLESS.get(format, {}))

    got = ImageTransform(32)(data)

    assert got[:, 16, 26].tolist() == [255, 255, 255]
    assert kind == "LA" or difference(got[:, 16, 6], torch.tensor([200, 100, 50])).max() <= 3


def test_a_colour_that_stands_for_transparency_becomes_white():
    data = encoded(picture(32, 32), "PNG", transparency=(0, 0, 200))

    got = ImageTransform(32)(data)

    assert got[:, 16, 26].tolist() == [255, 255, 255]
    assert got[:, 16, 6].tolist() == [200, 0, 0]


def test_cmyk_files_are_inverted_where_adobe_says_so():
    data = encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 55)), quality=100)
    start = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[start + 2 : start + 4])[0]
    plain = data[:start] + data[start + 2 + length :]

    by_adobe, by_others = (centre(ImageTransform(16)(file)) for file in (data, plain))

    assert b"Adobe" in data and b"Adobe" not in plain
    assert np.abs(np.subtract(by_adobe, [200, 0, 0])).max() <= 2
    assert np.abs(np.subtract(by_others, [0, 55, 55])).max() <= 2  # the same bytes, as they stand


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG2000"])
def test_of_16_bits_the_upper_8_count(format):
    values = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    data = encoded(Image.fromarray(values), format, **LOSSLESS.get(format, {}))

    got = ImageTransform(64)(data)

    assert np.abs(got[0, 32].numpy().astype(int) - (values[32] >> 8)).max() <= 1
    assert torch.equal(got[0], got[2])


@pytest.mark.parametrize(
    "dtype, values, scale", [(np.int32, (0, 51400, 65535), 256), (np.float32, (0, 0.5, 1), 1 / 255)]
)
def test_32_bits_have_one_rule_and_do_not_turn_black(dtype, values, scale, tmp_path):
    pixels = np.repeat(np.array(values, dtype), 20)[None].repeat(60, axis=0)
    Image.fromarray(pixels).save(tmp_path / "a.tif")

    got = ImageTransform(60)(tmp_path / "a.tif")

    for i, value in enumerate(values):
        assert abs(got[0, 30, 20 * i + 10].item() - value / scale) <= 1


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]

    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        red, green, blue = centre(ImageTransform(16)(data))
        assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_bytes_paths_and_formats_give_the_same(format, tmp_path):
    data = encoded(picture(32, 32), format, **LOSSLESS.get(format, {}))
    (tmp_path / "file").write_bytes(data)

    image = ImageTransform(32)(data)

    assert image[0, 16, 4] > 150 > image[2, 16, 4]
    assert torch.equal(image, ImageTransform(32)(tmp_path / "file"))


def test_pictures_of_two_lenses_are_read_as_jpeg():
    data = encoded(picture(32, 32), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])

    assert ImageTransform(32)(data)[0, 16, 4] > 150
    assert ImageTransform(8, crop_scale=(1.0, 1.0))(data)[0, 4, 1] > 150


# arrays


def test_tensors_arrays_and_pil_images_give_the_same():
    pixels = np.array(picture()).transpose(2, 0, 1)
    transform = ImageTransform(16)

    expected = transform(picture())

    for value in (pixels, torch.from_numpy(pixels), pixels / 255, torch.from_numpy(pixels).float() / 255):
        assert torch.equal(transform(value), expected)
    assert torch.equal(transform(pixels[:1]), transform(pixels[0]))
    frozen = pixels.copy()
    frozen.setflags(write=False)
    assert torch.equal(transform(frozen), expected)


@pytest.mark.parametrize("channels, height, width", [(3, 40, 32), (1, 16, 16), (3, 16, 16)])
def test_a_whole_array_at_once_is_the_same_as_one_by_one(channels, height, width):
    values = torch.randint(0, 256, (5, channels, height, width), dtype=torch.uint8)
    transform = ImageTransform(16)

    together = transform.whole(values)

    assert torch.equal(together, torch.stack([transform(value) for value in values]))
    assert together.data_ptr() != values.data_ptr() and transform(values[0]).data_ptr() != values.data_ptr()


# torchcodec


def test_another_decoder_is_used_for_rgb_jpeg_and_pillow_has_the_last_word(monkeypatch, tmp_path):
    path = tmp_path / "a.jpg"
    photo(64, 64).save(path)
    by_pillow = ImageTransform(64)(path)
    asked = []

    def use(answer):
        def decode(data):
            asked.append(data)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(_decode_image, "_torchcodec", lambda: decode)
        return ImageTransform(64)

    black = use(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert not black(path).any() and not black(path.read_bytes()).any()
    for other in (Image.open(path), encoded(photo(64, 64), "PNG"), encoded(photo(64, 64).convert("L"))):
        assert black(other).any()
    assert asked == [path.read_bytes()] * 2

    for answer in (RuntimeError("no such JPEG"), torch.zeros(3, 32, 64, dtype=torch.uint8)):
        assert torch.equal(use(answer)(path), by_pillow)


@pytest.mark.skipif(not find_spec("torchcodec"), reason="torchcodec is not installed")
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_torchcodec_gives_the_pixels_of_pillow(options, monkeypatch):
    data = encoded(photo(301, 203), **options)

    by_torchcodec = ImageTransform(64)(data)

    assert _decode_image._torchcodec() is not None
    monkeypatch.setattr(_decode_image, "_torchcodec", lambda: None)
    assert difference(by_torchcodec, ImageTransform(64)(data)).max() <= 1


# training


@pytest.mark.parametrize("height, width", [(90, 70), (90, 8), (8, 90), (1, 1)])  # in narrow ones, few parts fit
def test_crops_are_those_of_torchvision(height, width):
    theirs = v2.RandomResizedCrop(16, scale=(0.3, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)

    for seed in range(5):
        torch.manual_seed(seed)
        ours = ImageTransform(16, crop_scale=(0.3, 1.0))(pixels)
        drawn = torch.rand(1)
        torch.manual_seed(seed)
        assert difference(ours, theirs(pixels)).max() <= 1
        assert torch.equal(drawn, torch.rand(1))  # as many draws


def test_random_crops_follow_the_seed_and_mirrors_only_on_request():
    transform = ImageTransform(16, crop_scale=(0.3, 1.0))
    mirror = ImageTransform(16, flip=1.0)

    torch.manual_seed(0)
    one, other = transform(picture()), transform(picture())
    torch.manual_seed(0)
    again = transform(picture())

    assert transform.random and mirror.random and not ImageTransform(16).random
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one[0, :, 0].float().mean() > 150 and mirror(picture())[2, :, 0].float().mean() > 150


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("side, divisor", [(63, 1), (64, 2), (127, 2), (128, 4), (255, 4), (256, 8), (600, 8)])
def test_a_large_jpeg_is_decoded_smaller_but_never_below_what_the_crop_needs(side, divisor, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(900, 701), exif=exif)
    box = Box(top=50, left=33, height=side, width=side + 7)

    with open_image(data) as image:
        part = Picture(image, own=True).cut(box, 32)
    with open_image(data) as image:
        whole = Picture(image, own=True).cut(box)

    assert min(part.shape[1:]) >= 32
    assert side / divisor <= part.shape[1] <= side / divisor + 2
    small, expected = (v2.functional.resize(x, [32, 32], antialias=True) for x in (part, whole))
    assert difference(small, expected).mean() < 5


def test_an_image_that_is_given_is_not_changed():
    data = encoded(photo(640, 480))
    image = Image.open(io.BytesIO(data))

    ImageTransform(16, crop_scale=(0.8, 1.0))(image)

    assert image.size == (640, 480)
    assert torch.equal(ImageTransform(64)(image), ImageTransform(64)(data))


@pytest.mark.parametrize("augment", AUGMENTS)
def test_augmentation_draws_from_torch_and_changes_images(augment):
    transform = ImageTransform(32, augment=augment)
    states = np.random.get_state()[1].copy()

    def run():
        torch.manual_seed(0)
        return torch.stack([transform(photo(40, 40)) for _ in range(4)])

    images, again = run(), run()

    assert transform.random
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 32, 32))
    assert torch.equal(images, again)
    assert not torch.equal(images[0], images[1])
    assert (np.random.get_state()[1] == states).all()


def test_a_rectangle_is_erased():
    image = ImageTransform(32, erase=1.0)(Image.new("RGB", (32, 32), "white"))

    black = (image == 0).all(dim=0)
    assert image.dtype == torch.uint8
    assert 0.01 < black.float().mean() < 0.4
    assert ((image == 0) | (image == 255)).all()


@pytest.mark.parametrize(
    "options", [{}, {"crop_scale": [0.5, 1.0], "flip": 0.5, "augment": "trivialaugment", "erase": 0.5}]
)
def test_is_pickled_and_built_again_from_its_keywords(options):
    transform = ImageTransform(16, **options)

    for copy in (pickle.loads(pickle.dumps(transform)), ImageTransform(**arguments_of(transform))):
        torch.manual_seed(0)
        expected = transform(picture())
        torch.manual_seed(0)
        assert torch.equal(copy(picture()), expected)
    assert transform.blank().dtype == torch.uint8
    assert transform.blank().shape == expected.shape


# bad input


def png_header(width, height):
    """A PNG file that says how large it is, and has next to nothing in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


@pytest.mark.plain
def test_images_too_large_are_refused_from_their_header(monkeypatch):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    transform = ImageTransform(16)

    for width, height, message in [
        (20_000, 20_000, r"more than \d+ pixels, Pillow's limit\. Expected fewer\. Make it smaller, or raise"),
        (13_000, 13_000, r"more than \d+ pixels, Pillow's limit"),  # of which Pillow only warns
        (9_000, 9_000, r"9000 x 9000 = 81000000 pixels\. Expected at most 50000000\. Make .* raise max_pixels"),
    ]:
        with pytest.raises(ValueError, match=message):
            transform(png_header(width, height))
    with pytest.raises(ValueError, match=r"48 x 32 = 1536 pixels\. Expected at most 1000"):
        ImageTransform(16, max_pixels=1000)(picture())


def test_a_limit_can_be_raised_and_an_animation_of_many_frames_costs_one(monkeypatch):
    data = encoded(photo(40, 40), "PNG")
    with pytest.raises(ValueError, match="pixels"):
        ImageTransform(16, max_pixels=1599)(data)
    assert ImageTransform(16, max_pixels=1600)(data).shape == (3, 16, 16)
    assert ImageTransform(16, max_pixels=None)(data).shape == (3, 16, 16)

    frame = encoded(Image.new("P", (8, 8), 1), "GIF")
    body = frame.index(b"\x2c", 13 + 3 * 2 ** ((frame[10] & 7) + 1))
    many = frame[:body] + frame[body:-1] * 100_000 + b";"

    assert torch.equal(ImageTransform(8)(many), ImageTransform(8)(frame))


@pytest.mark.plain
def test_says_what_is_wrong_with_an_image(tmp_path):
    transform = ImageTransform(16)
    data = encoded(picture().resize((400, 400)))
    floats = torch.rand(3, 8, 8)
    eight_bits_in_32 = encoded(Image.fromarray(np.full((8, 8), 200, np.int32)), "TIFF")
    (tmp_path / "zero.png").touch()

    for value, message in [
        (data[: len(data) // 2], r"The JPEG breaks off or is damaged\. Expected a whole file\. Copy"),
        (b"hello, I am no image", r"not an image that can be read \(20 bytes\)\. Expected JPEG, PNG.*Convert"),
        (b"\n <!DOCTYPE html><html>", r"not an image.*It is a web page.*Download the image itself"),
        (b"<svg xmlns=''/>", r"not an image.*a drawing \(SVG\)\. Export it as PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", r"not an image.*PostScript\. Export it as PNG"),
        (b"version https://git-lfs.github.com/spec/v1", r"pointer of Git LFS\. Fetch the file itself: git lfs pull"),
        (b"", r"image file is empty \(0 bytes\)\. Expected.*Copy"),
        (tmp_path / "zero.png", r"image file is empty \(0 bytes\)"),
        (tmp_path / "none.png", r"no file '.*none\.png'\. Expected an image\. Check"),
        (
            torch.zeros(8, 8, 3, dtype=torch.uint8),
            r"shape \(8, 8, 3\).*Expected \(channel, height, width\).*to the front: image\.permute\(2, 0, 1\)",
        ),
        (torch.zeros(4, 8, 8, dtype=torch.uint8), r"shape \(4, 8, 8\).*1 or 3 channels\. Leave out.*image\[:3\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"shape \(2, 3, 8, 8\).*Give each image by itself"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), r"shape \(3, 0, 8\)"),
        (floats * 255, r"float values from .* to 25\d.*\. Expected the range 0 to 1, not normalised\. Divide by 255"),
        (floats - 0.5, r"float values from -0\..*Expected the range 0 to 1"),
        (floats.log().sqrt(), r"192 of 192 values that are NaN or infinite\. Expected finite values\. Make it again"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"dtype torch\.int64\. Expected torch\.uint8.*Scale it"),
        (np.zeros((3, 8, 8), np.complex64), r"dtype torch\.complex64|array of complex64"),
        (np.full((3, 8, 8), "a"), r"array of <U1\. Expected uint8"),
        (7, r"The image is a int\. Expected a path.*Turn lists"),
        (eight_bits_in_32, r"32-bit integers from 200 to 200\. Expected 16 bits: .*256 and 65535\. Scale it"),
        (Image.fromarray(np.full((8, 8), 70_000, np.int32)), r"32-bit integers from 70000 to 70000"),
        (Image.fromarray(np.full((8, 8), -1000, np.int32)), r"32-bit integers from -1000 to -1000"),
        (Image.fromarray(np.full((8, 8), 1.5, np.float32)), r"floats from 1\.5 to 1\.5\. Expected floats from 0 to 1"),
        (Image.fromarray(np.full((8, 8), np.nan, np.float32)), r"floats from nan to nan"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            transform(value)
        assert len(str(caught.value)) < 400


def test_damaged_files_raise_value_errors_and_nothing_else():
    generator = np.random.default_rng(0)
    transform = ImageTransform(16, crop_scale=(0.5, 1.0))
    refused = 0
    for format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        data = encoded(photo(60, 50), format)
        for _ in range(30):
            broken = bytearray(data)
            for place in generator.integers(0, min(len(data), 200), 4):
                broken[place] = generator.integers(0, 256)
            try:
                assert transform(bytes(broken)).shape == (3, 16, 16)
            except ValueError as error:
                assert "Expected" in str(error), error
                refused += 1
    assert 20 < refused < 170


@pytest.mark.plain
def test_says_what_is_wrong_with_the_settings_of_an_image():
    with pytest.raises(
        ValueError, match=r"interpolation='cubic'\. Expected one of \['bicubic', 'bilinear'\].*'bicubic'"
    ):
        ImageTransform(16, interpolation="cubic")
    with pytest.raises(ValueError, match=r"augment='trivial'\. Expected one of .*'augmix'.*Did you mean 'trivial"):
        ImageTransform(16, augment="trivial")
    with pytest.raises(ValueError, match=r"ImageTransform got size=0\. Expected"):
        ImageTransform(0)


@pytest.mark.plain
@pytest.mark.parametrize("make", [ImageTransform, partial(VideoTransform, num_frames=4)], ids=["image", "video"])
def test_images_and_videos_refuse_the_same_random_settings(make):
    for scale in ((1.0, 0.5), (0.5, 2.0), (0.0, 1.0), (0.5,), (), 0.5, "ab", (float("nan"), 1.0)):
        said = (
            rf"Transform got crop_scale={re.escape(repr(scale))}\. Expected two shares.*Try crop_scale=\(0\.8, 1\.0\)"
        )
        with pytest.raises(ValueError, match=said):
            make(16, crop_scale=scale)
    for chance in (2, -0.5, float("nan")):
        with pytest.raises(ValueError, match=rf"flip={chance}\. Expected a probability, 0 to 1\. Try flip=0\.5"):
            make(16, flip=chance)
    assert make(16, flip=1.0, crop_scale=[0.5, 0.5]).random


@pytest.mark.plain
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (ImageTransform, "size"),
        (partial(VideoTransform, num_frames=4), "size"),
        (partial(VideoTransform, 8), "num_frames"),
        (VolumeTransform, "size"),
        (partial(VolumeTransform, 8), "slices"),
    ],
)
def test_sizes_are_whole_numbers_above_zero(make, name):
    for wrong in (32.5, 8.0, True, "8"):
        with pytest.raises(
            TypeError, match=rf"Transform got {name}={wrong!r}\. Expected a whole number\. Write {name}"
        ):
            make(**{name: wrong})
    with pytest.raises(ValueError, match=rf"Transform got {name}=0\. Expected a number above 0"):
        make(**{name: 0})
    make(**{name: np.int64(8)})
