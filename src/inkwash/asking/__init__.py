"""Asking: from what people say, or a data set holds, to the conditions of a model's samples, and back to words."""

from inkwash.asking.alike import check_alike, differing
from inkwash.asking.ask import Ask, find_class, hideable, taken, takes
from inkwash.asking.asked import Asked
from inkwash.asking.guiding import check_guidance
from inkwash.asking.opened import opened
from inkwash.asking.rows import condition_of, encoder_of, with_conditions
from inkwash.asking.words import options

__all__ = [
    "Ask",
    "Asked",
    "check_alike",
    "check_guidance",
    "condition_of",
    "differing",
    "encoder_of",
    "find_class",
    "hideable",
    "opened",
    "options",
    "taken",
    "takes",
    "with_conditions",
]
