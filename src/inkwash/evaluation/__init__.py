"""Measuring a model: how good its pictures are, and how likely it finds data it has not seen; every number with its
provenance.
"""

from inkwash.evaluation.answers import ANSWERS, check_asked
from inkwash.evaluation.card import evaluation_folder, measured_lines, write_card
from inkwash.evaluation.classes import class_accuracy, class_distance, class_histogram
from inkwash.evaluation.evaluate import ALL, Evaluation, check_measures, evaluate, likelihood_records, score
from inkwash.evaluation.figures import Figure, Neighbours, Side
from inkwash.evaluation.frechet import Moments, frechet, frechet_bias, moments
from inkwash.evaluation.interval import Interval, Share
from inkwash.evaluation.job import RealSide, about_model, from_folder, given, real_side
from inkwash.evaluation.kernel import kid
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
from inkwash.evaluation.manifold import density_coverage, memorised, nearest, precision_recall
from inkwash.evaluation.plots import save_plots
from inkwash.evaluation.record import Measure, NotComparableError, Record, append, comparable, newest
from inkwash.evaluation.record import read as read_records
from inkwash.evaluation.reference import Reference, load_reference, reference, save_reference
from inkwash.evaluation.requests import Requests, requests
from inkwash.evaluation.sets import Pictures, features, generate, real
from inkwash.evaluation.spectrum import spectrum, spectrum_error

__all__ = [
    "ALL",
    "ANSWERS",
    "BoundFigures",
    "BoundSettings",
    "Evaluation",
    "Figure",
    "FlowFigures",
    "FlowSettings",
    "Interval",
    "Measure",
    "Measurement",
    "Moments",
    "Neighbours",
    "NotComparableError",
    "Pictures",
    "RealSide",
    "Record",
    "Reference",
    "Requests",
    "Share",
    "Side",
    "about_model",
    "append",
    "bound_plot",
    "check_asked",
    "check_measures",
    "class_accuracy",
    "class_distance",
    "class_histogram",
    "comparable",
    "density_coverage",
    "evaluate",
    "evaluation_folder",
    "features",
    "frechet",
    "frechet_bias",
    "from_folder",
    "generate",
    "given",
    "held_out",
    "kid",
    "likelihood_records",
    "load_reference",
    "measure",
    "measured_lines",
    "memorised",
    "moments",
    "nearest",
    "newest",
    "precision_recall",
    "read_records",
    "real",
    "real_side",
    "reference",
    "requests",
    "save_plots",
    "save_reference",
    "score",
    "spectrum",
    "spectrum_error",
    "trace_for",
    "weights_hash",
    "write_card",
]
