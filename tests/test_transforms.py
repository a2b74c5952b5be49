"""From files as they come to the tensors that encoders take; and what is said about files that cannot be read."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mmfuse._record import arguments_of
from mmfuse.data.transforms import TRANSFORMS, AudioTransform, ImageTransform, TextTransform, train_tokenizer

TEXTS = ["a small red cup", "the blue plate", "the plate left of a cup"]


def picture(width=48, height=32):
    """Red on the left, blue on the right."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[:, : width // 2, 0] = 200
    values[:, width // 2 :, 2] = 200
    return Image.fromarray(values)


# all


def every_transform():
    return [
        ImageTransform(16, crop_scale=[0.5, 1.0]),
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
