"""Data: tables of samples in, batches out.

``read_table`` reads rows, ``transforms`` make tensors of cells, ``collate`` makes batches of samples, and
``load_batches`` does all three for a model. ``write_shards`` and ``load_shards`` are for data too large for a table.
``make_synthetic`` makes batches whose best possible accuracy is known.
"""

from mmfuse.data.errors import DataError
from mmfuse.data.inspection import DataReport, inspect
from mmfuse.data.loading.collate import collate
from mmfuse.data.loading.dataset import Sample, TableDataset
from mmfuse.data.loading.load import load_batches
from mmfuse.data.loading.loader import Loader
from mmfuse.data.loading.mixup import Mixup
from mmfuse.data.loading.report import ReadReport
from mmfuse.data.loading.samples import SampleDataset
from mmfuse.data.pixel_statistics import pixel_statistics
from mmfuse.data.series_statistics import series_statistics
from mmfuse.data.shards import index_shards, load_shards, verify_shards, write_shards
from mmfuse.data.synthetic import Synthetic, make_synthetic
from mmfuse.data.tables.sources import read_table
from mmfuse.data.tables.table import Table
from mmfuse.data.tabular_statistics import tabular_statistics

__all__ = [
    "DataError",
    "DataReport",
    "Loader",
    "Mixup",
    "ReadReport",
    "Sample",
    "SampleDataset",
    "Synthetic",
    "Table",
    "TableDataset",
    "collate",
    "index_shards",
    "inspect",
    "load_batches",
    "load_shards",
    "make_synthetic",
    "pixel_statistics",
    "read_table",
    "series_statistics",
    "tabular_statistics",
    "verify_shards",
    "write_shards",
]
