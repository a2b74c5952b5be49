"""Checkpoints of a run: whole and verified, or not there; without pickle, on any number of processes."""

from mmfuse.training.checkpoints.checkpoint import Checkpoints

__all__ = ["Checkpoints"]
