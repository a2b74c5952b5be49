"""A number."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features


@recorded
class Regression(nn.Module):
    """A number for each sample. It is learned in units of the training labels' spread and answered in their own.

    Args:
        dim: width of the features.
        mean: mean of the training labels (``table.statistics(column)`` gives mean and std).
        std: standard deviation of the training labels.
    """

    metric_names = ("mae", "rmse", "r2")
    lower_is_better: frozenset[str] = frozenset({"mae", "rmse"})

    def __init__(self, dim: int, *, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        require_positive("Regression", dim=dim, std=std)
        self.mean = mean
        self.std = std
        self.regress = nn.Linear(dim, 1)

    def forward(self, features: Features) -> Float[Tensor, " batch"]:
        """Standardised values."""
        return self.regress(features.pooled).squeeze(-1)

    def loss(self, values: Float[Tensor, " batch"], target: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Squared error of each sample, in units of the training variance."""
        return (values - (target - self.mean) / self.std).square()

    def decode(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Values in the units of the labels."""
        return values * self.std + self.mean

    def encode(self, cell: Any) -> Float[Tensor, ""]:
        """The number in a cell."""
        try:
            value = torch.tensor(float(cell))
        except (TypeError, ValueError, OverflowError):
            value = torch.tensor(math.nan)
        if not value.isfinite():  # in float32, which holds up to 3e38
            raise ValueError(
                f"label {cell!r} is not a finite number. Expected one such as 3.5. "
                "Mend the cell, or leave it empty for an unknown label."
            )
        return value

    def encode_all(self, cells: Sequence[Any]) -> Float[Tensor, " cell"]:
        """Many numbers at once."""
        try:
            values = torch.tensor([float(cell) for cell in cells], dtype=torch.float32)
        except (TypeError, OverflowError):
            raise ValueError("a label is not a number") from None
        self.require_labels(values)
        return values

    def require_labels(self, values: Tensor) -> None:
        """Raise ValueError unless all are finite."""
        if not values.isfinite().all():
            raise ValueError(
                "a label is NaN or infinite. Expected finite numbers. Leave an unknown label out (None) instead."
            )

    def mix(
        self, first: Float[Tensor, " batch"], second: Float[Tensor, " batch"], share: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """So much of the first number, and the rest of the second."""
        return share * first + (1 - share) * second

    def blank(self) -> Float[Tensor, ""]:
        """What stands in for an unknown label."""
        return torch.tensor(0.0)

    def metrics(self, decoded: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Mean absolute error, root mean squared error, and R squared (NaN for fewer than two samples)."""
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        return {
            "mae": float(mean_absolute_error(target, decoded)),
            "rmse": float(root_mean_squared_error(target, decoded)),
            "r2": float(r2_score(target, decoded)) if len(target) > 1 else math.nan,
        }

    def report(self, decoded: np.ndarray, target: np.ndarray) -> str:
        """The metrics, a line each."""
        return "\n".join(f"{name:>12} {value:10.4f}" for name, value in self.metrics(decoded, target).items())

    def answer(self, decoded: np.ndarray | np.floating) -> dict[str, Any]:
        """The value."""
        return {"": float(decoded)}
