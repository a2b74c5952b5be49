"""The processes of one run: how they meet, what they tell each other, and how they end together."""

from mmfuse.distributed.connect import background, connect, disconnect, is_main, rank, world
from mmfuse.distributed.talk import agree, gather_rows, gather_texts, saved_buffers, share_buffers, share_tensor
from mmfuse.distributed.together import together
from mmfuse.distributed.whole import is_shared_out, local_part, rank_0_first, whole_state

__all__ = [
    "agree",
    "background",
    "connect",
    "disconnect",
    "gather_rows",
    "gather_texts",
    "is_main",
    "is_shared_out",
    "local_part",
    "rank",
    "rank_0_first",
    "saved_buffers",
    "share_buffers",
    "share_tensor",
    "together",
    "whole_state",
    "world",
]
