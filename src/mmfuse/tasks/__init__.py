"""Tasks: head, loss and answer in one class, ``Features -> prediction``.

A task has ``forward`` (the prediction), ``loss`` (one value per sample), ``decode`` (the answer as numbers), ``encode``
(the label of a table's cell as a tensor), ``blank`` (what stands in for an unknown label), ``metrics`` (from
scikit-learn, named in ``metric_names``; ``lower_is_better`` says which of them), ``report`` (for people to read) and
``answer`` (one sample's answer as cells of a table).
"""

from torch import nn

from mmfuse.tasks.classification import Classification
from mmfuse.tasks.each_modality import EachModality
from mmfuse.tasks.evidential import EvidentialClassification
from mmfuse.tasks.multilabel import MultiLabel
from mmfuse.tasks.regression import Regression

TASKS: dict[str, type[nn.Module]] = {
    "Classification": Classification,
    "EachModality": EachModality,
    "EvidentialClassification": EvidentialClassification,
    "MultiLabel": MultiLabel,
    "Regression": Regression,
}

__all__ = ["TASKS", "Classification", "EachModality", "EvidentialClassification", "MultiLabel", "Regression"]
