"""One command from a trained model to one of a few steps: the student's recipe, and the report on both."""

from inkwash.distilling.student import AnyMethod, Reflow, student

__all__ = ["AnyMethod", "Reflow", "student"]
