"""Training: the plain loop, and ``fit``, which is that loop with the defaults that a real run needs."""

from mmfuse.training.fit import fit
from mmfuse.training.history import History
from mmfuse.training.loop import train_epoch
from mmfuse.training.nonfinite import NonFiniteError
from mmfuse.training.optimizer import check_partition, make_optimizer, parameter_groups, warmup_cosine
from mmfuse.training.precision import Precision
from mmfuse.training.seeds import seed_everything

__all__ = [
    "History",
    "NonFiniteError",
    "Precision",
    "check_partition",
    "fit",
    "make_optimizer",
    "parameter_groups",
    "seed_everything",
    "train_epoch",
    "warmup_cosine",
]
