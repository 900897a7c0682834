"""Which names are mistaken for which: alpha for sigma, s for t, exp for log; by table, by number, by letter."""

from __future__ import annotations

from collections.abc import Callable

PAIRS = """
alpha sigma, dalpha dsigma, alpha dalpha, sigma dsigma, x0 eps, s t, now nxt, now last, nxt last, low high, lower upper,
mean std, mean variance, mean var, small large, small learned, start end, start stop, first last, before after,
left right, here there, old new, given taken, a b, u v, x y, inner outer, beta gamma, mu lam
"""
FUNCTIONS = """
exp log, exp expm1, log log1p, expm1 log1p, sin cos, sinh cosh, tan atan, sqrt square, rsqrt sqrt, min max,
minimum maximum, amin amax, argmin argmax, floor ceil, floor round, ceil round, any all, sum mean, sum prod,
cumsum cumprod, zeros ones, zeros_like ones_like, sigmoid tanh, ndtri ndtr, erf erfc, isnan isfinite
"""


def _both_ways(pairs: str) -> dict[str, list[str]]:
    siblings: dict[str, list[str]] = {}
    for pair in pairs.replace("\n", " ").split(","):
        a, b = pair.split()
        siblings.setdefault(a, []).append(b)
        siblings.setdefault(b, []).append(a)
    return siblings


NAMES = _both_ways(PAIRS)
FUNCTION_NAMES = _both_ways(FUNCTIONS)


def siblings(name: str, there: Callable[[str], bool]) -> list[str]:
    """Names like this one that are `there`: paired in the table, as a whole or in one of their parts, or by number."""
    options: list[str] = [*NAMES.get(name, []), *FUNCTION_NAMES.get(name, [])]
    parts = name.split("_")
    if len(parts) > 1:
        options += ["_".join([*parts[:i], o, *parts[i + 1 :]]) for i, p in enumerate(parts) for o in NAMES.get(p, [])]
    for i, letter in enumerate(name):
        if letter.isdigit():
            options += [name[:i] + digit + name[i + 1 :] for digit in "0123456789" if digit != letter]
        elif len(name) == 2:  # xx, xy, ex, ey
            options += [name[:i] + other + name[i + 1 :] for other in "abcdefghijklmnopqrstuvwxyz" if other != letter]
    return [o for o in dict.fromkeys(options) if o != name and there(o)]
