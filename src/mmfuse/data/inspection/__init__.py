"""What is in a table, before anything is trained with it."""

from mmfuse.data.inspection.check import inspect
from mmfuse.data.inspection.findings import Finding, Suggestion
from mmfuse.data.inspection.report import DataReport

__all__ = ["DataReport", "Finding", "Suggestion", "inspect"]
