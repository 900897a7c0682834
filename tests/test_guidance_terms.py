"""Negative prompts, composed prompts, autoguidance and intervals: the field in closed form, and the rows it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gaussian import PATHS
from inkwash.drive import drive
from inkwash.grids import grid
from inkwash.guidance import Apg, Cfg, CfgZero, Chunked, Guided, Rescaled
from inkwash.noise import Philox
from inkwash.paths import VE, Linear
from inkwash.samplers import Ddim, RungeKutta
from inkwash.sampling import Sampling
from inkwash.types import Coeffs, Condition, Denoised, Path, Query, Steered

MEAN = torch.tensor([[-1.5, 0.4], [-0.2, -1.0], [0.9, 0.7], [1.4, -0.3], [0.0, 2.1]], dtype=torch.float64)
VAR = torch.tensor([[0.05, 0.3], [0.4, 0.02], [0.1, 0.1], [0.03, 0.6], [0.5, 0.2]], dtype=torch.float64)
SHARE = torch.tensor([0.1, 0.25, 0.3, 0.15, 0.2], dtype=torch.float64)
LABEL = torch.tensor([0, 0, 1, 1, 2])
RULES = [Cfg(), Rescaled(), Apg(norm=0.2), CfgZero()]


def parts(c: Coeffs, label: Tensor, more: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of every row's mixture under noise: log weights [B, 5], means and variances [B, 5, 2]; -1 is all components."""
    chosen = (label[:, None] == LABEL) | (label[:, None] < 0)
    alpha, sigma = c.alpha[:, None, None], c.sigma[:, None, None]
    weight = torch.where(chosen, SHARE.log(), -math.inf)
    return weight, alpha * MEAN.expand(len(label), 5, 2), alpha**2 * (VAR + more) + sigma**2


def log_density(x: Tensor, c: Coeffs, label: Tensor, more: float = 0.0) -> Tensor:
    """ln p_t(x | label) but for a constant, [B]."""
    weight, mean, variance = parts(c, label, more)
    each = (-((x[:, None] - mean) ** 2) / (2 * variance) - variance.log() / 2).sum(-1)
    return (weight + each).logsumexp(1)


@dataclass
class Mixture:
    """The exact denoiser of the components of a label; `more`: variance added to the data's, as by a bad model."""

    path: Path
    more: float = 0.0
    calls: list[tuple[Query, Condition]] = field(default_factory=list)

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        self.calls.append((query, cond))
        assert cond.label is not None
        assert len(cond.label) == len(query.x) == len(query.t) == len(query.s)
        c = self.path(query.t)
        weight, mean, variance = parts(c, cond.label, self.more)
        away = query.x[:, None] - mean
        log = weight - (away**2 / (2 * variance) + variance.log() / 2).sum(-1)
        share, z = torch.softmax(log, 1)[..., None], away / variance
        x0 = share * (MEAN + c.alpha[:, None, None] * (VAR + self.more) * z)
        return Denoised(
            x0.sum(1), (share * c.sigma[:, None, None] * z).sum(1), cond.label[:, None].double().expand(-1, 2)
        )

    @property
    def rows(self) -> list[int]:
        """How many rows each call had."""
        return [len(query.x) for query, _ in self.calls]


def query(n: int = 6) -> Query:
    t = torch.linspace(0.1, 0.95, n, dtype=torch.float64)
    return Query(torch.stack([torch.linspace(-2, 3, n), torch.linspace(1, -1.5, n)], 1).double(), t, t)


def labels(*values: int) -> Condition:
    return Condition(torch.tensor(values))


def steered(
    cond: Condition, base: Condition | None = None, *others: Condition, weights: Tensor | None = None
) -> Steered:
    return Steered(label=cond.label, base=base, others=others, weights=weights)


GIVEN, NEGATIVE, SECOND, THIRD = (
    labels(0, 1, 2, 0, 1, 2),
    labels(1, 2, 0, 2, 0, 1),
    labels(2, 2, 1, 1, 0, 0),
    labels(*[-1] * 6),
)
WEIGHTS = torch.tensor([[1.5, -0.5], [0.0, 1.0], [2.0, 2.0], [0.7, 0.0], [-1.0, 3.0], [0.3, 0.4]], dtype=torch.float64)


