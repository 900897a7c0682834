"""Models as graphs for other programs: ONNX files and torch.export programs, which need no inkwash to run.

The graph is the denoiser, (x, t, what it is told) to (x0, eps), with the path's formulas inside, so that any sampler
can be written around it (`loops` has one); a model of jumps has a second time after t. For a model of latents the
decoder is a second graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from inkwash.codec import LatentCodec
from inkwash.exchange.comparing import ONE_CALL, Compared, asked_of, calm, compared
from inkwash.exchange.loops import Format, about, draw_py, readme, told
from inkwash.exchange.staging import needs, refuse_others, staged
from inkwash.model import Model
from inkwash.modelfolder import Config
from inkwash.pipeline import Pipeline, load
from inkwash.types import Condition, Denoiser, Query

_INLINE = 1 << 30
"""Weights of more bytes lie beside the ONNX file: the file itself cannot be larger than 2 GB."""

_BATCHES = (1, 3)
"""Batch sizes at which a graph is compared with the model; neither is the one it was traced with."""

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], list[Tensor]]
"""A graph as another program runs it: named inputs to outputs in order."""


class Denoising(nn.Module):
    """A model as a module of tensors alone: (x [B, ...], t [B] float64, *told) to (x0, eps[, var_mix]).

    A model of jumps takes a second time s after t. told: the names of the fields of a `Condition` that the model takes,
    in the order in which they follow; denoiser: the model in what fills in its condition, None for the model alone.
    """

    outputs = ("x0", "eps", "var_mix")

    def __init__(self, model: Model, told: Sequence[str] = (), denoiser: Denoiser | None = None) -> None:
        super().__init__()
        self.net = model.net
        self.denoiser = denoiser or model
        self.told = tuple(told)
        self.jumps = model.jumps

    def forward(self, x: Tensor, t: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Estimate data and noise."""
        s, told = (rest[0], rest[1:]) if self.jumps else (t, rest)
        answer = self.denoiser(Query(x, t, s), Condition(**dict(zip(self.told, told, strict=True))))
        return tuple(part for part in answer if part is not None)


