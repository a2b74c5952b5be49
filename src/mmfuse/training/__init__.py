"""Training: the plain loop, and ``fit``, which is that loop with the defaults that a real run needs."""

from mmfuse.training.compiling import compiled
from mmfuse.training.ema import ExponentialMovingAverage
from mmfuse.training.fit import fit
from mmfuse.training.history import History
from mmfuse.training.log import JsonLines
from mmfuse.training.loop import train_epoch
from mmfuse.training.nonfinite import NonFinite, NonFiniteError
from mmfuse.training.optimizer import check_partition, make_optimizer, parameter_groups, warmup_cosine
from mmfuse.training.plot import plot_history
from mmfuse.training.precision import Precision, arithmetic
from mmfuse.training.seeds import seed_everything
from mmfuse.training.tracking import TensorBoard, WeightsAndBiases
from mmfuse.training.unfreezing import Unfreezing, set_training

__all__ = [
    "ExponentialMovingAverage",
    "History",
    "JsonLines",
    "NonFinite",
    "NonFiniteError",
    "Precision",
    "TensorBoard",
    "Unfreezing",
    "WeightsAndBiases",
    "arithmetic",
    "check_partition",
    "compiled",
    "fit",
    "make_optimizer",
    "parameter_groups",
    "plot_history",
    "seed_everything",
    "set_training",
    "train_epoch",
    "warmup_cosine",
]
