"""A linear probe: what the numbers of a feature net tell of a picture, be it its class, its caption or its angle.

A ridge regression from features to targets, fitted on real pictures with their own. It reads only what the net already
sees, has no settings but the ridge, which held-out pictures choose, and draws nothing at random: fitted by as many
threads it is the same to the last bit, and by others to the rounding of float64.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from inkwash.data import order

Floats = npt.NDArray[np.float64]

LAMBDAS = tuple(10.0 ** (k / 2) for k in range(-8, 5))
"""The ridges tried, in units of a standardised feature's variance: 0.0001 to 100."""

HELD = 0.1
"""The share of the pictures that choose the ridge and say how well the probe reads."""

LEAST = 20
"""Pictures a probe is fitted on, at least."""

FORMAT = 1
"""The version of a probe's file: another is refused."""


@dataclass(frozen=True, eq=False)
class Probe:
    """y = ((f - centre)/scale)·weight + offset: features f [n, d] to targets [n, K], in float64.

    lam: the ridge; missed: the mean squared error on held-out pictures over the targets' variance (1 - R²), by a probe
    fitted without them; n: pictures it was fitted on in the end.
    """

    centre: Floats
    scale: Floats
    weight: Floats
    offset: Floats
    lam: float
    missed: float
    n: int

    def __call__(self, features: npt.NDArray[Any]) -> Floats:
        """The targets [n, K] read off features [n, d]. Raises ValueError for features of another width."""
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise ValueError(f"This probe reads features [n, {len(self.centre)}], not of shape {features.shape}.")
        found: Floats = ((features - self.centre) / self.scale) @ self.weight + self.offset
        return found


def fit(
    features: npt.NDArray[Any], targets: npt.NDArray[Any], *, seed: int = 0, lambdas: tuple[float, ...] = LAMBDAS
) -> Probe:
    """The probe with the least |Y - F·W|²/n + lam·|W|², F [n, d] standardised, Y [n, K] centred (math.md, eq. 60).

    lam: the one of `lambdas` with the least squared error on a tenth of the rows, chosen by the seed and fitted
    without; then all rows are used. Raises ValueError for fewer than `LEAST` rows, and for numbers that are not finite.
    """
    f, y = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if f.ndim != 2 or y.ndim != 2 or len(f) != len(y) or len(f) < LEAST:
        raise ValueError(
            f"A probe is fitted on features [n, d] and targets [n, K] of at least {LEAST} pictures, not on {f.shape} "
            f"and {y.shape}. Use more pictures with captions, labels or vectors."
        )
    if not (np.isfinite(f).all() and np.isfinite(y).all()):
        raise ValueError("Features or targets of a probe hold NaN or infinity. Leave such pictures out.")
    shuffled, count = order(seed, 0, len(f)), round(HELD * len(f))
    out, mine = shuffled[:count], shuffled[count:]
    tried = _Ridge.of(f[mine], y[mine])
    errors = {lam: float(np.square(tried.probe(lam)(f[out]) - y[out]).mean()) for lam in lambdas}
    lam = min(errors, key=lambda one: (errors[one], -one))
    spread = float(np.square(y[out] - y[mine].mean(0)).mean())
    return _Ridge.of(f, y).probe(lam, errors[lam] / spread if spread else 0.0)


@dataclass(frozen=True, eq=False)
class _Ridge:
    """The normal equations in the eigenbasis of FᵀF/n, in which every ridge costs a division."""

    centre: Floats
    scale: Floats
    values: Floats
    basis: Floats
    seen: Floats
    offset: Floats
    n: int

    @classmethod
    def of(cls, f: Floats, y: Floats) -> _Ridge:
        centre, offset, n = f.mean(0), y.mean(0), len(f)
        scale = f.std(0)
        scale[scale <= 1e-12 * (1 + np.abs(centre))] = 1.0  # a feature that never changes tells nothing
        f = (f - centre) / scale
        values, basis = np.linalg.eigh(f.T @ f / n)
        return cls(centre, scale, values.clip(min=0), basis, basis.T @ (f.T @ (y - offset)) / n, offset, n)

    def probe(self, lam: float, missed: float = 0.0) -> Probe:
        weight = self.basis @ (self.seen / (self.values + lam)[:, None])
        return Probe(self.centre, self.scale, weight, self.offset, lam, missed, self.n)


@dataclass(frozen=True)
class AboutProbe:
    """What a probe of classes is for, and how well it does: the header of its file.

    data, fingerprint: of the set it was fitted on; net: the feature net's `Extractor.identity`; features: by which text
    it is loaded; accuracy: on pictures held out of a fit, which are `measured`.
    """

    data: str
    fingerprint: str
    classes: tuple[str, ...]
    net: dict[str, Any]
    lam: float
    n: int
    accuracy: float
    measured: str = ""
    date: str = ""
    kind: str = field(default="probe", kw_only=True)
    format: int = field(default=FORMAT, kw_only=True)


def write_probe(file: Path, about: AboutProbe, probe: Probe) -> None:
    """Keep a probe of classes in a file, with what it is for in the header."""
    arrays = {"centre": probe.centre, "scale": probe.scale, "weight": probe.weight, "offset": probe.offset}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file, {"about": json.dumps(about.__dict__)})
    file.chmod(0o644)  # safetensors makes it readable by its owner only, and a cache may be shared


def read_probe(file: Path) -> tuple[AboutProbe, Probe] | None:
    """What is in a file of `write_probe`; None for one that holds something else, as a classifier's does.

    Raises ValueError for a probe of another format.
    """
    try:
        with safe_open(file, "numpy") as held:
            table = json.loads((held.metadata() or {}).get("about", "{}"))
            if table.get("kind") != "probe":
                return None
            arrays = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, ValueError):
        return None
    if table.get("format") != FORMAT:
        raise ValueError(f"{file} is a probe of format {table.get('format')!r}, and this inkwash reads {FORMAT}.")
    about = AboutProbe(**table | {"classes": tuple(table["classes"])})
    return about, Probe(**arrays, lam=about.lam, missed=0.0, n=about.n)


def probe_hash(probe: Probe, net: dict[str, Any]) -> str:
    """SHA-256 (hex) of what a probe says: its numbers and its feature net's identity."""
    digest = hashlib.sha256(json.dumps(net, sort_keys=True).encode())
    for array in (probe.centre, probe.scale, probe.weight, probe.offset):
        digest.update(np.ascontiguousarray(array, dtype="<f8").data)
    return digest.hexdigest()
