"""inkwash trains, explains, evaluates and serves image diffusion models.

    pipe = inkwash.load("runs/demo")
    images = pipe(16, label="Sneaker", seed=0)

    for progress in inkwash.train({"data": {"source": "photos"}, "train": {"minutes": 10}}):
        print(progress.step, progress.loss)

The names below load torch when they are first used, not before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from inkwash._version import __version__

if TYPE_CHECKING:
    from inkwash.autoencoding import Adversary, CodecRecipe, CodecTrain, Loss, train_codec
    from inkwash.checkpoint import CheckpointError
    from inkwash.codec import LatentCodec, Latents
    from inkwash.codecfolder import load_codec, save_codec
    from inkwash.conditions import (
        ByImage,
        ByText,
        ByVector,
        Conditions,
        Edges,
        Grey,
        LowResolution,
        Masked,
        Paired,
    )
    from inkwash.data import Dataset, DataSpec
    from inkwash.distilling import Reflow
    from inkwash.edit import (
        Blur,
        Decode,
        Downsample,
        Edit,
        Fill,
        Inpainted,
        Posterior,
        Resampled,
        Restore,
        Vary,
        repaint,
        slerp,
    )
    from inkwash.evaluation import BoundSettings, FlowSettings, Measurement, held_out, measure
    from inkwash.exchange import from_diffusers, from_dit, pull, push, to_diffusers, to_onnx, to_torch_export
    from inkwash.features import Classifier, DinoV2, Extractor, Inception, Lite0, Raw, extractor
    from inkwash.fewstep import Consistency, MeanFlow, Shortcut, SoFlow
    from inkwash.grids import Cut, Even, Karras, Leading, Linspace, Listed, LogSnr, Quadratic, Trailing, grid
    from inkwash.guidance import Along, Apg, Cfg, CfgZero, Chunked, Clipped, Guided, Rescaled, Rule, Terms
    from inkwash.likelihood import (
        Adaptive,
        Exact,
        HeunSteps,
        Hutchinson,
        Rk4Steps,
        bits_per_dim,
        dequantised,
        discrete_bound,
        log_likelihood,
    )
    from inkwash.model import EdmInputs, Indexed, Model, Plain, UnitVariance
    from inkwash.modelfolder import Config
    from inkwash.nets import MLP, ClassicUNet, DiT, KLAutoencoder, ModernDiT, TinyAutoencoder, UNet
    from inkwash.noise import Philox
    from inkwash.objectives import (
        P2,
        Bound,
        EdmWeight,
        Hybrid,
        Independent,
        MinSnr,
        OptimalTransport,
        Regression,
        SigmoidWeight,
        SoftMinSnr,
        Unweighted,
    )
    from inkwash.optim import AdamW, Muon, Schedule
    from inkwash.paths import (
        VE,
        VP,
        CosineBetas,
        CosineSchedule,
        Linear,
        LinearBetas,
        LinearSchedule,
        QuadraticBetas,
        Shifted,
        SigmoidBetas,
        SigmoidSchedule,
        Table,
    )
    from inkwash.pipeline import Pipeline, load
    from inkwash.recipes import Evaluation, InLatents, Recipe, RecipeError, Teacher, Train, read_recipe
    from inkwash.samplers import (
        Adams,
        Ancestral,
        Ddim,
        Deis,
        DpmSolver,
        Euler,
        Heun,
        Ipndm,
        Jumps,
        RungeKutta,
        UniPC,
    )
    from inkwash.samples import Samples
    from inkwash.sampling import Sampling
    from inkwash.targets import X0, Edm, Eps, Flow, V
    from inkwash.text import T5, Clip, MiniLm
    from inkwash.times import Importance, LogitNormal, LogNormalNoise, Uniform, UShaped
    from inkwash.training import Progress, Rebuilt, TrainingError, rebuild, train
    from inkwash.types import Batch, Coeffs, Condition, Denoised, Given, Query, Steered

_WHERE = {
    "autoencoding": ["Adversary", "CodecRecipe", "CodecTrain", "Loss", "train_codec"],
    "checkpoint": ["CheckpointError"],
    "codec": ["LatentCodec", "Latents"],
    "codecfolder": ["load_codec", "save_codec"],
    "conditions": [
        "ByImage",
        "ByText",
        "ByVector",
        "Conditions",
        "Edges",
        "Grey",
        "LowResolution",
        "Masked",
        "Paired",
    ],
    "data": ["DataSpec", "Dataset"],
    "distilling": ["Reflow"],
    "evaluation": ["BoundSettings", "FlowSettings", "Measurement", "held_out", "measure"],
    "exchange": ["from_diffusers", "from_dit", "pull", "push", "to_diffusers", "to_onnx", "to_torch_export"],
    "features": ["Classifier", "DinoV2", "Extractor", "Inception", "Lite0", "Raw", "extractor"],
    "fewstep": ["Consistency", "MeanFlow", "Shortcut", "SoFlow"],
    "grids": ["Cut", "Even", "Karras", "Leading", "Linspace", "Listed", "LogSnr", "Quadratic", "Trailing", "grid"],
    "edit": [
        "Blur",
        "Decode",
        "Downsample",
        "Edit",
        "Fill",
        "Inpainted",
        "Posterior",
        "Resampled",
        "Restore",
        "Vary",
        "repaint",
        "slerp",
    ],
    "guidance": ["Along", "Apg", "Cfg", "CfgZero", "Chunked", "Clipped", "Guided", "Rescaled", "Rule", "Terms"],
    "likelihood": [
        "Adaptive",
        "Exact",
        "HeunSteps",
        "Hutchinson",
        "Rk4Steps",
        "bits_per_dim",
        "dequantised",
        "discrete_bound",
        "log_likelihood",
    ],
    "model": ["EdmInputs", "Indexed", "Model", "Plain", "UnitVariance"],
    "modelfolder": ["Config"],
    "nets": ["ClassicUNet", "DiT", "KLAutoencoder", "MLP", "ModernDiT", "TinyAutoencoder", "UNet"],
    "noise": ["Philox"],
    "objectives": [
        *("Bound", "EdmWeight", "Hybrid", "Independent", "MinSnr", "OptimalTransport", "P2", "Regression"),
        *("SigmoidWeight", "SoftMinSnr", "Unweighted"),
    ],
    "optim": ["AdamW", "Muon", "Schedule"],
    "paths": [
        *("CosineBetas", "CosineSchedule", "Linear", "LinearBetas", "LinearSchedule", "QuadraticBetas", "Shifted"),
        *("SigmoidBetas", "SigmoidSchedule", "Table", "VE", "VP"),
    ],
    "pipeline": ["Pipeline", "load"],
    "samples": ["Samples"],
    "recipes": ["Evaluation", "InLatents", "Recipe", "RecipeError", "Teacher", "Train", "read_recipe"],
    "sampling": ["Sampling"],
    "samplers": [
        *("Adams", "Ancestral", "Ddim", "Deis", "DpmSolver", "Euler", "Heun", "Ipndm", "Jumps", "RungeKutta", "UniPC"),
    ],
    "targets": ["X0", "Edm", "Eps", "Flow", "V"],
    "times": ["Importance", "LogNormalNoise", "LogitNormal", "UShaped", "Uniform"],
    "training": ["Progress", "Rebuilt", "TrainingError", "rebuild", "train"],
    "text": ["T5", "Clip", "MiniLm"],
    "types": ["Batch", "Coeffs", "Condition", "Denoised", "Given", "Query", "Steered"],
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "__version__",
    *_MODULE,
]


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is asked for."""
    if name not in _MODULE:
        raise AttributeError(f"module 'inkwash' has no attribute {name!r}")
    return getattr(import_module(f"inkwash.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
