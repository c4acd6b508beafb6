"""The report of a run: one page with its plots, made from what the run directory holds."""

from astra_trainer.report.page import write_report

__all__ = ["write_report"]
