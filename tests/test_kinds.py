"""Components by name: every one survives the way to plain data and back, and what does not fit is refused by name."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal

import pytest
from pydantic import ValidationError

import inkwash
from inkwash.codec import AnyCodec, Latents, Standard
from inkwash.conditions import AnyTask, Edges, Grey, LowResolution, Masked, Paired
from inkwash.features import AnyFeatures, Classifier, DinoV2, Inception, Lite0, Raw
from inkwash.grids import AnyGrid, Even, Karras, Leading, Linspace, Listed, LogSnr, Quadratic, Trailing
from inkwash.guidance import AnyRule, Apg, CfgZero, Rescaled
from inkwash.kinds import OneOf, from_table, from_text, in_text, kinds_of, members_of, split_texts, to_table
from inkwash.likelihood import Adaptive, AnySolver, AnyTrace, Exact, HeunSteps, Hutchinson, Rk4Steps
from inkwash.model import AnyInputs, EdmInputs, Indexed, Plain, UnitVariance
from inkwash.nets import AnyAutoencoder, AnyNet, KLAutoencoder, TinyAutoencoder
from inkwash.objectives import (
    P2,
    AnyCoupling,
    AnyObjective,
    AnyWeight,
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
from inkwash.optim import AnyOptim
from inkwash.paths import (
    VE,
    VP,
    AnyPath,
    AnySchedule,
    Betas,
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
from inkwash.samplers import (
    Adams,
    Ancestral,
    AnySampler,
    Ddim,
    Deis,
    DpmSolver,
    Euler,
    Heun,
    Ipndm,
    RungeKutta,
    UniPC,
)
from inkwash.targets import X0, AnyTarget, Edm, Eps, Flow, V
from inkwash.text import T5, AnyEncoder, Clip, MiniLm
from inkwash.times import AnyDensity, Importance, LogitNormal, LogNormalNoise, Uniform
from inkwash.types import Component

SETTINGS: list[tuple[Any, Any]] = [
    *((AnyTarget, t) for t in (X0(), Eps(), V(), Flow(), Edm(0.7))),
    *((AnyInputs, i) for i in (Plain(), Indexed(200), UnitVariance(0.3), EdmInputs(0.3))),
    *((AnyDensity, d) for d in (Uniform(False), LogitNormal(-0.4, 1.3, stratified=False))),
    *((AnyDensity, d) for d in (LogNormalNoise(-0.4, 1.0, False), Importance(7, 3, 0.25, stratified=False))),
    *((AnyWeight, w) for w in (Unweighted(), MinSnr(4.0), SoftMinSnr(4.0), EdmWeight(0.6))),
    *((AnyWeight, w) for w in (P2(0.5, 2.0), SigmoidWeight(-1.0))),
    *((AnyCoupling, c) for c in (Independent(), OptimalTransport())),
    *((AnySampler, s) for s in (Ddim(0.5, "large"), Ancestral("learned"), Euler(), Heun(2.0, 0.05, 50.0, 1.003))),
    *((AnySampler, s) for s in (DpmSolver(3, sde=True), UniPC(3, "bh1"), Deis(4), Ipndm(2), Adams(3))),
    (AnySampler, RungeKutta(1e-4, 1e-5, 0.01)),
    (AnyObjective, Regression("huber", LogitNormal(0.1, 2.0), MinSnr(3.0), OptimalTransport())),
    (AnyObjective, Hybrid(0.01, "l1", Importance(), P2(), 50)),
    (AnyObjective, Bound(Importance(50), 20)),
    *((AnySolver, s) for s in (HeunSteps(7, Even()), Rk4Steps(9, Karras(rho=3.0)), Adaptive(1e-3, 1e-5))),
    *((AnyTrace, t) for t in (Exact(), Hutchinson(4))),
    *((AnyRule, r) for r in (Rescaled(0.3), Apg(0.2, 0.05), CfgZero())),
    (AnyCodec, Standard((0.1, 0.2), (1.0, 2.0))),
    (AnyCodec, Latents(KLAutoencoder(1, 2, (8, 8), 2, 4, False, False), (0.5, -1.0), (0.2, 3.0), "ab12")),
    (AnyAutoencoder, TinyAutoencoder(1, 8, 16, (1, 2), (2, 1))),
    (AnyPath, Linear()),
    (AnyPath, Table(LinearBetas(200, 2e-4, 0.03, scaled=True))),
    (AnyPath, Table(CosineBetas(77, s=0.01, max_beta=0.99))),
    (AnyPath, Table(QuadraticBetas(10, end=0.1))),
    (AnyPath, Table(SigmoidBetas(10, start=1e-3))),
    (AnyPath, Table([0.1, 0.25, 0.5])),
    (AnyPath, Table(CosineBetas(9), zero_snr=True)),
    (AnyPath, VE(50.0)),
    (AnyPath, VP(CosineSchedule())),
    (AnyPath, VP(SigmoidSchedule(4.0, -2.0))),
    (AnyPath, Shifted(VP(LinearSchedule(0.2, 15.0)), 3.0)),
    *((AnyGrid, g) for g in (Even(), Quadratic(), Leading(200), Linspace(7), Trailing(50), Listed([0.9, 0.5, 0.0]))),
    *((AnyGrid, g) for g in (Karras(0.01, 50.0, 5.0), LogSnr(0.01, 50.0))),
    *((AnyTask, t) for t in (LowResolution(8, 0.25), Grey(), Edges(), Paired(), Masked())),
    *((AnyEncoder, e) for e in (MiniLm(32), Clip("a/b", 640, 40), T5("/c", 1024, 128))),
    *((AnyFeatures, f) for f in (Lite0(), Raw(), Inception("/a/b.pth"), Classifier("mnist"), DinoV2("a/b"))),
]
UNIONS = {
    "path": AnyPath,
    "betas": Betas,
    "schedule": AnySchedule,
    "grid": AnyGrid,
    "target": AnyTarget,
    "inputs": AnyInputs,
    "density": AnyDensity,
    "weight": AnyWeight,
    "coupling": AnyCoupling,
    "sampler": AnySampler,
    "objective": AnyObjective,
    "codec": AnyCodec,
    "autoencoder": AnyAutoencoder,
    "features": AnyFeatures,
    "task": AnyTask,
    "text encoder": AnyEncoder,
    "solver": AnySolver,
    "trace": AnyTrace,
    "net": AnyNet,
    "optim": AnyOptim,
    "rule": AnyRule,
}


@dataclass(frozen=True)
class Bent(Linear):
    """A user's path that extends one of ours, and inherits its kind."""

    power: float = 2.0


