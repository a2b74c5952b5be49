"""Training: the plain loop, and ``fit``, which is that loop with the defaults that a real run needs."""

from mmfuse._files import CorruptCheckpointError, UnsafeFileError
from mmfuse.training.caching import cache_features, verify_features
from mmfuse.training.checkpoints.checkpoint import Checkpoints
from mmfuse.training.compiling import compiled
from mmfuse.training.ema import ExponentialMovingAverage
from mmfuse.training.fit import fit
from mmfuse.training.halving import Halving
from mmfuse.training.history import History
from mmfuse.training.log import JsonLines
from mmfuse.training.loop import train_epoch
from mmfuse.training.nonfinite import NonFinite, NonFiniteError
from mmfuse.training.objective import Objective
from mmfuse.training.optimizer import check_partition, make_optimizer, parameter_groups, warmup_cosine
from mmfuse.training.plot import plot_history
from mmfuse.training.precision import Precision, arithmetic
from mmfuse.training.seeds import seed_everything
from mmfuse.training.signals import Preempted
from mmfuse.training.tracking import TensorBoard, WeightsAndBiases
from mmfuse.training.unfreezing import Unfreezing, set_training

__all__ = [
    "Checkpoints",
    "CorruptCheckpointError",
    "ExponentialMovingAverage",
    "Halving",
    "History",
    "JsonLines",
    "NonFinite",
    "NonFiniteError",
    "Objective",
    "Precision",
    "Preempted",
    "TensorBoard",
    "Unfreezing",
    "UnsafeFileError",
    "WeightsAndBiases",
    "arithmetic",
    "cache_features",
    "check_partition",
    "compiled",
    "fit",
    "make_optimizer",
    "parameter_groups",
    "plot_history",
    "seed_everything",
    "set_training",
    "train_epoch",
    "verify_features",
    "warmup_cosine",
]
