"""The report of a run."""

from .report import write_report

__all__ = ["write_report"]
