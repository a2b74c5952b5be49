"""Shards: tar files in the format of WebDataset, written from a table and read as a stream."""

from mmfuse.data.shards.index import Shard, index_shards, verify_shards
from mmfuse.data.shards.loader import load_shards
from mmfuse.data.shards.write import write_shards

__all__ = ["Shard", "index_shards", "load_shards", "verify_shards", "write_shards"]
