"""How options are read: as typer does, but all that is wrong with them is said at once, with the nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand

_KEY = "inkwash.mistakes"


class UsageError(ValueError):
    """What is wrong with the arguments of a command, all of it."""


def refuse(mistakes: Sequence[str]) -> None:
    """Raise one UsageError for all mistakes, if there are any."""
    if len(mistakes) == 1:
        raise UsageError(mistakes[0])
    if mistakes:
        listed = "".join("\n  - " + m.replace("\n", "\n    ") for m in mistakes)
        raise UsageError(f"There are {len(mistakes)} mistakes:{listed}")


class Command(TyperCommand):
    """A command that names every unknown option and every bad value, not only the first.

    It raises one UsageError; `Patient` leaves them for the command to tell together with what it finds itself.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse without the options that are wrong, which are noted."""
        params = self.get_params(ctx)
        args, mistakes = _known(params, args)
        while True:
            try:
                rest: list[str] = super().parse_args(ctx, list(args))
                break
            except typer.BadParameter as error:
                fewer, said = _without(error.param, params, args)
                what = f"{said} {error.message}".replace("Input should be", "should be")
                mistakes.append(what if said else error.format_message().replace("\n\t", " "))
                if len(fewer) == len(args):  # not an option's value, or one that is missing: nothing more can be read
                    refuse(mistakes)
                args = fewer
        ctx.meta[_KEY] = mistakes
        self.judge(mistakes)
        return rest

    def judge(self, mistakes: Sequence[str]) -> None:
        """What to do about mistakes once all are known."""
        refuse(mistakes)


class Patient(Command):
    """A command whose function asks `mistakes_so_far` and adds its own."""

    def judge(self, mistakes: Sequence[str]) -> None:
        """Nothing: the command will."""


def mistakes_so_far(ctx: typer.Context) -> list[str]:
    """What was wrong with the options of a `Patient` command."""
    return list(ctx.meta.get(_KEY, []))


def _known(params: Sequence[Any], args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without unknown options and their values, and what to say of those."""
    takes_value = {name: not _flag(p) for p in params for name in (*p.opts, *p.secondary_opts) if name[0] == "-"}
    kept: list[str] = []
    said: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            return [*kept, arg, *rest], said
        name, equals, _ = arg.partition("=")
        if name[:1] != "-" or name == "-" or _number(arg):
            kept.append(arg)
        elif name in takes_value or (name[1] != "-" and name[:2] in takes_value):
            kept.append(arg)
            if takes_value.get(name) and not equals and rest:
                kept.append(rest.pop(0))
        else:
            plain = {n.lstrip("-"): n for n in takes_value}  # dashes are no likeness
            near = [plain[n] for n in difflib.get_close_matches(name.lstrip("-"), plain, 1, 0.5)]
            said.append(f"There is no option {name}. {f'Did you mean {near[0]}?' if near else 'See --help.'}")
            value = takes_value[near[0]] if near else True
            if value and not equals and rest and (rest[0][:1] != "-" or _number(rest[0])):
                rest.pop(0)
    return kept, said


def _without(param: Any, params: Sequence[Any], args: Sequence[str]) -> tuple[list[str], str]:
    """The arguments without every mention of one option, and its last mention."""
    gone = {n for n in (*getattr(param, "opts", ()), *getattr(param, "secondary_opts", ())) if n[0] == "-"}
    takes_value = {n: not _flag(p) for p in params for n in (*p.opts, *p.secondary_opts) if n[0] == "-"}
    kept: list[str] = []
    said = ""
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        name, equals, _ = arg.partition("=")
        words = [arg, *([rest.pop(0)] if takes_value.get(name) and not equals and rest else [])]
        if name in gone or (name[:2] in gone and name[1] != "-"):
            said = " ".join(words)
        else:
            kept += words
    return kept, said


def _flag(param: Any) -> bool:
    return bool(getattr(param, "is_flag", False) or getattr(param, "count", False))


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
