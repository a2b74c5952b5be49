"""Samples of a batch mixed with one another, in all modalities and labels at once."""

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Batch, Input, Target


@recorded
class Mixup:
    r"""Mix each sample with a partner from its batch, every modality and label with the same coefficient.

    .. math::
        x_m \leftarrow \lambda x_m + (1 - \lambda) x'_m, \qquad y \leftarrow \lambda y + (1 - \lambda) y', \qquad
        \lambda \sim \operatorname{Beta}(\alpha, \alpha)

    The partner is drawn from the samples with the same modalities present and the same labels known, so that absence
    keeps its meaning; a sample that is alone in this stays as it is. What is mixed how:

    - numbers: as in the equation. Of two sequences the longer one gives the length, and zeros stand in for the rest;
    - uint8 images: likewise, rounded;
    - integer sequences (token ids): the partner's are joined to the sample's own, as MixGen does. If that is longer
      than the transform's ``max_length`` (without one: than the longest of the batch), each is cut at its end, so that
      the sample's own make up the share :math:`\lambda`, or more if the partner's are short;
    - whatever has a transform with ``mix(first, second, share) -> Input``: as that says.

    A partner is a sample of the same batch of the same process, so that no sample is read twice. With another number of
    processes, or another size of batches, partners are others; coefficients are not.

    Zhang et al., 2018, https://arxiv.org/abs/1710.09412 (mixup); Hao et al., 2023, https://arxiv.org/abs/2206.08358
    (MixGen, which joins texts and mixes images).

    Args:
        alpha: of the Beta distribution; the smaller, the nearer are most coefficients to 0 or 1.
        each_row: draw a coefficient for each sample, not one for the batch.
    """

    def __init__(self, alpha: float = 0.2, *, each_row: bool = True) -> None:
        require_positive("Mixup", alpha=alpha)
        self.alpha = alpha
        self.each_row = each_row

    def __call__(
        self,
        batch: Batch,
        tasks: Mapping[str, Any],
        transforms: Mapping[str, Any],
        key: Sequence[Hashable],
        rows: Sequence[int],
    ) -> Batch:
        """The mixed batch: a coefficient is a function of ``key`` and the row of its sample, a partner of all rows."""
        partner = draw_partners(batch, random.Random(repr(("mixup", *key, list(rows)))))
        drawn = [self._draw(*key, row) for row in rows] if self.each_row else [self._draw(*key, *rows)] * len(rows)
        share = torch.tensor(drawn).where(partner != torch.arange(len(rows)), 1.0)
        return mix_batch(batch, partner, share, tasks, transforms)

    def _draw(self, *key: Hashable) -> float:
        return random.Random(repr(("share", *key))).betavariate(self.alpha, self.alpha)

    def require_tasks(self, tasks: Mapping[str, Any]) -> None:
        """Raise ValueError unless the labels of every task can be mixed."""
        for name, task in tasks.items():
            if not hasattr(task, "mix"):
                raise ValueError(
                    f"Mixup cannot mix the labels of the task {name!r} ({type(task).__name__}). Expected tasks with "
                    "mix(first, second, share), such as Classification, MultiLabel and Regression. Train without mix."
                )


def draw_partners(batch: Batch, generator: random.Random) -> Int[Tensor, " batch"]:
    """For each sample another one with the same modalities and labels, or itself if there is none."""
    columns = [given.present for given in batch.inputs.values()] + [target.known for target in batch.targets.values()]
    alike: dict[tuple[bool, ...], list[int]] = {}
    for row, pattern in enumerate(torch.stack(columns, dim=1).tolist()):
        alike.setdefault(tuple(pattern), []).append(row)
    partner = torch.arange(len(columns[0]))
    for rows in alike.values():
        generator.shuffle(rows)
        partner[torch.tensor(rows)] = torch.tensor(rows[1:] + rows[:1])
    return partner


def mix_batch(
    batch: Batch,
    partner: Int[Tensor, " batch"],
    share: Float[Tensor, " batch"],
    tasks: Mapping[str, Any],
    transforms: Mapping[str, Any],
) -> Batch:
    """``share`` of each sample, and the rest of its partner."""
    inputs = {name: _mix(name, given, partner, share, transforms.get(name)) for name, given in batch.inputs.items()}
    targets = {
        name: Target(tasks[name].mix(target.values, target.values[partner], share), target.known)
        for name, target in batch.targets.items()
    }
    return Batch(inputs, targets)


def _mix(name: str, given: Input, partner: Tensor, share: Tensor, transform: Any) -> Input:
    real = given.zeroed()
    mask = None if given.mask is None else given.mask[partner]
    other = Input(real.values[partner], given.present[partner], mask)
    if hasattr(transform, "mix"):
        return transform.mix(real, other, share)
    if given.values.is_floating_point() or given.values.dtype == torch.uint8:
        return _interpolate(real, other, share)
    if given.mask is not None and given.values.dim() == 2 and given.values.dtype != torch.bool:
        return _join(given, other, share, getattr(transform, "max_length", None))
    raise ValueError(
        f"Mixup cannot mix the modality {name!r}: {given.values.dtype} of shape {tuple(given.values.shape)}. Expected "
        "numbers, uint8 images or sequences of ids. Give its transform a method mix(first, second, share) -> Input."
    )


def _interpolate(first: Input, second: Input, share: Tensor) -> Input:
    weight = share.reshape(-1, *(1,) * (first.values.dim() - 1))
    dtype = torch.float32 if first.values.dtype == torch.uint8 else first.values.dtype
    weight = weight.to(dtype)
    mixed = weight * first.values.to(dtype) + (1 - weight) * second.values.to(dtype)
    values = mixed.round().to(torch.uint8) if first.values.dtype == torch.uint8 else mixed
    mask = first.mask
    if mask is not None and second.mask is not None:  # what has no share in a sample does not lengthen it
        mask = (mask & (share > 0)[:, None]) | (second.mask & (share < 1)[:, None])
    return Input(values, first.present, mask)


def _join(first: Input, second: Input, share: Tensor, limit: int | None) -> Input:
    own, other = _lengths(first.mask), _lengths(second.mask)
    most = first.values.shape[1] if limit is None else limit
    other = other.where(share < 1, 0)
    own = own.where(share > 0, 0)
    kept = torch.minimum(own, torch.maximum((share * most).round().long(), most - other))
    added = torch.minimum(other, most - kept)
    steps = torch.arange(int((kept + added).max()) if len(kept) else 0)
    from_second = (steps - kept[:, None]).clamp(0, first.values.shape[1] - 1)
    own_steps = steps.clamp_max(first.values.shape[1] - 1).expand_as(from_second)
    values = torch.where(steps < kept[:, None], first.values.gather(1, own_steps), second.values.gather(1, from_second))
    return Input(values, first.present, steps < (kept + added)[:, None])


def _lengths(mask: Bool[Tensor, "batch time"] | None) -> Int[Tensor, " batch"]:
    assert mask is not None
    return mask.sum(dim=1)


def require_training(caller: str, mix: Mixup | None, *, train: bool) -> None:
    """Raise ValueError for a mixing of what is not trained on."""
    if mix is not None and not train:
        raise ValueError(f"{caller} got mix without train=True. Expected to mix only what is trained on. Leave it.")
