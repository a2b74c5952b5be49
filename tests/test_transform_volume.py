"""Volumes become slices of 0 to 255 that look the same way, whichever way the file stores them."""

import gzip
import io
import pickle

import nibabel
import numpy as np
import pytest
import torch

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.data.transforms import VolumeTransform
from mmfuse.encoders import CNNEncoder, VideoEncoder

WINDOW = (0, 255)


def body(shape=(12, 10, 8)):
    """Values that tell their place: 10 times the first index, the second index, 100 more in the upper half."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return (10 * x + y + 100 * (z >= shape[2] // 2)).astype(np.int16)


def nifti(array, affine=None, slope=None, kind=nibabel.Nifti1Image):
    image = kind(array, np.eye(4) if affine is None else affine)
    if slope is not None:
        image.header.set_slope_inter(*slope)
    return image


def saved(image, path):
    nibabel.save(image, path)
    return path


# arrays


def test_an_array_is_cut_along_its_first_axis_and_windowed(tmp_path):
    array = np.linspace(-1000, 600, 6 * 16 * 16).reshape(6, 16, 16).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    transform = VolumeTransform(16, slices=None, window=(-800, 400), channels=1)

    slices = transform(tmp_path / "a.npy")

    expected = ((torch.from_numpy(array) + 800) / 1200 * 255).clamp(0, 255).round()
    assert (slices.dtype, slices.shape) == (torch.uint8, (6, 1, 16, 16))
    assert (slices[:, 0] - expected).abs().max() <= 1
    for same in (tmp_path / "a.npz", (tmp_path / "a.npy").read_bytes(), array, torch.from_numpy(array)):
        assert torch.equal(transform(same), slices)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_may_be_cut(axis):
    cube = body((12, 12, 12))

    slices = VolumeTransform(12, slices=None, axis=axis, window=WINDOW, channels=1)(cube)

    assert torch.equal(slices[:, 0], torch.from_numpy(np.moveaxis(cube, axis, 0).astype(np.uint8)))


@pytest.mark.parametrize("thin", [8, 16, 40, 41])
def test_thick_and_thin_slices_show_the_same_places(thin):
    places = np.linspace(0, 1, thin + 1)[:-1] + 0.5 / thin
    array = np.broadcast_to((places * 255)[:, None, None], (thin, 8, 8))

    slices = VolumeTransform(8, slices=8, window=WINDOW)(array)

    assert slices.shape == (8, 3, 8, 8)
    centres = (torch.arange(8) + 0.5) / 8 * 255
    assert (slices[:, 0, 4, 4] - centres).abs().max() <= 255 / thin


def test_a_volume_of_few_slices_gives_all_of_them_once():
    array = np.arange(5)[:, None, None] * np.ones((1, 8, 8)) * 50

    slices = VolumeTransform(8, slices=32, window=WINDOW)(array)

    assert slices[:, 0, 4, 4].tolist() == [0, 50, 100, 150, 200]


def test_without_a_window_percentiles_bound_the_values():
    array = np.random.default_rng(0).normal(300, 50, (20, 30, 40))
    array[0, 0, 0] = 1e6  # one bright voxel does not make all others black

    slices = VolumeTransform(40, slices=None, percentiles=(1, 99), channels=1)(array)

    seen = slices[:, 0, 8:32]
    assert 0 < (seen == 0).float().mean() < 0.03 and 0 < (seen == 255).float().mean() < 0.03
    assert abs(seen.float().mean() - 127) < 5
    assert VolumeTransform(8)(np.full((4, 8, 8), 7.0)).max() == 0  # a constant volume has nothing to show


def test_proportions_are_kept_and_black_stands_around():
    slices = VolumeTransform(16, slices=None, window=(0, 1), channels=1)(np.ones((3, 10, 20)))

    assert (slices[:, :, 4:12] == 255).all()
    assert (slices[:, :, :4] == 0).all() and (slices[:, :, 12:] == 0).all()


# NIfTI


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_nifti_files_are_read_as_nibabel_reads_them(end, kind, tmp_path):
    path = saved(nifti(body(), slope=(2.0, -30.0), kind=kind), tmp_path / f"a{end}")
    transform = VolumeTransform(12, slices=None, window=(-30, 400), channels=1)

    slices = transform(path)

    values = nibabel.load(path).get_fdata()  # (left to right, back to front, feet to head)
    shown = torch.from_numpy(values).permute(2, 1, 0).flip(1)  # head last, front at the top
    expected = ((shown + 30) / 430 * 255).clamp(0, 255).round()
    assert slices.shape == (8, 1, 12, 12)
    assert (slices[:, 0, 1:11].float() - expected).abs().max() <= 1
    assert torch.equal(transform(path.read_bytes()), slices)
    assert torch.equal(transform(str(path)), slices)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAR", "ILA"])
def test_slices_look_the_same_way_however_the_file_is_stored(codes, axis, tmp_path):
    straight = nifti(body(), np.diag([1.0, 1.2, 2.5, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(straight.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    turned = straight.as_reoriented(turn)
    transform = VolumeTransform(16, slices=None, axis=axis, window=WINDOW)

    got = transform(saved(turned, tmp_path / "turned.nii"))

    assert "".join(nibabel.aff2axcodes(turned.affine)) == codes
    assert torch.equal(got, transform(saved(straight, tmp_path / "straight.nii")))


def test_the_spacing_of_voxels_gives_true_proportions(tmp_path):
    path = saved(nifti(np.ones((20, 20, 5), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "a.nii")

    from_the_front = VolumeTransform(20, slices=1, axis=1, window=(0, 1), channels=1)(path)[0, 0]

    assert (from_the_front > 0).any(dim=1).sum() == 10  # 5 slices of 2 mm beside 20 voxels of 1 mm


def test_one_point_in_time_is_a_volume(tmp_path):
    path = saved(nifti(body()[..., None]), tmp_path / "a.nii")

    assert VolumeTransform(12, slices=4)(path).shape == (4, 3, 12, 12)


# with the rest


def test_slices_are_the_frames_of_a_video_encoder():
    torch.manual_seed(0)
    encoder = VideoEncoder(CNNEncoder.preset("tiny")).eval()
    transform = VolumeTransform(32, slices=6)
    volume = transform(np.random.default_rng(0).normal(size=(9, 20, 20)))
    values = torch.stack([volume, torch.full_like(volume, 255)])

    features = encoder(Input(values, torch.tensor([True, False]), torch.tensor([[True] * 6, [False] * 6])))

    alone = encoder(Input(volume[None], torch.tensor([True]), torch.ones(1, 6, dtype=torch.bool)))
    torch.testing.assert_close(features.tokens[0], alone.tokens[0], rtol=1e-5, atol=1e-5)
    blank = transform.blank()
    assert (blank.dtype, blank.shape[1:]) == (volume.dtype, volume.shape[1:])


def test_is_pickled_and_built_again_from_its_keywords():
    transform = VolumeTransform(8, slices=3, window=[-1000, 400], axis=1)

    for copy in (pickle.loads(pickle.dumps(transform)), VolumeTransform(**arguments_of(transform))):
        assert torch.equal(copy(body()), transform(body()))


# bad input


def header_only(shape, offset=352):
    """A header that promises a volume of this shape, and nothing after it."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header["vox_offset"] = offset
    header["magic"] = b"n+1\0"
    header["srow_x"], header["srow_y"], header["srow_z"] = np.eye(4)[:3]
    header["sform_code"] = 1
    return header.binaryblock + bytes(4)


