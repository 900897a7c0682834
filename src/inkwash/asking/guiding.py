"""Whether a model can be guided as it is asked to be: pushed away from what it was never without, or told the scale."""

from __future__ import annotations

from inkwash.asking.ask import hideable, takes
from inkwash.guidance import Cfg
from inkwash.modelfolder import Config
from inkwash.sampling import Sampling


def check_guidance(
    config: Config, own: Sampling, *, weak: bool = False, negative: bool = False, also: bool = False, whose: str = ""
) -> None:
    """Raise ValueError where a model cannot be drawn with the guidance of these settings.

    weak, negative: whether there is another model, or a text, to push away from; also: whether there are further texts
    to follow, which is guidance at every scale; whose: said after the scale.
    """
    if (told := config.conditions.guidance) is not None:
        told.check(own.guidance)
        other = {"weak": weak, "negative": negative, "also": also}
        other |= {"rule": own.rule != Cfg(), "interval": own.interval is not None}
        if wrong := next((name for name, given in other.items() if given), None):
            raise ValueError(
                f"{wrong} is for a model that is guided as it is drawn, and this one has learned its teacher's "
                f"guidance and is told the scale, from {told.low:g} to {told.high:g}: leave {wrong} out."
            )
        return
    if (own.guidance != 1 or also) and not (hideable(config) or weak or negative):
        what, fix = f"guidance = {own.guidance}{whose}", "Use guidance = 1"
        if own.guidance == 1:
            what, fix = "also", "Leave it out"
        raise ValueError(
            f"{what} needs a model with classes, or with another condition that training hides at times, or a "
            f"weaker model or a negative text to push away from. {takes(config)} {fix}."
        )
    away = (("weak", weak), ("negative", negative))
    for name in [name for name, given in away if given and own.guidance == 1 and not also]:
        raise ValueError(f"{name} is what guidance pushes away from, and guidance = 1 is off. Try guidance = 2.")
