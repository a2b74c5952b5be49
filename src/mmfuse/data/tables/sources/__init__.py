"""Where tables come from: one file for each kind of source, which makes columns of it."""

from mmfuse.data.tables.sources.read import read_table

__all__ = ["read_table"]
