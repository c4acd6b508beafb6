"""The report of a synthesis run: one page with its plots, made from what the output directory holds."""

from astra_synth.report.page import write_report

__all__ = ["write_report"]