@pytest.mark.plain
def test_says_what_is_wrong_with_a_volume(tmp_path):
    transform = VolumeTransform(8)
    whole = saved(nifti(body()), tmp_path / "a.nii").read_bytes()
    packed = gzip.compress(whole)
    broken = np.ones((4, 5, 6))
    broken[:2, 0, 0] = np.nan, np.inf
    (tmp_path / "text.nii").write_text("<html>" * 200)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps([1]))
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (4000, 4000, 4000)})

    for value, message in [
        (
            header_only((2000, 2000, 2000)),
            r"2000 x 2000 x 2000 = 8000000000 voxels\. Expected at most 134217728",
        ),
        (gzip.compress(header_only((2000, 2000, 2000))), r"8000000000 voxels"),
        (header_only((64, 64, 30, 200)), r"4 axes, of sizes \(64, 64, 30, 200\)\. Expected three.*Save one point"),
        (header_only((64, 64)), r"2 axes, of sizes \(64, 64\)"),
        (header_only((4, 4, 4), offset=2**30), r"numbers are said to begin at byte 1073741824\. Expected a whole"),
        (header_only((4, 4, 4)), r"128 bytes were to follow its header, and 0 do\. Expected a whole"),
        (whole[:-1], r"1920 bytes were to follow its header, and 1919 do"),
        (whole[:200], r"does not begin with a header"),
        (packed[:-40], r"is not a NIfTI volume that can be read: Compressed file ended.*Copy it again"),
        (packed[:30] + b"\0" * 9 + packed[39:], r"is not a NIfTI volume that can be read"),
        (tmp_path / "text.nii", r"does not begin with a header\. Expected a whole \.nii or \.nii\.gz file"),
        (tmp_path / "none.nii.gz", r"no file '.*none\.nii\.gz'\. Expected a volume\. Check"),
        (broken, r"2 of 120 voxels that are NaN or infinite\. Expected finite voxels\. Give .*nan_to_num"),
        (saved(nifti(broken), tmp_path / "nan.nii"), r"2 of 120 voxels that are NaN"),
        (saved(nifti(broken.astype(np.complex64)), tmp_path / "c.nii"), r"numbers of type complex64\. Expected int"),
        (np.ones((4, 5)), r"2 axes, of sizes \(4, 5\)\. Expected three"),
        (np.ones((2, 4, 5, 6)), r"4 axes"),
        (np.ones((0, 4, 5)), r"3 axes, of sizes \(0, 4, 5\)\. Expected three, of sizes above 0"),
        (huge.getvalue(), r"Expected"),
        (tmp_path / "pickle.npy", r"is a pickle, which can run any code.*Convert"),
        ("no/such.dcm", r"ending '\.dcm'\. Expected"),
        (7, r"0 axes, of sizes \(\)"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            transform(value)
        assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match=r"12 x 10 x 8 = 960 voxels\. Expected at most 959"):
        VolumeTransform(8, max_voxels=959)(body())


def test_damaged_files_raise_value_errors_and_nothing_else(tmp_path):
    data = saved(nifti(body()), tmp_path / "a.nii").read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        broken = bytearray(data)
        for place in generator.integers(4, 352, 6):
            broken[place] = generator.integers(0, 256)
        try:
            VolumeTransform(8, slices=2)(bytes(broken))
        except ValueError as error:
            assert "Expected" in str(error)
            refused += 1
    assert 20 < refused < 200


@pytest.mark.plain
def test_says_how_to_get_nibabel(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)

    with pytest.raises(ImportError, match=r"read with nibabel, which is missing\. Run pip install 'mmfuse\[medical\]'"):
        VolumeTransform(8)(header_only((4, 4, 4)))


@pytest.mark.plain
def test_says_what_is_wrong_with_the_settings():
    for options, message in [
        ({"slices": 0}, r"VolumeTransform got slices=0\. Expected a number above 0"),
        ({"axis": 3}, r"axis=3\. Expected one of \[None, 0, 1, 2\]"),
        ({"channels": 2}, r"channels=2\. Expected one of \[1, 3\]"),
        ({"window": (400, -1000)}, r"window=\[400, -1000\]\. Expected two numbers, the smaller first\. Try window="),
        ({"percentiles": (0, 101)}, r"percentiles=\[0, 101\]\. Expected two .*, from 0 to 100\. Try percentiles="),
    ]:
        with pytest.raises(ValueError, match=message):
            VolumeTransform(8, **options)
