"""`inkwash info`: what a model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inkwash.cli.words import duration, number, say, some, table

if TYPE_CHECKING:
    from inkwash.modelfolder import Config


def info(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model's.")],
    trust: Annotated[bool, typer.Option("--trust", help="Run code from outside inkwash that the model names.")] = False,
) -> None:
    """Say what a model is.

    What it was trained on and for how long, its parts, and whether its files are whole. No weights are loaded.
    """
    from inkwash.modelfolder import find_model, read_config

    folder = find_model(run)
    config = read_config(folder, trust=trust)
    say(str(folder))
    say(table(_model(config) | {"files": _state(folder)} | _checkpoints(run)))


def _model(config: Config) -> dict[str, str]:
    trained, own = config.trained, config.sampling
    pictures = len(config.shape) == 3
    shape = " x ".join(map(str, config.pictures))
    return {
        "data": config.data,
        "examples": f"{shape} (channels x height x width)" if pictures else f"vectors of {shape}",
        "classes": f"{len(config.classes)}: {', '.join(config.classes)}" if config.classes else "none",
        "net": f"{_kind(config.net)}, {number(_parameters(config))} parameters: {config.net}",
        "path": str(config.path),
        "target": str(config.target),
        "inputs": str(config.inputs),
        "codec": _codec(config),
        "sampling": f"{own.method}, {some(own.steps, 'step')}, guidance {own.guidance:g}"
        + (", clipped" if own.clip else ""),
        "trained": f"{some(int(trained.get('steps', 0)), 'step')}, {number(trained.get('images', 0))} examples, "
        f"{duration(trained.get('seconds', 0.0))}",
    }


def _codec(config: Config) -> str:
    if config.pictures == config.shape:
        return str(config.codec)
    autoencoder = getattr(config.codec, "autoencoder", config.codec)
    return f"latents of {' x '.join(map(str, config.shape))}, each channel standardised: {autoencoder}"


def _parameters(config: Config) -> int:
    import torch

    with torch.device("meta"):  # shapes without memory
        net = config.network()
    return sum(p.numel() for p in net.parameters())


def _kind(component: Any) -> str:
    return str(getattr(component, "kind", type(component).__name__))


def _state(folder: Path) -> str:
    """Whether a folder is what its manifest says."""
    from inkwash import checkpoint

    try:
        checkpoint.verify(folder)
    except checkpoint.CheckpointError as error:
        return f"DAMAGED: {error}"
    return "whole (SHA-256 checked)"


def _checkpoints(run: Path) -> dict[str, str]:
    found = sorted(run.glob("checkpoints/step-*"), key=lambda p: int(p.name[5:]) if p.name[5:].isdigit() else 0)
    return {"checkpoints": "\n".join(f"{p.name}: {_state(p)}" for p in found)}
