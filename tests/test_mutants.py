"""The mutation check itself: it makes the mutants it should and no others, and tells the killed from the survivors."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import harness
from harness import Outcome, Project, Verdict
from mutants import Explained, Report, check, main, read
from mutate import Mutant, mutants


def changes(source: str) -> list[str]:
    """Every mutant's changed line, in order."""
    return [m.becomes for m in mutants(textwrap.dedent(source), "x.py")]


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("y = p + q * r", ["y = p - q * r", "y = p + q / r"]),
        ("y = -(p - q) ** 2", ["y = (p - q) ** 2", "y = -(p + q) ** 2", "y = -(p - q) * 2", "y = -(p - q) ** 3"]),
        ("y = p // q % r", ["y = p / q % r", "y = p // q // r"]),
        ("y -= p", ["y += p"]),
        ("y = p < q", ["y = p <= q", "y = p >= q"]),
        ("y = 0 <= p != q", ["y = 1 <= p != q", "y = 0 < p != q", "y = 0 > p != q", "y = 0 <= p == q"]),
        ("y = not p and q or r", ["y = p and q or r", "y = not p or q or r", "y = not p and q and r"]),
        ("y = p is None or q", ["y = p is not None or q", "y = p is None and q"]),
        ("y = p not in q", ["y = p in q"]),
        ("y = ~p | q", ["y = p | q", "y = ~p & q"]),
        ("y = p[0]", ["y = p[-1]", "y = p[1]"]),
        ("y = p[1, :k]", ["y = p[-1, :k]", "y = p[0, :k]", "y = p[2, :k]", "y = p[1, :k + 1]", "y = p[1, :k - 1]"]),
        ("y = p[:-1]", ["y = p[:-2]", "y = p[:0]", "y = p[:1]"]),
        ("y = p[i]", ["y = p[i + 1]", "y = p[i - 1]"]),
        ("y = p[i + 1]", ["y = p[i - 1]", "y = p[i + -1]", "y = p[i + 0]", "y = p[i + 2]"]),
        ("y = p[:n]", ["y = p[:n + 1]", "y = p[:n - 1]"]),
        ("y = g.at(k)", ["y = g.at(k + 1)", "y = g.at(k - 1)"]),
        ("y = c.alpha", ["y = c.dalpha", "y = c.sigma"]),
        ("y = pred.x0, now.dsigma", ["y = pred.eps, now.dsigma", "y = pred.x0, now.dalpha", "y = pred.x0, now.sigma"]),
        ("y = torch.exp(p)", ["y = torch.expm1(p)", "y = torch.log(p)"]),
        ("y = p.sum(1)", ["y = p.mean(1)", "y = p.prod(1)", "y = p.sum(2)"]),
        ("y = p.clamp(min=0)", ["y = p.clamp(max=0)", "y = p.clamp(min=1)"]),
        ("y = f(0.5, 0.0, 1e-12, 8, True)", ["y = f(0.505, 0.0, 1e-12, 8, True)", "y = f(0.5, 1.0, 1e-12, 8, True)",
            "y = f(0.5, 0.0, 1e-09, 8, True)", "y = f(0.5, 0.0, 1e-12, 9, True)", "y = f(0.5, 0.0, 1e-12, 8, False)"]),
        ('y = added == "small"', ['y = added != "small"', 'y = added == "large"', 'y = added == "learned"']),
        # Texts, forms, classes, aliases and imports are no formulas.
        ('y = f"{p + 1}"', []),
        ('y = "p + 1"', []),
        ("y = torch.ones_like(c.alpha)", ["y = torch.zeros_like(c.alpha)"]),
        ("y = like(p, c.alpha).to(c.sigma.dtype)", []),
        ("y = isinstance(p, int | str)", []),
        ("Y = Annotated[A | B, OneOf()]", []),
        ("Y = A | B", []),
        ('__all__ = ["small"]', []),
        ("from math import exp", []),
    ],
)  # fmt: skip
def test_the_mutants_of_a_line(line: str, becomes: list[str]) -> None:
    assert changes(line) == becomes


