"""Data: tables of samples in, batches out.

``read_table`` reads rows, ``transforms`` make tensors of cells, ``collate`` makes batches of samples, and
``load_batches`` does all three for a model. ``make_synthetic`` makes batches whose best possible accuracy is known.
"""

from mmfuse.data.collate import collate
from mmfuse.data.dataset import Sample, TableDataset
from mmfuse.data.errors import DataError
from mmfuse.data.loader import Loader, load_batches
from mmfuse.data.mixup import Mixup
from mmfuse.data.report import ReadReport
from mmfuse.data.samples import SampleDataset
from mmfuse.data.series_statistics import series_statistics
from mmfuse.data.sources import read_table
from mmfuse.data.synthetic import Synthetic, make_synthetic
from mmfuse.data.table import Table
from mmfuse.data.tabular_statistics import tabular_statistics

__all__ = [
    "DataError",
    "Loader",
    "Mixup",
    "ReadReport",
    "Sample",
    "SampleDataset",
    "Synthetic",
    "Table",
    "TableDataset",
    "collate",
    "load_batches",
    "make_synthetic",
    "read_table",
    "series_statistics",
    "tabular_statistics",
]
