"""Measuring a model: how likely it finds data it has not seen."""

from inkwash.evaluation.interval import Interval, Share
from inkwash.evaluation.likelihood import (
    BoundFigures,
    BoundSettings,
    FlowFigures,
    FlowSettings,
    Measurement,
    bound_plot,
    held_out,
    measure,
    trace_for,
    weights_hash,
)

__all__ = [
    "BoundFigures",
    "BoundSettings",
    "FlowFigures",
    "FlowSettings",
    "Interval",
    "Measurement",
    "Share",
    "bound_plot",
    "held_out",
    "measure",
    "trace_for",
    "weights_hash",
]
