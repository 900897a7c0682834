"""diffusers' schedulers and our paths, targets and inputs: which say the same, and how each is written as the other.

Their entry i of a table, counted from 0, is our time (i + 1)/T. Their flow-matching sigma is our t, and the velocity is
noise minus data in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from inkwash.grids import AnyGrid, Even, Leading, Linspace, Trailing
from inkwash.model import AnyInputs, Indexed, Plain
from inkwash.modelfolder import Config
from inkwash.paths import AnyPath, CosineBetas, Linear, LinearBetas, QuadraticBetas, Shifted, SigmoidBetas, Table
from inkwash.samplers import Ancestral, Ddim
from inkwash.samplers.ddim import Added
from inkwash.sampling import Sampling
from inkwash.targets import X0, AnyTarget, Eps, Flow, V

PREDICTIONS: dict[str, AnyTarget] = {"epsilon": Eps(), "sample": X0(), "v_prediction": V()}
"""Their prediction_type, and what we call it. The sign of v is the same in both."""

TABLES = ("DDPMScheduler", "DDIMScheduler")
FLOW = "FlowMatchEulerDiscreteScheduler"

# Solvers of theirs for the same tables: a pipeline that names one was not trained differently.
SOLVERS = ("PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
INSTEAD = (
    "Export this model with --to onnx or --to torch-export, or train one that has a place there: by default with "
    "`--net classic-unet --set inputs.kind=plain`."
)
"""What a user may do whose model has no place in diffusers, which is what training makes by default."""

_OTHER_TIMES = (
    "use_dynamic_shifting", "shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"
)  # fmt: skip


class Trained(NamedTuple):
    """What a scheduler says of how its network was trained, and of how it is sampled.

    notes: what it says of sampling that is not kept, in sentences.
    """

    path: AnyPath
    target: AnyTarget
    inputs: AnyInputs
    sampling: Sampling
    learned_variance: bool
    notes: tuple[str, ...] = ()


def to_scheduler(config: Config, *, random: bool = True) -> tuple[str, dict[str, Any]]:
    """The class of diffusers' scheduler for a model, and its settings. Raises ValueError where there is none.

    random: whether it may be their DDPM, for a model whose own sampler is; else their DDIM is given.
    """
    match config.path, config.target, config.inputs:
        case Table() as table, (Eps() | X0() | V()) as target, Indexed(steps=steps) if steps == table.steps:
            return _to_table(config, table, target, random)
        case Linear(), Flow(), Plain():
            return FLOW, {"num_train_timesteps": 1000, "shift": 1.0}
    raise ValueError(
        f"diffusers has no scheduler for path {config.path} with target {config.target} and inputs {config.inputs}. "
        "It has them for a table with target eps, x0 or v and indexed inputs of as many steps, and for the linear path "
        f"with target flow and plain inputs. {INSTEAD}"
    )


def from_scheduler(kind: str, settings: Mapping[str, Any], *, in_channels: int, out_channels: int) -> Trained:
    """Path, target, inputs and sampling of a network that was trained as one of diffusers' schedulers says.

    settings: its scheduler_config.json, where what is left out has their default; in_channels, out_channels: of the
    network, which has twice as many outputs where it learned its variance. Raises ValueError for what we do not have.
    """
    learned = out_channels == 2 * in_channels
    if not learned and out_channels != in_channels:
        raise ValueError(
            f"The network has {in_channels} input and {out_channels} output channels: as many of both, or twice as "
            "many outputs for a learned variance, can be imported."
        )
    if kind == FLOW:
        return _from_flow(settings, learned)
    if kind not in (*TABLES, *SOLVERS):
        known = ", ".join((*TABLES, *SOLVERS, FLOW))
        raise ValueError(f"There is no path here for diffusers' {kind}. Schedulers that can be imported: {known}.")
    _refuse(kind, settings, {"thresholding": False, "clip_sample_range": 1.0, "use_flow_sigmas": False})
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ValueError(f"{kind}'s prediction_type {prediction!r} is unknown: it can be {', '.join(PREDICTIONS)}.")
    path = Table(_betas(kind, settings), zero_snr=bool(settings.get("rescale_betas_zero_snr", False)))
    clip = kind in TABLES and bool(settings.get("clip_sample", True))
    method, notes = _method(kind, settings, learned)
    steps = path.steps if isinstance(method, Ancestral) else min(50, path.steps)  # as many as their pipelines take
    sampling = Sampling(method, steps=steps, clip=clip, grid=_grid(kind, settings, path.steps))
    return Trained(path, PREDICTIONS[prediction], Indexed(path.steps), sampling, learned, notes)


def _to_table(config: Config, table: Table, target: Eps | X0 | V, random: bool) -> tuple[str, dict[str, Any]]:
    method = config.sampling.method
    ancestral = isinstance(method, Ancestral) or (isinstance(method, Ddim) and method.eta == 1)
    settings = {
        "num_train_timesteps": table.steps,
        **_beta_settings(table),
        "rescale_betas_zero_snr": table.zero_snr,
        "prediction_type": next(name for name, same in PREDICTIONS.items() if same == target),
        "clip_sample": config.sampling.clip,
        "clip_sample_range": 1.0,
        "timestep_spacing": "trailing",  # begins where the noise does, as our even grid; their default does not
        "steps_offset": 0,
    }
    if not (random and (ancestral or config.learned_variance)):
        return "DDIMScheduler", settings | {"set_alpha_to_one": True}
    large = isinstance(method, Ancestral | Ddim) and method.added == "large"
    variance = "learned_range" if config.learned_variance else "fixed_large" if large else "fixed_small"
    return "DDPMScheduler", settings | {"variance_type": variance}


def _beta_settings(table: Table) -> dict[str, Any]:
    """A table's betas by the name they have there, where that means the same numbers; else the numbers."""
    match table.betas:
        case LinearBetas(start=start, end=end, scaled=False):
            return {"beta_schedule": "linear", "beta_start": start, "beta_end": end}
        case QuadraticBetas(start=start, end=end, scaled=False):
            return {"beta_schedule": "scaled_linear", "beta_start": start, "beta_end": end}
        case CosineBetas(s=0.008, max_beta=0.999):
            return {"beta_schedule": "squaredcos_cap_v2"}
        case tuple() as betas:
            return {"trained_betas": list(betas)}
        case schedule:
            return {"trained_betas": schedule().tolist()}


