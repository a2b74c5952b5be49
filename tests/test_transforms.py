"""From files as they come to the tensors that encoders take; and what is said about files that cannot be read."""

import io
import pickle

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmfuse._record import arguments_of
from mmfuse.data.transforms import TRANSFORMS, AudioTransform, ImageTransform, TextTransform, train_tokenizer

PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
TEXTS = ["a small red cup", "the blue plate", "the plate left of a cup"]


def picture(width=48, height=32):
    """Red on the left, blue on the right."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[:, : width // 2, 0] = 200
    values[:, width // 2 :, 2] = 200
    return Image.fromarray(values)


def tone(rate_hz, seconds=0.5, hz=440.0):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz)


def peak_hz(wave, rate_hz):
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs()
    return float(spectrum.argmax()) * rate_hz / len(wave)


# images


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


# text


def test_a_text_becomes_ids_with_special_tokens():
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)

    ids = TextTransform(tokenizer, 8)("A red CUP")

    assert ids.dtype == torch.int64
    assert tokenizer.decode(ids) == "[CLS] a red cup [SEP]"


def test_a_long_text_is_cut_and_an_empty_one_is_not_absent():
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)
    transform = TextTransform(tokenizer, 8)

    cut, empty = transform("the plate " * 50), transform("")

    assert len(cut) == 8
    assert cut[-1] == tokenizer.sep_token_id
    assert empty.tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert transform.blank().tolist() == [transform.padding] == [tokenizer.pad_token_id]


def test_a_tokenizer_without_a_limit_cuts_nothing():
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)
    tokenizer.model_max_length = int(1e30)

    assert len(TextTransform(tokenizer)("the plate " * 400)) == 802


def test_the_same_texts_give_the_same_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    texts = [f"word{i % 37} and other{i % 11} things" for i in range(500)]

    one, other = train_tokenizer(texts, 90), train_tokenizer(iter(texts), 90)

    assert one.get_vocab() == other.get_vocab()
    assert len(one) == 90
    one.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("word3 things")["input_ids"] == one("word3 things")["input_ids"]
    assert loaded.model_max_length == 512


@pytest.mark.plain
def test_says_what_is_wrong_with_a_text():
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)
    with pytest.raises(ValueError, match=r"The text is a float: nan\. Expected a string\. Read the column"):
        TextTransform(tokenizer, 8)(float("nan"))
    with pytest.raises(ValueError, match=r"train_tokenizer got vocab_size=.*Expected"):
        train_tokenizer(TEXTS, vocab_size=5)
    with pytest.raises(ValueError, match=r"max_length=2, but 2 special tokens stand in every text\. Expected.*Choose"):
        TextTransform(tokenizer, 2)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"TextTransform got a tokenizer without padding token.*Expected.*Set it"):
        TextTransform(tokenizer, 8)


# audio


@pytest.mark.parametrize(
    "rate_hz, end", [(8000, "wav"), (44100, "wav"), (16000, "flac"), (22050, "ogg"), (44100, "mp3")]
)
def test_a_tone_keeps_its_pitch_through_files_channels_and_rates(rate_hz, end, tmp_path):
    stereo = np.stack([tone(rate_hz), 0.2 * tone(rate_hz)], axis=1)
    soundfile.write(tmp_path / f"a.{end}", stereo, rate_hz)

    wave = AudioTransform(16000)(tmp_path / f"a.{end}")

    assert (wave.dtype, wave.dim()) == (torch.float32, 1)
    assert abs(len(wave) - 8000) < 1500  # mp3 adds some silence
    assert abs(peak_hz(wave, 16000) - 440) < 3
    torch.testing.assert_close(wave.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(wave.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_a_waveform_with_its_rate_is_as_good_as_a_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(8000), 8000, subtype="FLOAT")
    waveform = torch.from_numpy(tone(8000)).float()
    transform = AudioTransform(16000, normalize=False)

    expected = transform(tmp_path / "a.wav")

    torch.testing.assert_close(transform((waveform, 8000)), expected)
    torch.testing.assert_close(transform((torch.stack([waveform, waveform]), 8000)), expected)


def test_a_constant_clip_becomes_zeros_and_a_long_one_is_cut(tmp_path):
    transform = AudioTransform(16000, max_seconds=0.25)
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)

    constant = transform((torch.full((16000,), 0.3), 16000))

    torch.testing.assert_close(constant, torch.zeros(4000), atol=1e-4, rtol=0)
    assert len(transform(tmp_path / "a.wav")) == 4000
    torch.testing.assert_close(transform.blank(), torch.zeros(400))


@pytest.mark.plain
def test_says_what_is_wrong_with_a_clip(tmp_path):
    transform = AudioTransform(16000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "short.wav", tone(8000, 0.02), 8000)
    soundfile.write(tmp_path / "broken.wav", np.array([np.nan, np.inf] + [0.0] * 998), 16000, subtype="FLOAT")
    (tmp_path / "no.wav").write_bytes(b"hello, I am no sound" * 20)
    (tmp_path / "zero.wav").touch()

    for value, message in [
        (tmp_path / "empty.wav", r"clip has 0 samples \(0 ms\) at 16000 Hz\. Expected at least 400 \(25 ms\)\. Leave"),
        (tmp_path / "short.wav", r"clip has 320 samples \(20 ms\).*Expected at least 400"),
        (tmp_path / "broken.wav", r"2 of 1000 samples that are NaN or infinite\. Expected finite.*Write"),
        (tmp_path / "no.wav", r"not a clip that can be read.*Expected wav, flac, mp3 or ogg\. Convert"),
        (tmp_path / "zero.wav", r"sound file is empty \(0 bytes\)\. Expected a clip\. Copy"),
        (tmp_path / "none.wav", r"no file '.*none\.wav'\. Expected a clip\. Check"),
        (torch.zeros(1000), r"The clip is a Tensor\. Expected the path.*Give the sampling rate"),
        ((torch.zeros(1000, dtype=torch.int16), 16000), r"torch\.int16, at 16000 Hz\. Expected floats.*Divide int16"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            transform(value)
        assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match=r"AudioTransform got rate_hz=0\. Expected a number above 0"):
        AudioTransform(0)


# all


def every_transform():
    return [
        ImageTransform(16, **PLAIN, crop_scale=[0.5, 1.0]),
        TextTransform(train_tokenizer(TEXTS, vocab_size=60), 8),
        AudioTransform(8000, max_seconds=1.0),
    ]


@pytest.mark.parametrize("transform", every_transform(), ids=lambda t: type(t).__name__)
def test_keeps_the_contract_of_a_transform(transform):
    value = {"ImageTransform": picture(), "TextTransform": "a cup", "AudioTransform": (torch.rand(900), 8000)}

    copies = [pickle.loads(pickle.dumps(transform)), type(transform)(**arguments_of(transform))]

    assert TRANSFORMS[type(transform).__name__] is type(transform)
    assert isinstance(transform.takes_path, bool) and isinstance(transform.random, bool)
    blank = transform.blank()
    for copy in copies:
        torch.manual_seed(0)
        expected = transform(value[type(transform).__name__])
        torch.manual_seed(0)
        torch.testing.assert_close(copy(value[type(transform).__name__]), expected)
        assert (blank.dtype, blank.dim()) == (expected.dtype, expected.dim())
        assert transform.padding is not None or blank.shape == expected.shape