@dataclass(frozen=True)
class Alien:
    """A user's class that is no `Component`, in a class of theirs."""

    scale: float
    inner: Annotated[Linear | Table, OneOf()] = field(default_factory=Linear)

    @dataclass(frozen=True)
    class Nested:
        size: int = 3


@pytest.mark.parametrize(
    ("annotation", "component"), SETTINGS, ids=lambda v: repr(v) if isinstance(v, Component) else ""
)
def test_round_trip_through_json(annotation: Any, component: Any) -> None:
    table = to_table(component)
    assert table["kind"] == component.kind
    assert from_table(annotation, json.loads(json.dumps(table))) == component


@pytest.mark.parametrize("union", UNIONS)
def test_every_member_by_its_kind_alone(union: str) -> None:
    """A bare string is the component with its defaults; kinds are told apart, and are each class's own."""
    annotation = UNIONS[union]
    members = members_of(annotation)
    assert kinds_of(annotation) == list(members)
    for kind, member in members.items():
        assert issubclass(member, Component)
        assert fields(member)[-1].name == "kind"  # the last field, by keyword only, and not shown
        assert fields(member)[-1].kw_only
        assert not fields(member)[-1].repr
        assert member.__dataclass_params__.frozen  # type: ignore[attr-defined]
        if any(f.default is f.default_factory is MISSING for f in fields(member)):
            continue  # nothing to be without its settings: among the round trips above
        made = from_table(annotation, kind)
        assert made == from_table(annotation, {"kind": kind}) == member()
        assert type(made) is member
        assert from_table(annotation, to_table(made)) == made


