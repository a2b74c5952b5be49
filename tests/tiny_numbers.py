"""Tables of numbers and models of them in float64, for tests in several processes: small, and exact."""

import random
from typing import Any

import torch

from mmfuse import MultimodalModel, dims_of
from mmfuse.data import read_table
from mmfuse.encoders import ProjectionEncoder, SkipAbsent, TransformerEncoder
from mmfuse.fusion import FUSIONS
from mmfuse.tasks import Classification, Regression


def table_of(rows: int, seed: int = 0) -> Any:
    """Vectors ``a``, sequences ``b``, a class ``kind`` and a number ``size``; some cells are empty."""
    chance = random.Random(seed)

    def cells(make, empty: float) -> list[Any]:
        return [None if chance.random() < empty else make() for _ in range(rows)]

    return read_table(
        {
            "id": [f"row {row}" for row in range(rows)],
            "a": cells(lambda: [chance.gauss(0, 1) for _ in range(3)], 0.2),
            "b": cells(lambda: [[chance.gauss(0, 1) for _ in range(5)] for _ in range(chance.randint(1, 4))], 0.3),
            "kind": cells(lambda: chance.choice("xyz"), 0.2),
            "size": cells(lambda: chance.gauss(1, 2), 0.5),
        }
    )


def make_model(fusion: str = "WeightedAverage", **how: Any) -> MultimodalModel:
    """Two encoders, one of which skips what is absent, and two tasks; without dropout."""
    torch.manual_seed(0)
    encoders = {
        "a": ProjectionEncoder(8, width=3, dropout=0.0),
        "b": SkipAbsent(TransformerEncoder(8, width=5, num_layers=2, dropout=0.0)),
    }
    tasks = {"kind": Classification(8, ["x", "y", "z"]), "size": Regression(8, mean=1.0, std=2.0)}
    return MultimodalModel(encoders, FUSIONS[fusion](dims_of(encoders), 8, **how), tasks).double()
