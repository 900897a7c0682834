"""`inkwash info`: what a model is, or a codec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inkwash.cli.told import in_words
from inkwash.cli.words import duration, number, say, some, table

if TYPE_CHECKING:
    from inkwash.modelfolder import Config
    from inkwash.sampling import Sampling


def info(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, a model's, or a codec's.")],
    trust: Annotated[bool, typer.Option("--trust", help="Run code from outside inkwash that the model names.")] = False,
) -> None:
    """Say what a model is, or a codec.

    What it was trained on and for how long, its parts, and whether its files are whole. No weights are loaded.
    """
    from inkwash.modelfolder import find_model, is_model, read_config

    codec = next((f for f in (run, run / "codec") if (f / "codec.json").is_file()), None)
    if codec is not None and not is_model(run):
        say(str(codec))
        say(table(_own_codec(codec) | {"files": _state(codec)} | _checkpoints(run)))
        return
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
        **in_words(config.conditions),
        "net": f"{_kind(config.net)}, {number(_size(config.network))} parameters: {config.net}",
        "path": str(config.path),
        "target": str(config.target),
        "inputs": str(config.inputs),
        "codec": _codec(config),
        "sampling": _sampling(own),
        **({} if config.objective is None else {"learned by": str(config.objective)}),
        "trained": _trained(trained, "examples"),
    }


def _sampling(own: Sampling) -> str:
    """All of the model's own settings; what is as everywhere else is not said."""
    from inkwash.grids import Even
    from inkwash.guidance import Cfg

    words = [str(own.method), some(own.steps, "step"), f"guidance {own.guidance:g}"]
    words += [] if own.rule == Cfg() else [str(own.rule)]
    words += [] if own.interval is None else ["guided for sigma/alpha from {:g} to {:g}".format(*own.interval)]
    words += [] if own.grid == Even() else [str(own.grid)]
    words += [] if own.path is None else [f"along {own.path}"]
    return ", ".join([*words, *(["clipped"] if own.clip else [])])


def _own_codec(folder: Path) -> dict[str, str]:
    """What codec.json says."""
    from inkwash.codecfolder import read_codec

    about = read_codec(folder)
    codec, measured = about["codec"], dict(about["measured"])
    net, n = codec.autoencoder, int(measured.pop("n", 0))
    shrunk = f"to latents of {net.latent_channels}, {net.factor} times smaller"
    figures = ", ".join(f"{name.upper()} {value:.4g}{' dB' * (name == 'psnr')}" for name, value in measured.items())
    return {
        "data": about["data"] or "not stated",
        "pictures": f"of {some(net.channels, 'channel')}, {shrunk}",
        "net": f"{_kind(net)}, {number(_size(net.build))} parameters: {net}",
        "rebuilds": (figures or "not measured") + (f", on {some(n, 'held-out picture')}" if n else ""),
        "statistics": f"mean {_row(codec.mean)}\nstd  {_row(codec.std)}",
        "trained": _trained(about["trained"], "pictures"),
        "weights": f"SHA-256 {codec.sha256}",
    }


def _trained(trained: Mapping[str, float], what: str) -> str:
    steps = some(int(trained.get("steps", 0)), "step")
    pairs = f", and {duration(trained['pairs_seconds'])} of drawing pairs" if "pairs_seconds" in trained else ""
    return f"{steps}, {number(trained.get('images', 0))} {what}, {duration(trained.get('seconds', 0.0))}{pairs}"


def _row(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.4g}" for v in values)


def _codec(config: Config) -> str:
    if config.pictures == config.shape:
        return str(config.codec)
    autoencoder = getattr(config.codec, "autoencoder", config.codec)
    mean, std = (list(getattr(config.codec, name, ())) for name in ("mean", "std"))
    alike = len({*mean}) == len({*std}) == 1 < len(mean)  # as a published codec states it, not as measured
    how = f"all channels shifted by {mean[0]:.4g} and divided by {std[0]:.4g}" if alike else "each channel standardised"
    return f"latents of {' x '.join(map(str, config.shape))}, {how}: {autoencoder}"


def _size(build: Callable[[], Any]) -> int:
    """How many parameters the network has that is built."""
    import torch

    with torch.device("meta"):  # shapes without memory
        net = build()
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
