"""Extracted features out of files and cells: shapes, what is cut off, and what is said of the wrong ones."""

import pickle

import numpy as np
import pytest
import torch

from mmfuse._record import arguments_of
from mmfuse.data.transforms import FeatureTransform, Transform

STEPS = np.arange(15, dtype=np.float32).reshape(5, 3)


def test_reads_vectors_and_sequences(tmp_path):
    np.save(tmp_path / "a.npy", STEPS)
    np.save(tmp_path / "b.npy", STEPS[0].astype(np.float16))

    sequence, vector = FeatureTransform(3, sequence=True), FeatureTransform(3)

    assert sequence(tmp_path / "a.npy").tolist() == STEPS.tolist()
    assert sequence((tmp_path / "a.npy").read_bytes()).tolist() == STEPS.tolist()
    assert vector(tmp_path / "b.npy").tolist() == STEPS[0].tolist()
    assert vector([[1, 2, 3]]).tolist() == [1.0, 2.0, 3.0]  # a batch of one, as many programs save it
    assert vector(torch.tensor([1, 2, 3])).dtype == torch.float32
    assert FeatureTransform(1, sequence=True)([1, 2]).tolist() == [[1.0], [2.0]]


def test_is_a_transform_that_can_be_built_again_and_sent_to_workers():
    for transform in (FeatureTransform(3), FeatureTransform(3, sequence=True, key="x", max_steps=2)):
        again = pickle.loads(pickle.dumps(transform))

        assert isinstance(transform, Transform)
        assert arguments_of(again) == arguments_of(transform)
        assert (again.padding is None) == (not again.sequence)
        assert again.blank().shape == ((1, 3) if again.sequence else (3,))


def test_counts_the_steps_that_it_cuts_off(tmp_path):
    np.save(tmp_path / "a.npy", STEPS)
    transform = FeatureTransform(3, sequence=True, max_steps=4)

    tensors, lost = transform.batch([tmp_path / "a.npy", STEPS[:2], STEPS])

    assert [len(tensor) for tensor in tensors] == [4, 2, 4]
    assert lost == [1, 0, 1]
    assert tensors[0].tolist() == STEPS[:4].tolist()


def test_makes_a_batch_of_vectors_as_one_by_one():
    transform = FeatureTransform(3)
    values = [[1, 2, 3], np.ones(3, dtype=np.float16), torch.zeros(1, 3)]

    tensors, lost = transform.batch(values)

    assert [tensor.tolist() for tensor in tensors] == [transform(value).tolist() for value in values]
    assert lost == [0, 0, 0]
    assert transform.batch([]) == ([], [])


def test_takes_rows_of_a_whole_column_at_once():
    rows = torch.arange(12.0).reshape(4, 3)

    assert FeatureTransform(3).whole(rows).tolist() == rows.tolist()
    assert FeatureTransform(3).whole(rows.to(torch.float16)).dtype == torch.float32
    assert FeatureTransform(3, sequence=True).whole(rows.reshape(2, 2, 3)).shape == (2, 2, 3)


WRONG = {
    "a sequence for a vector": ({}, STEPS, r"shape \(5, 3\)\. Expected \(width=3,\)\. Use sequence=True for sequences"),
    "a vector for a sequence": (
        {"sequence": True},
        [1, 2, 3],
        r"Expected \(time, width=3\)\. Use sequence=False",
    ),
    "another width": ({}, [1, 2], r"shape \(2,\).*Build the encoder with the width of the features, 2"),
    "another width of steps": ({"sequence": True}, STEPS[:, :2], r"with the width of the features, 2"),
    "time last": ({"sequence": True}, STEPS.T, r"shape \(3, 5\).*Transpose the array: time comes first"),
    "layers too": ({"sequence": True}, STEPS[None], r"shape \(1, 5, 3\).*Take one layer"),
    "no steps": ({"sequence": True}, STEPS[:0], r"has no steps\. Expected at least one\. Leave the cell empty"),
    "NaN": ({}, [1, None, np.inf], r"have 2 of 3 values that are NaN or infinite.*Extract them again"),
    "too much for float32": ({}, [1e300, 0, 0], r"have 1 of 3 values that are NaN or infinite"),
    "text": ({}, "features.txt", r"has the ending '\.txt'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_says_what_is_wrong_with_a_cell(name):
    settings, value, message = WRONG[name]

    with pytest.raises(ValueError, match=message):
        FeatureTransform(3, **settings)(value)


@pytest.mark.plain
def test_says_what_is_wrong_with_settings_and_columns():
    with pytest.raises(ValueError, match=r"FeatureTransform got width=0\. Expected a number above 0"):
        FeatureTransform(0)
    with pytest.raises(ValueError, match=r"got max_steps=0\. Expected a number above 0"):
        FeatureTransform(3, sequence=True, max_steps=0)
    with pytest.raises(ValueError, match=r"max_steps=5 for single vectors.*or set sequence=True"):
        FeatureTransform(3, max_steps=5)
    with pytest.raises(ValueError, match=r"has 5 steps in every row\. Expected at most max_steps=4\. Cut the array"):
        FeatureTransform(3, sequence=True, max_steps=4).whole(STEPS[None])
    with pytest.raises(ValueError, match=r"shape \(5, 3\)\. Expected \(width=3,\)\. Use sequence=True"):
        FeatureTransform(3).whole(STEPS[None])
    with pytest.raises(ValueError, match=r"have 3 of 15 values that are NaN"):
        FeatureTransform(3).whole(np.where(STEPS[0] == STEPS, np.nan, STEPS))