def by_score(path: Path, powers: list[tuple[Condition, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """x0 and eps of the product of densities p(x | label)^power: autograd on ln p_t, and x = alpha·x0 + sigma·eps."""
    q = query()
    c, x = path(q.t), q.x.clone().requires_grad_()
    total = sum((power * log_density(x, c, cond.label, more)).sum() for cond, power, more in powers)  # type: ignore[arg-type]
    (score,) = torch.autograd.grad(total, x)  # type: ignore[arg-type]
    eps = -c.sigma[:, None] * score
    return (q.x - c.sigma[:, None] * eps) / c.alpha[:, None], eps


def assert_field(answer: Denoised, x0: Tensor, eps: Tensor) -> None:
    torch.testing.assert_close(answer.x0, x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(answer.eps, eps, rtol=1e-8, atol=1e-8)


SCALE = torch.tensor([2.0, 1.0, 0.0, 7.5, -0.5, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("path", ["linear", "vp", "ve"])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("composed", [False, True])
def test_the_field_is_that_of_a_product_of_powers(path: str, negative: bool, composed: bool) -> None:
    """p_base^(1 - w - sum w_k) · p_given^w · prod p_k^(w_k), each row with its own scale and weights (eq. 57)."""
    mixture = Mixture(PATHS[path])
    base, weights = (NEGATIVE if negative else labels(*[-1] * 6)), WEIGHTS if composed else torch.zeros_like(WEIGHTS)
    others = (SECOND, THIRD) if composed else ()
    cond = steered(GIVEN, NEGATIVE if negative else None, *others, weights=WEIGHTS if composed else None)
    answer = Guided(mixture, SCALE)(query(), cond)
    powers = [
        (base, 1 - SCALE - weights.sum(1), 0.0),
        (GIVEN, SCALE, 0.0),
        (SECOND, weights[:, 0], 0.0),
        (THIRD, weights[:, 1], 0.0),
    ]
    assert_field(answer, *by_score(PATHS[path], powers))
    assert mixture.rows == [24 if composed else 11]  # row 1, of scale 1, needs a base only for its further terms


def test_the_terms_of_one_call_stand_in_their_places() -> None:
    mixture, q = Mixture(Linear()), query()._replace(s=torch.linspace(0.0, 0.5, 6, dtype=torch.float64))
    Guided(mixture, SCALE)(q, steered(GIVEN, NEGATIVE, SECOND, weights=WEIGHTS[:, :1]))
    ((asked, cond),) = mixture.calls
    assert torch.equal(asked.x, q.x.repeat(3, 1))
    assert torch.equal(asked.t, q.t.repeat(3))
    assert torch.equal(asked.s, q.s.repeat(3))
    assert type(cond) is Condition
    assert torch.equal(cond.label, torch.cat([GIVEN.label, NEGATIVE.label, SECOND.label]))  # type: ignore[arg-type, list-item]


@pytest.mark.parametrize("negative", [False, True])
def test_autoguidance_pushes_away_from_the_weaker_models_answer(negative: bool) -> None:
    """p_weak(x | c)^(1 - w - w_1) · p(x | c)^w · p(x | c_1)^(w_1): the weak one answers the same, or the negative."""
    good, bad = Mixture(Linear()), Mixture(Linear(), more=0.4)
    cond = steered(GIVEN, NEGATIVE if negative else None, SECOND, weights=WEIGHTS[:, :1])
    answer = Guided(good, SCALE, weak=bad)(query(), cond)
    away, more = NEGATIVE if negative else GIVEN, WEIGHTS[:, 0]
    assert_field(answer, *by_score(Linear(), [(away, 1 - SCALE - more, 0.4), (GIVEN, SCALE, 0.0), (SECOND, more, 0.0)]))
    assert (good.rows, bad.rows) == ([12], [6])
    good.calls.clear()
    bad.calls.clear()
    answer = Guided(good, SCALE, weak=bad)(query(), GIVEN)
    assert_field(answer, *by_score(Linear(), [(GIVEN, 1 - SCALE, 0.4), (GIVEN, SCALE, 0.0)]))
    assert (good.rows, bad.rows) == ([6], [5])  # no half in the good one's call, and no row of scale 1 in the bad one's
    assert torch.equal(bad.calls[0][0].x, query().x[[0, 2, 3, 4, 5]])
    assert bad.calls[0][1].label.tolist() == [0, 2, 0, 1, 2]  # type: ignore[union-attr]


def test_an_interval_is_exact_at_its_ends() -> None:
    """On the straight path sigma/alpha = t/(1 - t): 1 at 0.5, 3 at 0.75. Below and at the low end nothing is added."""
    t = torch.tensor([0.25, 0.5, 0.5 + 1e-15, 0.6, 0.75, 0.75 + 1e-15, 1.0], dtype=torch.float64)
    q, cond = Query(torch.full((7, 2), 0.3, dtype=torch.float64), t, t), labels(*[0, 1] * 3, 2)
    mixture = Mixture(Linear())
    plain, everywhere = mixture(q, cond), Guided(mixture, 3.0)(q, cond)
    mixture.calls.clear()
    inside = torch.tensor([False, False, True, True, True, False, False])
    answer = Guided(mixture, 3.0, interval=(1.0, 3.0), path=Linear())(q, cond)
    assert mixture.rows == [10]
    assert torch.equal(mixture.calls[0][0].t, torch.cat([t, t[2:5]]))
    for found, guided, alone in zip(answer[:2], everywhere[:2], plain[:2], strict=True):
        assert torch.equal(found[~inside], alone[~inside])
        assert torch.equal(found[inside], guided[inside])
        assert not torch.isclose(guided, alone).all(1)[:6].any()  # at t = 1 x is the noise itself
    assert torch.equal(answer.var_mix, plain.var_mix)  # type: ignore[arg-type]
    mixture.calls.clear()
    whole = Guided(mixture, 3.0, interval=(0.0, math.inf), path=Linear())(q, cond)
    assert mixture.rows == [14]  # also where there is noise alone
    assert all(torch.equal(a, b) for a, b in zip(whole, everywhere, strict=True))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weak", [False, True])
def test_outside_the_interval_the_conditional_model_answers_alone(rule: Cfg, weak: bool) -> None:
    """Bit for bit, one half, whatever else is steered; the weak model is not asked."""
    good, bad, q = Mixture(Linear()), Mixture(Linear(), 0.3), query()
    cond = steered(GIVEN, NEGATIVE, SECOND, weights=WEIGHTS[:, :1])
    plain = good(q, cond)
    good.calls.clear()
    answer = Guided(good, 4.0, rule=rule, interval=(20, 30.0), weak=bad if weak else None, path=Linear())(q, cond)
    assert (good.rows, bad.rows) == ([6], [])
    assert all(torch.equal(a, b) for a, b in zip(answer, plain, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_one_is_the_plain_model_bit_for_bit_whatever_the_base(dtype: torch.dtype) -> None:
    good, bad, q = Mixture(Linear()), Mixture(Linear(), 0.3), query()
    q = q._replace(x=q.x.to(dtype))
    for cond in (GIVEN, steered(GIVEN, NEGATIVE)):
        plain = good(q, cond)
        for weak in (None, bad):
            for rule in RULES:
                good.calls.clear()
                answer = Guided(good, 1, rule=rule, weak=weak, path=Linear())(q, cond)
                assert (good.rows, bad.rows) == ([6], [])
                assert all(torch.equal(a, b) for a, b in zip(answer, plain, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_zero_is_the_base_alone(dtype: torch.dtype) -> None:
    """The null, equal to the unconditional model exactly, or the negative prompt, or the weak model's answer."""

    def cast(q: Query, cond: Condition, more: float = 0.0) -> Denoised:
        return Denoised(*(y.to(dtype) for y in Mixture(Linear(), more)(q._replace(x=q.x.double()), cond)[:2]))

    q = query()._replace(x=query().x.to(dtype))
    weak: Callable[[Query, Condition], Denoised] = lambda q, c: cast(q, c, 0.3)  # noqa: E731
    for cond, by, want in (
        (GIVEN, None, cast(q, labels(*[-1] * 6))),
        (steered(GIVEN, NEGATIVE), None, cast(q, NEGATIVE)),
        (GIVEN, weak, weak(q, GIVEN)),
    ):
        answer = Guided(cast, 0.0, weak=by)(q, cond)
        assert all(torch.equal(a, b) for a, b in zip(answer[:2], want[:2], strict=True))


def test_only_the_conditions_named_are_hidden_in_the_base() -> None:
    """A picture that was never hidden in training is shown to both halves; a longer negative text is no trouble."""
    seen: list[Condition] = []

    def denoiser(q: Query, cond: Condition) -> Denoised:
        seen.append(cond)
        return Denoised(q.x, q.x)

    told = Condition(
        torch.tensor([1, 2]), torch.ones(2, 1, 3), torch.ones(2, 1, dtype=torch.bool), image=torch.ones(2, 1, 2, 2)
    )
    q = Query(torch.zeros(2, 1), *[torch.full((2,), 0.5, dtype=torch.float64)] * 2)
    Guided(denoiser, 2.0, ("label", "text"))(q, told)
    assert seen[0].label.tolist() == [1, 2, -1, -1]  # type: ignore[union-attr]
    assert seen[0].present.tolist() == [[True], [True], [False], [False]]  # type: ignore[union-attr]
    assert torch.equal(seen[0].image, torch.ones(4, 1, 2, 2))  # type: ignore[arg-type]
    longer = Condition(told.label, torch.full((2, 2, 3), 5.0), torch.ones(2, 2, dtype=torch.bool), image=told.image)
    Guided(denoiser, 2.0, ("label",))(q, Steered(**vars(told), base=longer))
    assert seen[1].present.tolist() == [[True, False]] * 2 + [[True, True]] * 2  # type: ignore[union-attr]
    assert seen[1].tokens[:, :, 0].tolist() == [[1, 0]] * 2 + [[5, 5]] * 2  # type: ignore[index]


@pytest.mark.parametrize("rule", RULES)
def test_every_row_is_as_if_it_were_alone(rule: Cfg) -> None:
    """Rows of other scales, inside and outside the interval, with others' terms: none looks at its neighbours."""
    mixture, weights = Mixture(Linear()), WEIGHTS[:, :1]
    settings = {"rule": rule, "interval": (0.3, 8.0), "path": Linear()}
    for others in ((), (SECOND,)):
        given = steered(GIVEN, NEGATIVE, *others, weights=weights if others else None)
        q = query()
        answer = Guided(mixture, SCALE, **settings)(q, given)  # type: ignore[arg-type]
        for i in range(6):
            row, one = slice(i, i + 1), Query(q.x[i : i + 1], q.t[i : i + 1], q.s[i : i + 1])
            alone = Guided(mixture, float(SCALE[i]), **settings)(one, given.map(lambda v, row=row: v[row]))  # type: ignore
            for found, want in zip(answer, alone, strict=True):
                torch.testing.assert_close(found[row], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weak", [False, True])
def test_rows_at_different_times_are_asked_alike(weak: bool) -> None:
    """As many rows in every call, wherever the interval lies; and what counts in each row is what counts otherwise."""
    good, bad, q = Mixture(Linear()), Mixture(Linear(), 0.3), query()
    for others in ((), (SECOND,)):
        cond = steered(GIVEN, None, *others, weights=WEIGHTS[:, :1] if others else None)
        for interval in ((0.3, 8.0), (20.0, 30.0)):  # some rows, none
            good.calls.clear()
            bad.calls.clear()
            settings = {"interval": interval, "weak": bad if weak else None, "path": Linear()}
            found = Guided(good, 3.0, **settings, whole=True)(q, cond)  # type: ignore[arg-type]
            assert (good.rows, bad.rows) == ([6 * (2 - weak + len(others))], [6] * weak)
            want = Guided(good, 3.0, **settings)(q, cond)  # type: ignore[arg-type]
            for a, b in zip(found, want, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert Sampling(RungeKutta(), interval=(0.3, 8.0)).guided(good, ("label",), Linear()).whole  # type: ignore[attr-defined]
    assert not Sampling(Ddim(), interval=(0.3, 8.0)).guided(good, ("label",), Linear()).whole  # type: ignore[attr-defined]


def test_an_interval_costs_what_it_covers() -> None:
    """Network rows of a whole sampling, counted: of 20 steps from t = 1 those with 0.25 < t <= 0.75 have two halves."""
    mixture = Mixture(Linear())
    x, times = query(4).x, grid(20, 4)
    guided = Guided(mixture, 3.0, interval=(1 / 3, 3.0), path=Linear())
    drive(Ddim()(Linear(), x, times, Philox(0, torch.arange(4))), guided, labels(0, 1, 2, 0))
    inside = [0.25 + 1e-12 < t <= 0.75 + 1e-12 for t, _ in pairwise(times[:, 0].tolist())]
    assert sum(inside) == 10
    assert mixture.rows == [8 if one else 4 for one in inside]


@pytest.mark.parametrize("rule", RULES)
def test_pictures_have_the_same_bits_in_any_batch(rule: Cfg) -> None:
    """Under chunks, with a network whose kernels differ with the batch, and all there is to guidance at once."""
    torch.manual_seed(0)
    nets = [torch.nn.Sequential(torch.nn.Linear(50, 300), torch.nn.SiLU(), torch.nn.Linear(300, 50)) for _ in range(2)]

    def denoiser(net: torch.nn.Module) -> Callable[[Query, Condition], Denoised]:
        def answer(q: Query, cond: Condition) -> Denoised:
            assert cond.label is not None
            x0 = net(q.x + cond.label[:, None]) / 3
            sigma = q.t.float()[:, None]
            return Denoised(x0, (q.x - (1 - sigma) * x0) / sigma)

        return answer

    def run(index: Tensor, weak: bool) -> Tensor:
        noise = Philox(0, index)
        label = index % 3
        weights = torch.stack([index / 40, 1 - index / 20], 1)
        cond = Steered(
            label=label, base=Condition(2 - label), others=(Condition(label * 0), Condition(label - 1)), weights=weights
        )
        worse = denoiser(nets[1]) if weak else None
        guided = Guided(denoiser(nets[0]), 2.5, rule=rule, interval=(0.3, 3.0), weak=worse, path=Linear())
        x = noise(torch.empty(len(index), 50), 0, 0)
        return drive(Ddim()(Linear(), x, grid(5, len(index)), noise), Chunked(guided, 16), cond)

    for weak in (False, True):
        whole = run(torch.arange(40), weak)
        assert whole.isfinite().all()
        for rows in ([3], [39, 0], list(range(7)), list(range(5, 34))):
            assert torch.equal(run(torch.tensor(rows), weak), whole[rows])


def test_scales_of_single_rows_belong_outside_of_chunks() -> None:
    """Inside, each chunk would have the first rows' scales; outside, they are every row's own."""
    mixture, q, cond = Mixture(Linear()), query(), GIVEN
    for inner in (Guided(mixture, SCALE), Chunked(Guided(mixture, 2.0), 2)):
        wrapped = Guided(inner, 1.0)
        if isinstance(inner, Guided):
            with pytest.raises(ValueError, match=r"Chunks of 2 rows .* first of 6 scales.*Guided\(Chunked\("):
                Chunked(wrapped, 2)
        else:
            Chunked(wrapped, 2)
    want = Guided(mixture, SCALE)(q, cond)
    answer = Guided(Chunked(mixture, 4), SCALE)(q, cond)
    torch.testing.assert_close(answer.x0, want.x0, rtol=1e-13, atol=1e-13)
    number = Chunked(Guided(mixture, torch.tensor(2.0)), 4)(q, cond)
    torch.testing.assert_close(number.x0, Guided(mixture, 2.0)(q, cond).x0, rtol=1e-13, atol=1e-13)


def test_what_guidance_cannot_do_is_refused() -> None:
    mixture = Mixture(Linear())
    for interval in ((3.0, 1.0), (1.0, 1.0), (-0.1, 2.0), (math.nan, 2.0), (0.3,), (math.inf, math.inf)):
        with pytest.raises(ValueError, match="must be two values of sigma/alpha"):
            Guided(mixture, 2.0, interval=interval, path=VE())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of sigma/alpha, which a path tells"):
        Guided(mixture, 2.0, interval=(0.3, 5.0))
    with pytest.raises(ValueError, match="5 scales were given for 6 rows"):
        Guided(mixture, SCALE[:5])(query(), GIVEN)
    with pytest.raises(ValueError, match="has no path"):
        Guided(mixture, 2.0, rule=Apg())(query(), GIVEN)
