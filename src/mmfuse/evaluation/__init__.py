"""Evaluation: scores for each task, and answers for each row."""

from mmfuse.evaluation.evaluate import Report, TaskReport, evaluate
from mmfuse.evaluation.predict import predict, write_rows

__all__ = ["Report", "TaskReport", "evaluate", "predict", "write_rows"]
