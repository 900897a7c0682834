"""Components by name: how a table `{kind = "ddim", eta = 0.5}` becomes `Ddim(eta=0.5)`, and back.

A field that holds one of several components is annotated with their union and `OneOf()`:

    path: Annotated[Linear | Table, OneOf()]

In a recipe or a model's config it is then a table told apart by `kind`, a bare string for its kind alone, or, for a
class outside the package, `kind = "their.module:Class"`. pydantic validates, and is imported only when it does.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import import_module
from operator import attrgetter
from typing import Annotated, Any, get_args, get_origin

_TRUST = "trust"
_WORD = r"[A-Za-z][\w+-]*"


class OneOf:
    """Marks a field that holds one of the components in its annotation's union, or a user's own."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Tell the members of the union apart by `kind`, and let in instances and users' own classes."""
        from pydantic_core import PydanticCustomError, core_schema

        by_kind = {kind: handler.generate_schema(member) for kind, member in members_of(source).items()}
        known = core_schema.tagged_union_schema(by_kind, discriminator="kind")

        def validate(value: Any, inner: Callable[[Any], Any], info: Any) -> Any:
            if is_dataclass(value) and not isinstance(value, type):
                return value
            if isinstance(value, str):
                value = {"kind": value}
            if not isinstance(value, dict) or "kind" not in value:
                raise PydanticCustomError("kind_missing", "needs a `kind`: {kinds}", {"kinds": ", ".join(by_kind)})
            if ":" in str(value["kind"]):
                if not (info.context or {}).get(_TRUST):
                    raise PydanticCustomError(
                        "kind_untrusted",
                        "{name} is code from outside inkwash; if you trust its author, say so with --trust",
                        {"name": value["kind"]},
                    )
                return _foreign(value)
            return inner(value)

        return core_schema.with_info_wrap_validator_function(validate, known)


def to_table(component: Any) -> dict[str, Any]:
    """A component as plain tables, lists, numbers and strings. None is left out: a default says it."""
    # A user's class that extends one of ours inherits its kind, and would come back as ours: its own name tells.
    foreign = type(component).__module__.partition(".")[0] != "inkwash"
    names = [f.name for f in fields(component) if not (foreign and f.name == "kind")]
    plain = {n: _plain(v) for n in names if (v := getattr(component, n)) is not None}
    return {"kind": _name(type(component))} | plain if foreign else plain


def foreign(table: Mapping[str, Any]) -> Iterator[str]:
    """The kinds in a component's table that are code from outside the package."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from foreign(value)
        elif key == "kind" and ":" in str(value):
            yield str(value)


def from_table(annotation: Any, table: Any, *, trust: bool = False) -> Any:
    """A value of `annotation` from plain data; pydantic's ValidationError (a ValueError) if it does not fit.

    trust: whether classes from outside the package may be imported and built.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(annotation).validate_python(table, context={_TRUST: trust})


def from_text(annotation: Any, text: str, what: str) -> Any:
    """A component as people write it on a command line: its kind, `ddim`, or with settings, `ddim(eta=0.5)`.

    what: what to call it in errors ("sampler"). Classes from outside the package are trusted: who writes the line may
    run code. Raises ValueError with the nearest kinds for one that does not exist, and for settings that do not fit.
    """
    kind, bracket, inside = text.strip().partition("(")
    kinds = kinds_of(annotation)
    if kind not in kinds and ":" not in kind:
        near = difflib.get_close_matches(kind, kinds, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(kinds)}."
        raise ValueError(f"There is no {what} {kind!r}. {hint}")
    try:
        if bracket and not inside.endswith(")"):
            raise ValueError("the bracket is not closed")
        # A bare word is a string, as in dpm++(variant=bh1).
        words = re.sub(rf"=\s*({_WORD})\s*(?=[,)}}])", _quoted, inside)
        settings = tomllib.loads(f"v = {{{words.removesuffix(')')}}}")["v"]
        return from_table(annotation, {"kind": kind, **settings}, trust=True)
    except ValueError as error:
        errors = getattr(error, "errors", None)
        said = "; ".join(_told(one) for one in errors()) if errors else str(error)
        raise ValueError(
            f"The {what} {text!r} cannot be made: {said}. Write it as {kind}, or with settings as in ddim(eta=0.5)."
        ) from error


def split_texts(text: str) -> list[str]:
    """A list as people write it, `heun, ddim(eta=0.5, added=large)`, cut at the commas outside of brackets."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def in_text(component: Any) -> str:
    """A component as `from_text` reads it, with what differs from its defaults."""
    settings = {
        f.name: getattr(component, f.name)
        for f in fields(component)
        if f.name != "kind" and getattr(component, f.name) not in (None, _default(f))
    }
    inside = ", ".join(f"{name}={_toml(value)}" for name, value in settings.items())
    kind = str(to_table(component)["kind"])
    return f"{kind}({inside})" if inside else kind


def kinds_of(annotation: Any) -> list[str]:
    """The kinds an annotation with `OneOf()` lets a table name."""
    return list(members_of(annotation))


def members_of(annotation: Any) -> dict[str, type]:
    """The classes of a union, or of a union annotated with `OneOf()`, by kind."""
    union = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return {m.__dataclass_fields__["kind"].default: m for m in get_args(union) or (union,)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return to_table(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _toml(value: Any) -> str:
    """A value as TOML writes it, but a word without quotation marks, and a component with nothing set as its kind."""
    if is_dataclass(value) and not isinstance(value, type):
        text = in_text(value)
        return text if "(" not in text else _toml(to_table(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(json.dumps(v) if isinstance(v, str) else _toml(v) for v in value) + "]"
    return value if isinstance(value, str) and re.fullmatch(_WORD, value) else json.dumps(value)


def _quoted(match: re.Match[str]) -> str:
    word = match[1]
    return match[0] if word in ("true", "false", "inf", "nan") else match[0].replace(word, f'"{word}"')


def _told(error: dict[str, Any]) -> str:
    """One of pydantic's errors: where, and what."""
    where = ".".join(str(part) for part in error["loc"][1:])
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{where}: {message}" if where else message


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _foreign(table: dict[str, Any]) -> Any:
    module, _, name = table["kind"].partition(":")
    try:
        cls = attrgetter(name)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{table['kind']} cannot be imported: {error}") from error
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ValueError(f"{table['kind']} is {cls!r}, not a dataclass: only dataclasses can be named as a kind.")
    settings = {k: v for k, v in table.items() if k != "kind"}
    names = [f.name for f in fields(cls) if f.init and f.name != "kind"]
    if unknown := settings.keys() - names:  # pydantic would pass over them in a class that is no `Component`
        raise ValueError(f"{table['kind']} has no {', '.join(sorted(unknown))}: it takes {', '.join(names)}.")
    return from_table(cls, settings, trust=True)