def test_names_are_changed_to_siblings_in_scope() -> None:
    source = """
        from m import forward_variance, posterior_variance, unrelated

        def f(s, t, alpha_t, alpha_s, p0, p1, xx, xy, k):
            eps = unrelated(k)
            return eps, t, alpha_t, p0, xx, k

        def g(t):
            return t
    """
    assert [(m.old, m.new) for m in mutants(textwrap.dedent(source), "x.py")] == [
        ("t", "s"),
        ("alpha_t", "alpha_s"),
        ("p0", "p1"),
        ("xx", "xy"),
    ]


def test_what_says_nothing_of_formulas_is_left_alone() -> None:
    """Docstrings, comments, annotations, decorators, kinds, errors; but their conditions, and defaults, are changed."""
    source = '''
        """Adds 1 + 1."""

        if TYPE_CHECKING:
            LOW = 1

        class Step(Protocol):
            def __call__(self, n: int = 1) -> int: ...

        @dataclass(frozen=True, order=1)
        class Euler(Component[0]):
            """From 0 to 1."""

            eta: Annotated[float, 0 < 1] = 2.0  # 3 + 4
            kind: Literal["small"] = field(default="small", kw_only=True, repr=False)

            @cached(size=2)
            def step(self, x: Tensor[0], n: int = 5) -> Tuple[1]:
                """Takes -1."""
                if n < 1:
                    raise ValueError("n must be 1" + f"{n - 1}", n - 1)
                return x  # type: ignore[0]
    '''
    assert changes(source) == [
        "eta: Annotated[float, 0 < 1] = 2.02  # 3 + 4",
        "def step(self, x: Tensor[0], n: int = 6) -> Tuple[1]:",
        "if n <= 1:",
        "if n >= 1:",
        "if n < 2:",
    ]


def test_each_meaning_once() -> None:
    """A mutant that parses to the text itself, or to another mutant, or to nothing, is none."""
    assert changes("y = f(min=p, max=q)") == []
    found = changes("y = p[i - 1]")  # of i - -1 and i + 1, which are written apart, both; of `i - 1` twice, one
    assert found == ["y = p[i + 1]", "y = p[i - -1]", "y = p[i - 0]", "y = p[i - 2]"]
    assert len(set(found)) == len(found)


def test_a_mutant_knows_its_place() -> None:
    source = "# é\n\ndef f(a):\n    def g(c):\n        é = 'ü', c.alpha  # é\n        return é\n\n    return g\n"
    first, second = mutants(source, "x.py")
    assert (first.file, first.row, first.within, first.owner, first.old) == ("x.py", 5, "f.g", 4, "alpha")
    assert (first.line, first.becomes) == ("é = 'ü', c.alpha  # é", "é = 'ü', c.dalpha  # é")
    assert second.applied() == source.replace("alpha", "sigma")


