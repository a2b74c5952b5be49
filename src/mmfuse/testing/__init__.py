"""The promises of a fusion, as checks that anybody can run on a fusion of their own.

    check_fusion(lambda dims: MyFusion(dims, dim=8))

Each promise is a function that takes a :class:`Case` and raises AssertionError saying what broke.
"""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import nn

from mmfuse._checks import require_known_names
from mmfuse.testing.absence import ABSENCE
from mmfuse.testing.learning import LEARNING
from mmfuse.testing.machinery import MACHINERY
from mmfuse.testing.samples import DIMS, Case, random_features
from mmfuse.testing.symmetry import SYMMETRY

Promise = Callable[[Case], None]
FUSION_PROMISES: dict[str, Promise] = {**ABSENCE, **SYMMETRY, **LEARNING, **MACHINERY}


def check_fusion(
    make: Callable[[Mapping[str, int]], nn.Module],
    *,
    dims: Mapping[str, int] = DIMS,
    skip: Collection[str] = (),
) -> None:
    """Raise AssertionError, naming the promise, unless a fusion keeps all of ``FUSION_PROMISES``.

    Args:
        make: builds the fusion from the width of each modality.
        dims: modalities and widths to build it with.
        skip: promises that the fusion does not make, by name. Say in its docstring why.
    """
    require_known_names("check_fusion(skip=...)", skip, FUSION_PROMISES, "promise")
    case = Case(make, dims)
    for name, promise in FUSION_PROMISES.items():
        if name in skip:
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                promise(case)
            except Exception as error:
                owner = type(make(dims)).__name__
                raise AssertionError(f"{owner} breaks the promise {name!r}: {error}") from error


__all__ = ["DIMS", "FUSION_PROMISES", "Case", "check_fusion", "random_features"]