class Decoding(nn.Module):
    """The decoder of a model of latents: x [B, c, h, w] to pictures [B, C, H, W] in about [-1, 1]."""

    outputs = ("pictures",)

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.net = codec.net
        self.register_buffer("mean", torch.tensor(codec.config.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(codec.config.std)[:, None, None])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Decode."""
        return (self.net.decode(x * self.get_buffer("std") + self.get_buffer("mean")),)


def to_onnx(run: str | File, folder: str | File, *, trust: bool = False) -> list[Compared]:
    """Write a model as `denoiser.onnx` (and `decoder.onnx`), and say how exactly onnxruntime computes the same.

    Beside it are `model.json`, and `draw.py`, which draws with numpy and onnxruntime alone. Needs the extra
    `inkwash[onnx]`. trust: as in `load`. Raises ValueError, and writes nothing, where onnxruntime does not give what
    the model gives, with 1 and with 3 pictures, or cannot run the path's formulas, and for a folder that holds anything
    but an earlier export.
    """
    needs("onnx", "onnx", "onnxscript", "onnxruntime")
    return _export(run, folder, "onnx", _onnx, trust)


def to_torch_export(run: str | File, folder: str | File, *, trust: bool = False) -> list[Compared]:
    """Write a model as `denoiser.pt2` (and `decoder.pt2`), which `torch.export.load` reads; else as `to_onnx`."""
    return _export(run, folder, "torch-export", _program, trust)


Write = Callable[[nn.Module, Inputs, File, dict[str, str]], Run]
"""Writes a module as a graph, given example inputs, the file without its ending, and notes; the graph, reloaded."""


def _export(run: str | File, folder: str | File, format: Format, write: Write, trust: bool) -> list[Compared]:
    refuse_others(folder)
    pipe = load(run, device="cpu", trust=trust)
    pipe.model.net.requires_grad_(False)
    config, found = pipe.config, []
    with staged(folder) as place, calm(), torch.no_grad():
        for name, module, inputs in _modules(pipe):
            # What a path keeps once it was computed must not be computed while tracing.
            module.eval()(*inputs(2).values())
            graph = write(module, inputs(2), place / name, _notes(config))
            for n in _BATCHES:
                answers = module(*inputs(n).values()), graph(inputs(n))
                for what, ours, theirs in zip(module.outputs, *answers, strict=False):
                    found.append(compared(f"{name}, {what} of {n}", ours, theirs, ONE_CALL))
        texts = {
            "model.json": json.dumps(about(config), ensure_ascii=False) + "\n",
            "draw.py": draw_py(config, format),
            "README.md": readme(config, format, [str(line) for line in found]),
        }
        for name, text in texts.items():
            (place / name).write_text(text, encoding="utf-8")
    return found


def _modules(pipe: Pipeline) -> list[tuple[str, Any, Callable[[int], Inputs]]]:
    """The graphs to write: name, module, and inputs for a batch of n."""
    config = pipe.config

    def asked(n: int) -> Inputs:
        x = torch.randn(n, *config.shape, generator=torch.Generator().manual_seed(n))
        t = config.path.snap(torch.linspace(0.9, 0.1, n, dtype=torch.float64))
        cond = asked_of(config, n)
        times = {"t": t, "s": t * torch.linspace(0.3, 1.0, n, dtype=torch.float64)} if config.jumps else {"t": t}
        return {"x": x} | times | {name: getattr(cond, name) for name in told(config)}

    denoiser = config.conditions.tell(pipe.model, config.sampling.guidance)
    graphs: list[tuple[str, Any, Callable[[int], Inputs]]] = [
        ("denoiser", Denoising(pipe.model, [*told(config)], denoiser), asked)
    ]
    if isinstance(pipe.codec, LatentCodec):
        graphs.append(("decoder", Decoding(pipe.codec), lambda n: {"x": asked(n)["x"]}))
    return graphs


def _notes(config: Config) -> dict[str, str]:
    """What is written into an ONNX file itself."""
    whole, names = about(config), ("shape", "told", "classes", "conditions", "formula", "target", "codec", "data")
    return {f"inkwash.{name}": json.dumps(whole[name]) for name in names}


def _exported(module: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    shapes = [{0: batch, 1: tokens} if name in ("tokens", "present") else {0: batch} for name in inputs]
    dynamic = (*shapes[:2], *([tuple(shapes[2:])] if shapes[2:] else []))  # those after x and t are one: *told
    return torch.export.export(module, tuple(inputs.values()), dynamic_shapes=dynamic)


def _program(module: nn.Module, inputs: Inputs, file: File, notes: dict[str, str]) -> Run:
    file = file.with_suffix(".pt2")
    torch.export.save(_exported(module, inputs), file)
    graph = torch.export.load(file).module()
    return lambda given: list(graph(*given.values()))


def _onnx(module: nn.Module, inputs: Inputs, file: File, notes: dict[str, str]) -> Run:
    import onnxruntime

    file = file.with_suffix(".onnx")
    program: Any = torch.onnx.export(
        _exported(module, inputs),
        dynamo=True,
        verbose=False,
        input_names=list(inputs),
        output_names=list(module.outputs[: len(module(*inputs.values()))]),  # type: ignore[index]
    )
    program.model.metadata_props.update(notes)
    large = sum(p.numel() * p.element_size() for p in module.parameters()) > _INLINE
    program.save(file, external_data=large)
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        raise ValueError(
            f"onnxruntime cannot run this model: {error}. Most likely it lacks a function of the path's formulas in "
            "double precision. Export it with --to torch-export."
        ) from error
    return lambda given: [
        torch.from_numpy(y) for y in session.run(None, {name: value.numpy() for name, value in given.items()})
    ]