TINY = '''
"""Small sums."""

ZERO = 0


def size(x):
    if x < ZERO:
        return -x
    return x


def countdown(n):
    while n > 0:
        n -= 1
    return n


def thrice(x):
    return 3 * x


def never_called(x):
    return x + x
'''
TESTS = """
from functools import cache
from tiny.ops import countdown, size, thrice

@cache
def nine():
    return thrice(3)

def test_the_one_that_runs_it():
    nine()

def test_the_one_that_sees_it():
    assert nine() == 9

def test_countdown():
    assert countdown(3) == 0
    assert countdown(0) == 0

def test_size():
    assert size(-2.0) == size(2.0) == 2.0
    assert size(0.5) == 0.5 and size(-0.5) == 0.5
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(harness, "GRACE", 5.0)  # a fork of a large process costs time of its own
    project = Project(tmp_path, tmp_path / "src" / "tiny", tmp_path / "tests")
    project.package.mkdir(parents=True)
    project.tests.mkdir()
    (project.package / "__init__.py").touch()
    (project.package / "ops.py").write_text(TINY)
    (project.tests / "test_ops.py").write_text(TESTS)
    return project


def test_the_killed_and_the_survivors(tiny: Project) -> None:
    """A border that makes no difference, and a function that nobody tests, survive; a loop without end does not.

    A test may see what another has run: where none that runs the change fails, all are asked.
    """
    same = Explained("ops.py size", "if x < ZERO:", ("if x <= ZERO:", "if x < ONE:"), "-0.0 is 0.0")
    report = check(tiny, {"ops": ("test_ops.py",)}, [same])
    assert {(m.becomes, o.verdict) for m, o in report.outcomes["ops"]} == {
        ("ZERO = 1", Verdict.KILLED),
        ("if x <= ZERO:", Verdict.SURVIVED),
        ("if x >= ZERO:", Verdict.KILLED),
        ("return x", Verdict.KILLED),
        ("while n >= 0:", Verdict.KILLED),
        ("while n <= 0:", Verdict.KILLED),
        ("while n > 1:", Verdict.KILLED),
        ("n += 1", Verdict.TIMED_OUT),
        ("n -= 2", Verdict.KILLED),
        ("return 3 / x", Verdict.KILLED),
        ("return 4 * x", Verdict.KILLED),
        ("return x - x", Verdict.SURVIVED),
    }
    assert [(m.becomes, why) for m, why in report.explained] == [("if x <= ZERO:", "-0.0 is 0.0")]
    assert [m.becomes for m in report.unexplained] == ["return x - x"]
    assert report.stale == ["ops.py size: if x < ONE: is no mutant any more"]
    assert report.share == 10 / 12
    assert not report.passed
    assert (tiny.package / "ops.py").read_text() == TINY
    text = str(report)
    assert "ops                  12        9          1         2    83.3%" in text
    assert "ops.py size, line 8: -0.0 is 0.0\n  - if x < ZERO:\n  + if x <= ZERO:" in text
    (tiny.root / "s.toml").write_text(text[text.index("[[survivor]]") : text.index('why = ""') + 8])
    assert read(tiny.root / "s.toml") == [Explained("ops.py never_called", "return x + x", ("return x - x",), "")]


def test_tests_that_fail_by_themselves_are_told(tiny: Project) -> None:
    (tiny.tests / "test_ops.py").write_text(TESTS + "\ndef test_wrong():\n    assert size(1) == 3\n")
    with pytest.raises(ValueError, match=r"(?s)test_ops.py fails without any change.*test_wrong"):
        check(tiny, {"ops": ("test_ops.py",)}, [], sample=1)
    with pytest.raises(ValueError, match=r"has no test_opps\.py"):
        check(tiny, {"ops": ("test_opps.py",)}, [])
    with pytest.raises(ValueError, match="what is the room 'oops' called now"):
        check(tiny, {"oops": ("test_ops.py",)}, [])


def test_when_a_run_passes() -> None:
    def report(killed: int, explained: int, unexplained: int, stale: int = 0) -> Report:
        mutant = Mutant("x.py", 1, "", 0, 0, 1, "a", "b", "a", "b", "a")
        found = [(mutant, Outcome(Verdict.KILLED))] * killed
        found += [(mutant, Outcome(Verdict.SURVIVED))] * (explained + unexplained)
        return Report({"x": found}, [(mutant, "why")] * explained, [mutant] * unexplained, ["old"] * stale)

    assert report(95, 5, 0).passed
    assert report(10, 0, 0, stale=1).passed
    assert not report(94, 6, 0).passed
    assert not report(99, 0, 1).passed
    assert "Stale: old" in str(report(10, 0, 0, stale=1))


def test_rooms_that_are_not_in_the_table_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--room", "attic"])
    assert "attic" in capsys.readouterr().err