def test_instances_pass() -> None:
    path = Table(CosineBetas(10))
    assert from_table(AnyPath, path) is path
    assert from_table(AnyPath, Bent()) == Bent()


@pytest.mark.parametrize(
    ("annotation", "table", "says"),
    [
        (AnySampler, {"kind": "ddim", "etta": 0.5}, ["ddim.etta", "Unexpected keyword"]),
        (AnySampler, {"kind": "ddmi"}, ["ddmi", "'ddim', 'ancestral', 'euler', 'heun'"]),
        (AnySampler, "ddmi", ["ddmi", "'heun'"]),
        (AnySampler, {"eta": 0.5}, ["needs a `kind`: ddim, ancestral, euler, heun"]),
        (AnySampler, 3, ["needs a `kind`"]),
        (AnySampler, {"kind": "ddim", "eta": "half"}, ["ddim.eta", "valid number"]),
        (AnySampler, {"kind": "ddim", "eta": 1.5}, ["eta must lie in [0, 1]", "1.5"]),
        (AnySampler, {"kind": "ancestral", "added": "medium"}, ["ancestral.added", "'small', 'large' or 'learned'"]),
        (AnyPath, {"kind": "table", "betas": {"kind": "cosine", "stps": 5}}, ["stps", "Unexpected keyword"]),
        (AnyPath, {"kind": "table", "betas": [0.1, 2.0]}, ["beta_2 = 2"]),
        (AnyObjective, {"kind": "regression", "times": {"kind": "uniform", "std": 1}}, ["uniform.std"]),
    ],
)
def test_what_does_not_fit_is_named(annotation: Any, table: Any, says: list[str]) -> None:
    with pytest.raises(ValidationError) as error:
        from_table(annotation, table)
    for words in says:
        assert words in str(error.value)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which this module can be imported as somebody's own."""
    monkeypatch.setitem(sys.modules, "somebodys", sys.modules[__name__])
    for cls in (Bent, Alien, Alien.Nested):
        monkeypatch.setattr(cls, "__module__", "somebodys")
    return "somebodys"


def test_foreign_kinds_need_trust(theirs: str) -> None:
    with pytest.raises(ValidationError, match=f"{theirs}:Bent is code from outside inkwash.*--trust"):
        from_table(AnyPath, {"kind": f"{theirs}:Bent", "power": 3.0})
    assert from_table(AnyPath, {"kind": f"{theirs}:Bent", "power": 3.0}, trust=True) == Bent(3.0)
    assert from_table(AnyPath, f"{theirs}:Bent", trust=True) == Bent()


def test_an_untrusted_module_is_not_even_imported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "danger_zone.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for nested in ("danger_zone:Path", {"kind": "table", "betas": {"kind": "danger_zone:Betas"}}):
        with pytest.raises(ValidationError, match="danger_zone"):
            from_table(AnyPath, nested)


def test_foreign_components_come_back_as_themselves(theirs: str) -> None:
    """Not as the class of ours they extend, whose kind they inherit; inside and outside of other components."""
    for component in (Bent(3.0), Alien(2.0, Table([0.5])), Alien(1.0, Bent()), Alien.Nested(5)):
        table = json.loads(json.dumps(to_table(component)))
        assert table["kind"] == f"{theirs}:{type(component).__qualname__}"
        assert from_table(AnyPath, table, trust=True) == component


