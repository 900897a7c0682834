"""Weights: for every target the form its paper has, all from one rule, w_y = w_x0·(sigma/det)²."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gaussian import VE, VP
from inkwash.objectives import P2, EdmWeight, MinSnr, SigmoidWeight, SoftMinSnr, Unweighted
from inkwash.paths import Linear
from inkwash.targets import X0, Edm, Eps, Flow, V
from inkwash.types import Coeffs

T = torch.tensor([1e-6, 0.003, 0.2, 0.31, 0.5, 0.8, 0.997], dtype=torch.float64)


def snr(c: Coeffs) -> Tensor:
    return c.alpha**2 / c.sigma**2


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=0)


@pytest.mark.parametrize("target", [X0(), Eps(), V(), Flow(), Edm(0.3)])
def test_unweighted_is_one_for_whatever_is_predicted(target: Any) -> None:
    assert Unweighted()(Linear()(T), target).tolist() == [1.0] * len(T)


@pytest.mark.parametrize("gamma", [5.0, 0.5])
def test_min_snr_as_published(gamma: float) -> None:
    """Hang et al. (2023): min(SNR, g) on x0, min(SNR, g)/SNR on eps, min(SNR, g)/(SNR + 1) on v."""
    c = VP()(T)
    r, least = snr(c), torch.minimum(snr(c), torch.tensor(gamma, dtype=torch.float64))
    assert bool((r < gamma).any()) and bool((r > gamma).any())
    weight = MinSnr(gamma)
    close(weight(c, X0()), least)
    close(weight(c, Eps()), least / r)
    close(weight(c, V()), least / (r + 1))
    # The flow's velocity on `Linear` is (x0 - x)/t off: an error of it is 1/t of the data's.
    line = Linear()(T)
    close(weight(line, Flow()), snr(line).clamp(max=gamma) * T**2)
    assert MinSnr() == MinSnr(5.0)


@pytest.mark.parametrize("gamma", [5.0, 0.5])
def test_soft_min_snr_as_published(gamma: float) -> None:
    """Crowson et al. (2024): 1/(1/SNR + 1/g) on x0; half of min(SNR, g) where the two meet."""
    for path in (VP(), Linear(), VE()):
        c = path(T)
        r = snr(c)
        close(SoftMinSnr(gamma)(c, X0()), 1 / (1 / r + 1 / gamma))
        close(SoftMinSnr(gamma)(c, Eps()), gamma / (r + gamma))
    c = VP()(T)
    close(SoftMinSnr(gamma)(c, V()), gamma * snr(c) / (snr(c) + gamma) / (snr(c) + 1))
    meet = Coeffs(*(torch.tensor([v], dtype=torch.float64) for v in (math.sqrt(gamma), 1.0, 0.0, 0.0)))
    close(SoftMinSnr(gamma)(meet, X0()), torch.tensor([gamma / 2], dtype=torch.float64))
    assert SoftMinSnr() == SoftMinSnr(5.0)


@pytest.mark.parametrize("sd", [0.5, 0.3])
def test_edms_weight_as_published(sd: float) -> None:
    """Karras et al. (2022): lambda = (sigma² + sd²)/(sigma·sd)² on D, which is 1 on F, on any path."""
    c = VE()(T)
    close(EdmWeight(sd)(c, X0()), (c.sigma**2 + sd**2) / (c.sigma * sd) ** 2)
    close(EdmWeight(sd)(c, Eps()), (c.sigma**2 + sd**2) / sd**2)
    for path in (VE(), VP(), Linear()):
        close(EdmWeight(sd)(path(T), Edm(sd)), torch.ones_like(T))
        r2 = 1 / snr(path(T))
        close(EdmWeight(sd)(path(T), X0()), (r2 + sd**2) / (r2 * sd**2))
    assert EdmWeight() == EdmWeight(0.5)


@pytest.mark.parametrize(("k", "gamma"), [(1.0, 1.0), (1.0, 0.5), (2.0, 1.5), (1.0, 0.0)])
def test_p2_as_published(k: float, gamma: float) -> None:
    """Choi et al. (2022): the simple loss of eps times 1/(k + SNR)^gamma; gamma = 0 is the simple loss."""
    c = VP()(T)
    close(P2(k, gamma)(c, Eps()), 1 / (k + snr(c)) ** gamma)
    close(P2(k, gamma)(c, X0()), snr(c) / (k + snr(c)) ** gamma)
    close(P2(k, gamma)(c, V()), snr(c) / (1 + snr(c)) / (k + snr(c)) ** gamma)
    assert P2() == P2(1.0, 1.0)


@pytest.mark.parametrize("bias", [0.0, -1.0, math.log(5.0)])
def test_the_sigmoid_weight_is_soft_min_snr(bias: float) -> None:
    """Kingma and Gao (2023): sigmoid(bias - ln SNR) on eps, and soft min-SNR with gamma = e^bias on any target."""
    c = Linear()(T)
    close(SigmoidWeight(bias)(c, Eps()), 1 / (1 + snr(c) * math.exp(-bias)))
    for target in (X0(), Eps(), V(), Flow(), Edm(0.4)):
        close(SigmoidWeight(bias)(c, target), SoftMinSnr(math.exp(bias))(c, target))
    assert SigmoidWeight() == SigmoidWeight(0.0)


@pytest.mark.parametrize("target", [X0(), V(), Flow(), Edm()])
@pytest.mark.parametrize("weight", [MinSnr(), SoftMinSnr(), EdmWeight(), P2(), SigmoidWeight()])
def test_pure_noise_has_a_weight_too(weight: Any, target: Any) -> None:
    """At alpha = 0 (t = 1 of `Linear`, zero terminal SNR) every weight is finite: EDM's 1/sd² on x0, others 0."""
    end = weight(Linear()(torch.ones(1, dtype=torch.float64)), target)
    near = weight(Linear()(torch.tensor([1 - 1e-9], dtype=torch.float64)), target)
    torch.testing.assert_close(end, near, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MinSnr(0.0), "min-SNR weight needs gamma more than 0 and finite, not 0.0. The usual one is 5"),
        (lambda: MinSnr(math.inf), "not inf"),
        (lambda: SoftMinSnr(-1.0), "soft min-SNR weight needs gamma more than 0 and finite, not -1.0"),
        (lambda: EdmWeight(0.0), "EDM's weight needs data_std more than 0 and finite, not 0.0. The usual one is 0.5"),
        (lambda: P2(k=0.0), "P2 weight needs k more than 0 and finite, not 0.0. The usual one is 1"),
        (lambda: P2(gamma=-0.1), "P2 weight needs gamma of 0 or more, not -0.1"),
        (lambda: P2(gamma=math.inf), "P2 weight needs gamma of 0 or more, not inf"),
        (lambda: SigmoidWeight(math.nan), "sigmoid weight needs a finite bias, not nan"),
    ],
)
def test_settings_that_make_no_weight_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert says in str(error.value)