def _betas(kind: str, settings: Mapping[str, Any]) -> Any:
    if settings.get("trained_betas") is not None:
        return tuple(float(b) for b in settings["trained_betas"])
    steps = int(settings.get("num_train_timesteps", 1000))
    start, end = float(settings.get("beta_start", 1e-4)), float(settings.get("beta_end", 0.02))
    match schedule := settings.get("beta_schedule", "linear"):
        case "linear":
            return LinearBetas(steps, start, end)
        case "scaled_linear":
            return QuadraticBetas(steps, start, end)
        case "squaredcos_cap_v2":
            return CosineBetas(steps)
        case "sigmoid":
            return SigmoidBetas(steps, start, end)
    raise ValueError(
        f"{kind}'s beta_schedule {schedule!r} cannot be imported: linear, scaled_linear, squaredcos_cap_v2, sigmoid or "
        "trained_betas can."
    )


def _method(kind: str, settings: Mapping[str, Any], learned: bool) -> tuple[Ddim | Ancestral, tuple[str, ...]]:
    """How a scheduler draws, as far as the same is here: their DDPM adds noise of a variance, and no other does."""
    if kind in SOLVERS:
        return Ddim(), (f"{kind} is not kept as the sampler: ddim is the default here. See --sampler.",)
    if kind != "DDPMScheduler":
        return Ddim(), ()
    added: dict[str, Added] = dict.fromkeys(("fixed_small", "fixed_small_log"), "small")
    added |= dict.fromkeys(("fixed_large", "fixed_large_log"), "large")
    if learned:
        added["learned_range"] = "learned"
    variance = str(settings.get("variance_type", "fixed_small"))
    if variance in added:
        return Ancestral(added[variance]), ()
    return Ancestral(), (f"{kind}'s variance_type = {variance} is not kept: noise of the small variance is added.",)


def _grid(kind: str, settings: Mapping[str, Any], entries: int) -> AnyGrid:
    """Their spacing as a grid, for the two schedulers that walk a table; the solvers' spacings need not be kept."""
    spacing = settings.get("timestep_spacing", "leading")
    if kind not in TABLES or int(settings.get("steps_offset", 0)) != 0:
        return Even()
    grids: dict[str, AnyGrid] = {
        "leading": Leading(entries), "trailing": Trailing(entries), "linspace": Linspace(entries)
    }  # fmt: skip
    return grids.get(spacing, Even())


def _from_flow(settings: Mapping[str, Any], learned: bool) -> Trained:
    if learned:
        raise ValueError(f"A {FLOW} has no variance to learn, but the network has twice as many outputs as inputs.")
    _refuse(FLOW, settings, {"invert_sigmas": False, "stochastic_sampling": False, "num_train_timesteps": 1000})
    # What follows says which times are visited, not what the network learned.
    lost = [name for name in _OTHER_TIMES if settings.get(name)]
    shift = 1.0 if "use_dynamic_shifting" in lost else float(settings.get("shift", 1.0))
    sampling = Sampling() if shift == 1 else Sampling(path=Shifted(Linear(), shift))
    notes = (f"{FLOW}'s {', '.join(lost)} is not kept: see --steps and --grid for which times are visited.",)
    return Trained(Linear(), Flow(), Plain(), sampling, learned_variance=False, notes=notes if lost else ())


def _refuse(kind: str, settings: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    wrong = [f"{name} = {settings[name]}" for name, value in only.items() if settings.get(name, value) != value]
    if wrong:
        fine = ", ".join(f"{name} = {value}" for name, value in only.items())
        raise ValueError(f"{kind} with {', '.join(wrong)} cannot be imported; what can is {fine}.")