@pytest.mark.parametrize(
    ("kind", "table", "says"),
    [
        ("Bent", {"pwoer": 3.0}, "has no pwoer: it takes power"),
        ("Alien", {"scale": 1.0, "scalee": 2.0}, "has no scalee: it takes scale, inner"),
        ("Alien", {}, "scale"),
        ("Alien", {"scale": "wide"}, "valid number"),
        ("Missing", {}, "somebodys:Missing cannot be imported"),
        ("theirs", {}, "not a dataclass"),
    ],
)
def test_foreign_tables_are_checked_too(theirs: str, kind: str, table: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_table(AnyPath, {"kind": f"{theirs}:{kind}", **table}, trust=True)
    with pytest.raises(ValueError, match="nowhere_at_all:X cannot be imported"):
        from_table(AnyPath, "nowhere_at_all:X", trust=True)


def test_tables_of_parts_without_a_kind() -> None:
    """A component of inkwash's own that is no member of a union needs no kind, and has none in its table."""
    sampling = inkwash.Sampling(method=Ddim(0.5), steps=7)
    table = to_table(sampling)
    assert table == {
        "method": {"kind": "ddim", "eta": 0.5, "added": "small"},
        "steps": 7,
        "guidance": 1.0,
        "clip": False,
        "grid": {"kind": "even"},
        "rule": {"kind": "cfg"},
    }
    assert from_table(inkwash.Sampling, table) == sampling


def test_none_is_left_out_and_lists_are_plain() -> None:
    @dataclass(frozen=True)
    class Parts(Component):
        path: AnyPath | None = None
        many: tuple[AnyPath, ...] = ()
        named: dict[str, Any] = field(default_factory=dict)
        kind: Literal["parts"] = field(default="parts", kw_only=True, repr=False)

    table = to_table(Parts(None, (Linear(), Table([0.5])), {"a": Linear(), "b": (1, 2)}))
    assert table.pop("kind").endswith("Parts")
    linear = {"kind": "linear"}
    assert table == {
        "many": [linear, {"betas": [0.5], "zero_snr": False, "kind": "table"}],
        "named": {"a": linear, "b": [1, 2]},
    }


@pytest.mark.parametrize(
    ("text", "component"),
    [
        ("heun", Heun()),
        (" ddim(eta=0.5) ", Ddim(0.5)),
        ("ddim(eta=0.5, added=large)", Ddim(0.5, "large")),
        ("dpm++(order=3, sde=true)", DpmSolver(3, sde=True)),
        ('unipc(variant="bh1")', UniPC(variant="bh1")),
        ("heun(churn=10, churn_max=50)", Heun(10.0, churn_max=50.0)),
    ],
)
def test_components_as_text(text: str, component: Any) -> None:
    """And back: what differs from the defaults is said."""
    assert from_text(AnySampler, text, "sampler") == component
    assert from_text(AnySampler, in_text(component), "sampler") == component


@pytest.mark.parametrize(
    ("annotation", "component"),
    [s for s in SETTINGS if s[1].kind != "standard"],
    ids=lambda v: repr(v) if isinstance(v, Component) else "",
)
def test_every_component_as_text_and_back(annotation: Any, component: Any) -> None:
    assert from_text(annotation, in_text(component), "component") == component


def test_text_says_what_differs() -> None:
    assert in_text(VP()) == "vp"
    assert in_text(VP(CosineSchedule())) == "vp(schedule=cosine)"
    assert "steps = 200, start = 0.0001, end = 0.02, scaled = false, kind = linear" in in_text(Table(LinearBetas(200)))
    assert in_text(Heun()) == "heun"
    assert in_text(Ddim(0.5, "large")) == "ddim(eta=0.5, added=large)"
    assert in_text(DpmSolver(sde=True)) == "dpm++(sde=true)"


def test_lists_of_texts_are_cut_outside_brackets() -> None:
    assert split_texts("heun, ddim(eta=0.5, added=large),dpm++") == ["heun", "ddim(eta=0.5, added=large)", "dpm++"]
    assert split_texts("unipc(order=3)") == ["unipc(order=3)"]
    assert split_texts("a,,b,") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("huen", "There is no sampler 'huen'. Did you mean heun?"),
        ("zzz", "There is no sampler 'zzz'. Choose from ddim, ancestral,"),
        ("ddim(etta=1)", "The sampler 'ddim(etta=1)' cannot be made: etta: Unexpected keyword argument"),
        ("ddim(eta=2)", "eta must lie in [0, 1], from deterministic to ancestral, but it is 2"),
        ("ddim(eta=1", "the bracket is not closed"),
        ("ddim(eta)", "cannot be made"),
        ("dpm++(order=7)", "order: Input should be 1, 2 or 3"),
    ],
)
def test_text_that_does_not_fit_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        from_text(AnySampler, text, "sampler")
