"""Clips written by the test, each frame as bright as its number: which frames come, and what is said of bad files."""

import json
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from mmfuse._record import arguments_of
from mmfuse.data.transforms import Transform, VideoTransform

av = pytest.importorskip("av")
STEP = 8  # levels of brightness from one frame to the next: more than a codec changes


def frame(number, size=(64, 48)):
    return np.full((size[1], size[0], 3), number * STEP, dtype=np.uint8)


def film(path, stamps=range(24), codec="libx264", rate=25, images=None, options=None, turn=0):
    """A clip with frames at these times, in units of 1 / (40 * rate) seconds if they are not evenly spaced."""
    stamps = list(stamps)
    even = stamps == list(range(len(stamps)))
    images = images or [frame(i) for i in range(len(stamps))]
    with av.open(path, "w", format=None if isinstance(path, str) else "mp4", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = images[0].shape[1], images[0].shape[0]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.gop_size = 6
        unit = Fraction(1, rate if even else 40 * rate)
        stream.codec_context.time_base = unit
        if turn:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("PyAV 18 writes rotations, older ones read them")
            stream.set_display_rotation(turn)
        for stamp, image in zip(stamps, images, strict=True):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = stamp, unit
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def numbers(clip):
    """Which frame each is."""
    levels = clip.float().mean(dim=(1, 2, 3)) / STEP
    assert (levels - levels.round()).abs().max() < 0.45
    return levels.round().int().tolist()


CONTAINERS = {
    "a.mp4": "libx264",
    "b.mp4": "mpeg4",
    "c.mkv": "libx264",
    "d.webm": "libvpx-vp9",
    "e.avi": "mpeg4",
    "f.avi": "libx264",  # frames out of order in a container without time stamps
    "g.mov": "mpeg4",
    "h.mp4": "libx265",
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_takes_the_centre_of_each_segment(name, tmp_path):
    path = film(
        str(tmp_path / name), codec=CONTAINERS[name], options={"x265-params": "log-level=none"} if "h" in name else None
    )

    clip = VideoTransform(16, num_frames=4)(path)

    assert (clip.shape, clip.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert numbers(clip) == [3, 9, 15, 21]
    assert numbers(VideoTransform(16, num_frames=24)(path)) == list(range(24))


def test_a_gif_is_a_clip(tmp_path):
    path = film(str(tmp_path / "a.gif"), codec="gif", rate=10, stamps=range(8), images=[frame(i * 4) for i in range(8)])

    clip = VideoTransform(16, num_frames=4)(path)

    assert clip.float().mean(dim=(1, 2, 3)).diff().min() > 20


def test_time_stamps_decide_and_not_the_number_of_frames(tmp_path):
    """Variable frame rate: frames 0 to 4 in the first second, then one that stands for three seconds, then 4 more."""
    seconds = [0, 0.2, 0.4, 0.6, 0.8, 1.0, 4.0, 4.25, 4.5, 4.75]
    path = film(str(tmp_path / "a.mkv"), stamps=[round(s * 1000) for s in seconds])

    clip = VideoTransform(16, num_frames=10)(path)

    centres = [(i + 0.5) * 0.479 for i in range(10)]  # the last frame takes 0.04 s, as the rate says
    assert numbers(clip) == [max(i for i, s in enumerate(seconds) if s <= centre) for centre in centres]


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv"])
def test_a_late_start_shifts_nothing(name, tmp_path):
    path = film(str(tmp_path / name), stamps=[5000 + 40 * i for i in range(24)])

    assert numbers(VideoTransform(16, num_frames=4)(path)) == [3, 9, 15, 21]


def test_a_container_that_does_not_tell_its_length(tmp_path):
    path = film(str(tmp_path / "a.mkv"), options={"live": "1"})
    with av.open(path) as container:
        assert container.duration is None

    assert numbers(VideoTransform(16, num_frames=4)(path)) == [3, 9, 15, 21]


def test_frames_a_second_make_clips_of_unequal_length(tmp_path):
    transform = VideoTransform(16, fps=5.0)
    long, short = film(str(tmp_path / "a.mp4")), film(str(tmp_path / "b.mp4"), stamps=range(2))

    clips, lost = transform.batch([long, short])

    assert [numbers(clip) for clip in clips] == [[2, 7, 12, 16, 21], [1]]
    assert (lost, transform.padding) == ([0, 0], 0)


def test_what_a_long_clip_loses_is_counted(tmp_path):
    path = film(str(tmp_path / "a.mp4"))

    (clip,), lost = VideoTransform(16, fps=12.5, max_seconds=0.48).batch([path])

    assert numbers(clip) == [7, 9, 11, 13, 15, 17]  # the middle 12 of 24
    assert lost == [6]
    torch.manual_seed(0)
    starts = {numbers(VideoTransform(16, fps=12.5, max_seconds=0.48, jitter=True)(path))[0] for _ in range(12)}
    assert min(starts) < 4 and max(starts) > 8


def test_a_clip_with_fewer_frames_than_wanted_repeats_them(tmp_path):
    path = film(str(tmp_path / "a.mp4"), stamps=range(3))

    assert numbers(VideoTransform(16, num_frames=6)(path)) == [0, 0, 1, 1, 2, 2]


def test_only_what_is_needed_is_decoded(tmp_path):
    from mmfuse.data.transforms._decode_video import VideoFile

    path = film(str(tmp_path / "a.mp4"), stamps=range(30))  # a keyframe every 6 frames
    with VideoFile(Path(path)) as video:
        packets = []
        demux = video._container.demux
        video._container = Recording(video._container, lambda s: (packets.append(p) or p for p in demux(s)))
        frames = dict(video.frames([13, 26]))

    assert sorted(frames) == [13, 26]
    assert len(packets) <= 12  # not 27


class Recording:
    """A container whose packets are counted."""

    def __init__(self, container, demux):
        self.container, self.demux = container, demux

    def __getattr__(self, name):
        return getattr(self.container, name)


def test_training_draws_a_time_in_each_segment_and_one_place_for_all_frames(tmp_path):
    half = np.concatenate([frame(4, (32, 48)), frame(20, (32, 48))], axis=1)  # dark on the left, bright on the right
    path = film(str(tmp_path / "a.mp4"), images=[half] * 24)
    numbered = film(str(tmp_path / "b.mp4"))
    transform = VideoTransform(16, num_frames=4, jitter=True, crop_scale=(0.1, 0.4), flip=0.5)
    torch.manual_seed(0)

    clips = torch.stack([transform(path) for _ in range(12)]).float()
    drawn = torch.tensor([numbers(transform(numbered)) for _ in range(12)])

    torch.testing.assert_close(clips, clips[:, :1].expand_as(clips), atol=6, rtol=0)  # the same crop in each frame
    assert clips.mean(dim=(1, 2, 3, 4)).std() > 10  # another one in each clip
    leans = (clips[..., -4:] - clips[..., :4]).mean(dim=(1, 2, 3, 4))
    assert leans.min() < -20 and leans.max() > 20  # mirrored or not
    assert (drawn // 6 == torch.arange(4)).all() and len(drawn[:, 0].unique()) > 2
    assert transform.random and not VideoTransform(16, num_frames=4).random
    torch.manual_seed(3)
    first = transform(path)
    torch.manual_seed(3)
    torch.testing.assert_close(transform(path), first, atol=0, rtol=0)


@pytest.mark.parametrize("turn", [0, 90, 180, -90])
def test_the_rotation_of_the_camera_is_applied(turn, tmp_path):
    from PIL import Image

    image = np.zeros((48, 96, 3), dtype=np.uint8)
    image[:16, 24:40] = 200  # bright near the upper left corner of the centre square
    path = film(str(tmp_path / "a.mp4"), stamps=range(3), images=[image] * 3, turn=turn)

    clip = VideoTransform(12, num_frames=1)(path)[0, 0]

    upright = Image.fromarray(image).rotate(turn, expand=True)  # counterclockwise, as FFmpeg counts
    expected = np.asarray(upright.convert("L"))
    top, left = (expected.shape[0] - 48) // 2, (expected.shape[1] - 48) // 2
    square = torch.from_numpy(expected[top : top + 48, left : left + 48].copy()).float()
    square = torch.nn.functional.avg_pool2d(square[None], 4)[0]
    torch.testing.assert_close(clip.float(), square, atol=60, rtol=0)  # 200 where it is bright, but for edges


def test_a_file_and_its_bytes_and_its_frames_are_one_clip(tmp_path):
    waves = (127 + 90 * np.sin(np.arange(64) / 5)).astype(np.uint8)
    images = [np.repeat(np.tile(np.roll(waves, 3 * i), (48, 1))[..., None], 3, axis=2) for i in range(12)]
    path = film(str(tmp_path / "a.mp4"), images=images, stamps=range(12))
    array = np.stack(images).transpose(0, 3, 1, 2)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", frames=array[:, 0])
    transform = VideoTransform(24, num_frames=3)

    clip = transform(path)

    assert torch.equal(transform((tmp_path / "a.mp4").read_bytes()), clip)
    assert torch.equal(transform({"bytes": (tmp_path / "a.mp4").read_bytes(), "path": None}), clip)
    given = transform(array)
    torch.testing.assert_close(given.float(), clip.float(), atol=12, rtol=0)
    grey = array[:, :1]
    for same in (torch.from_numpy(array), grey, grey[:, 0], (array, 25.0), (torch.from_numpy(array), np.int64(5))):
        assert torch.equal(transform(same), given)
    for file in ("a.npy", "a.npz"):
        assert torch.equal(transform(tmp_path / file), given)
        assert torch.equal(transform((tmp_path / file).read_bytes()), given)
    read_only = array.copy()
    read_only.setflags(write=False)
    assert torch.equal(transform(read_only), given)


def test_frames_of_an_array_are_taken_by_time():
    array = np.stack([frame(i) for i in range(20)]).transpose(0, 3, 1, 2)

    assert numbers(VideoTransform(16, fps=2.0)((array, 10.0))) == [2, 7, 12, 17]
    assert numbers(VideoTransform(16, fps=2.0)((array, 5.0))) == [1, 3, 6, 8, 11, 13, 16, 18]


def test_is_remembered_copied_and_has_a_blank():
    transform = VideoTransform(16, num_frames=4, crop_scale=(0.5, 1.0), jitter=True)

    again = VideoTransform(**json.loads(json.dumps(arguments_of(transform))))

    assert isinstance(pickle.loads(pickle.dumps(transform)), Transform)
    assert (again.crop_scale, again.num_frames, again.padding) == ([0.5, 1.0], 4, None)
    assert transform.blank().shape == (4, 3, 16, 16)
    assert VideoTransform(16, fps=2.0).blank().shape == (1, 3, 16, 16)


# what is said


def refused(value, match, **options):
    with pytest.raises(ValueError, match=match) as caught:
        VideoTransform(16, **{"num_frames": 4} | options)(value)
    assert len(str(caught.value)) <= 400


@pytest.mark.plain
def test_says_what_is_wrong_with_a_file(tmp_path):
    refused(tmp_path / "no.mp4", r"no file '.*no.mp4'\. Expected a clip\. Check the path")
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", r"is empty \(0 bytes\)\. Expected a clip\. Copy or record it again")
    refused(b"", r"is empty \(0 bytes\)")
    (tmp_path / "text.mp4").write_text("this is a text " * 99)
    refused(tmp_path / "text.mp4", r"not a video that can be read.*Expected a whole mp4, mov.*Convert it to mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    refused(tmp_path / "sound.mp4", r"has no video, only \['audio'\]\. Expected.*moving pictures.*AudioTransform")


@pytest.mark.plain
@pytest.mark.parametrize("name", ["a.mp4", "b.mp4", "c.mkv", "d.avi", "e.webm"])
def test_says_that_a_file_breaks_off(name, tmp_path):
    codec = {"d.avi": "mpeg4", "e.webm": "libvpx-vp9"}.get(name, "libx264")
    images = [np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8) for i in range(60)]
    front = {"movflags": "faststart"} if name == "a.mp4" else None
    path = film(str(tmp_path / name), stamps=range(60), images=images, codec=codec, options=front)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])

    if name == "b.mp4":  # its index stood at the end
        refused(path, r"not a video that can be read, or it breaks off\. Expected a whole mp4.*copy it again")
    else:
        refused(path, r"breaks off after \d\.\d of \d\.\d seconds\. Expected a whole file\. Copy or download it again")


@pytest.mark.plain
def test_says_that_a_file_is_damaged(tmp_path):
    path = tmp_path / "a.mp4"
    film(str(path), codec="libvpx-vp9")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 400] = bytes(255 - b for b in data[start : start + 400])
    path.write_bytes(data)

    refused(path, r"is damaged: .*\. Expected a whole file that can be decoded\. Copy it again")


@pytest.mark.plain
def test_refuses_what_is_too_large_before_decoding(tmp_path, monkeypatch):
    path = film(str(tmp_path / "a.mp4"))
    untold = film(str(tmp_path / "a.mkv"))
    monkeypatch.setattr("mmfuse.data.transforms._decode_video.VideoFile.frames", None)

    refused(
        path, r"frames of 64 x 48 pixels\. Expected at most 3000 pixels in a frame.*raise max_pixels", max_pixels=3000
    )
    refused(path, r"has 24 frames or more\. Expected at most 10\. Cut it.*raise max_frames", max_frames=10)
    refused(untold, r"has 11 frames or more\. Expected at most 10", max_frames=10)  # this header does not tell
    refused(np.zeros((9, 8, 8), dtype=np.uint8), r"has 9 frames or more", max_frames=8)


@pytest.mark.plain
def test_never_follows_a_playlist(tmp_path):
    film(str(tmp_path / "secret.mp4"))
    for name, text in {
        "concat.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
        "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    }.items():
        (tmp_path / name).write_text(text)
        refused(tmp_path / name, r"not a video that can be read")
        refused(text.encode(), r"not a video that can be read")


@pytest.mark.plain
def test_says_what_is_wrong_with_an_array(tmp_path):
    refused(np.zeros((4, 8, 8, 3), dtype=np.uint8), r"shape \(4, 8, 8, 3\).*Expected \(time, channel.*second place")
    refused(torch.zeros(4, 3, 8, 8), r"type torch\.float32\. Expected .*uint8 from 0 to 255.*scale the values")
    refused(np.zeros((0, 8, 8), dtype=np.uint8), r"shape \(0, 8, 8\)")
    refused(
        torch.zeros(2, 8, 8, dtype=torch.uint8),
        r"without a rate, but 2 frames a second.*pair",
        num_frames=None,
        fps=2.0,
    )
    refused((torch.zeros(2, 8, 8, dtype=torch.uint8), 0), r"clip has fps=0\.0\. Expected .*above 0")
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npy", r"pickle|object|Python")


@pytest.mark.plain
def test_says_what_is_wrong_with_the_settings(monkeypatch):
    with pytest.raises(ValueError, match=r"num_frames=None and fps=None\. Expected one of the two.*Give num_frames=8"):
        VideoTransform(16)
    with pytest.raises(ValueError, match=r"num_frames=4 and fps=2\.0\. Expected one"):
        VideoTransform(16, num_frames=4, fps=2.0)
    with pytest.raises(ValueError, match=r"VideoTransform got size=0"):
        VideoTransform(0, num_frames=4)
    for wrong in ({"num_frames": 0}, {"fps": 0}):
        with pytest.raises(ValueError, match=rf"got {next(iter(wrong))}=0\. Expected a number above 0"):
            VideoTransform(16, **wrong)
    with pytest.raises(ValueError, match=r"VideoTransform got fps=inf\. Expected a finite number.*Try fps=2"):
        VideoTransform(16, fps=float("inf"))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"needs PyAV\. Expected the package 'av'\..*pip install 'mmfuse\[video\]'"):
        VideoTransform(16, num_frames=4)(b"123")
