"""Wrappers that take a denoiser and give a denoiser: guidance and its rules, clipping, fixed chunks, other paths."""

from inkwash.guidance.along import Along, highest, same_noise
from inkwash.guidance.chunked import Chunked
from inkwash.guidance.clipped import Clipped, revised
from inkwash.guidance.fitted import Fitted
from inkwash.guidance.guided import Guided, check_interval
from inkwash.guidance.rules import AnyRule, Apg, Cfg, CfgZero, Rescaled, Rule, Terms

__all__ = [
    "Along",
    "AnyRule",
    "Apg",
    "Cfg",
    "CfgZero",
    "Chunked",
    "Clipped",
    "Fitted",
    "Guided",
    "Rescaled",
    "Rule",
    "Terms",
    "check_interval",
    "highest",
    "revised",
    "same_noise",
]
