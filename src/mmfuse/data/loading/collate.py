"""Samples into a batch: padded, masked, absent modalities and unknown labels filled in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmfuse.contracts import Batch, Input, Target
from mmfuse.data.transforms import Transform


@dataclass(frozen=True)
class Sample:
    """One row: a tensor for each modality and task, None where it is absent or unknown. A label may be a number."""

    inputs: Mapping[str, Tensor | None]
    targets: Mapping[str, Any]


def collate(samples: Sequence[Sample], transforms: Mapping[str, Transform], blanks: Mapping[str, Tensor]) -> Batch:
    """One batch of some samples.

    Every modality of ``transforms`` and every task of ``blanks`` is in the batch, also where no sample has it: then a
    blank stands in each row, with ``present`` or ``known`` False. Sequences are padded at their end to the longest.

    Args:
        samples: rows of one dataset.
        transforms: what made each modality's tensors; says how to pad them.
        blanks: for each task, what stands in for an unknown label: ``{name: task.blank()}``.
    """
    return Batch(
        inputs={name: make_input([s.inputs.get(name) for s in samples], t) for name, t in transforms.items()},
        targets={name: make_target([s.targets.get(name) for s in samples], blank) for name, blank in blanks.items()},
    )


def make_input(values: Sequence[Tensor | None], transform: Transform) -> Input:
    """One modality of some samples, None where it is absent."""
    present = torch.tensor([value is not None for value in values])
    blank = transform.blank()
    filled = [blank if value is None else value for value in values]
    if transform.padding is None:
        return Input(torch.stack(filled), present)
    # Where there is nothing to pad, to stack takes half of the time.
    alike = all(value.size(0) == filled[0].size(0) for value in filled)
    padded = torch.stack(filled) if alike else pad_sequence(filled, True, transform.padding)
    mask = np.zeros(padded.shape[:2], dtype=np.bool_)  # of waveforms, in a fraction of torch's time
    for row, value in zip(mask, values, strict=True):
        row[: 0 if value is None else value.size(0)] = True
    return Input(padded, present, torch.from_numpy(mask))


def make_whole_input(values: Tensor, transform: Transform) -> Input:
    """One modality that all samples have, all of one length, as one tensor already."""
    present = torch.ones(len(values), dtype=torch.bool)
    mask = None if transform.padding is None else torch.ones(values.shape[:2], dtype=torch.bool)
    return Input(values, present, mask)


def make_target(values: Sequence[Tensor | None], blank: Tensor) -> Target:
    """The labels of one task, None where they are unknown."""
    known = torch.tensor([value is not None for value in values])
    return Target(torch.stack([blank if value is None else value for value in values]), known)
