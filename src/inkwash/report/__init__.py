"""A run on one page: recipe, curves, samples over time, a denoising strip, and measures with their provenance."""

from inkwash.report.page import Report, report

__all__ = ["Report", "report"]
