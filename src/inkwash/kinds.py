"""Components by name: how a table `{kind = "ddim", eta = 0.5}` becomes `Ddim(eta=0.5)`, and back.

A field that holds one of several components is annotated with their union and `OneOf()`:

    path: Annotated[Linear | Table, OneOf()]

In a recipe or a model's config it is then a table told apart by `kind`, a bare string for its kind alone, or, for a
class outside the package, `kind = "their.module:Class"`. pydantic validates, and is imported only when it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, get_args

_TRUST = "trust"


class OneOf:
    """Marks a field that holds one of the components in its annotation's union, or a user's own."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Tell the members of the union apart by `kind`, and let in instances and users' own classes."""
        from pydantic_core import PydanticCustomError, core_schema

        members = get_args(source) or (source,)
        by_kind = {m.__dataclass_fields__["kind"].default: handler.generate_schema(m) for m in members}
        known = core_schema.tagged_union_schema(by_kind, discriminator="kind")

        def validate(value: Any, inner: Callable[[Any], Any], info: Any) -> Any:
            if is_dataclass(value) and not isinstance(value, type):
                return value
            if isinstance(value, str):
                value = {"kind": value}
            if isinstance(value, dict) and "kind" not in value:
                raise PydanticCustomError("kind_missing", "needs a `kind`: {kinds}", {"kinds": ", ".join(by_kind)})
            if isinstance(value, dict) and ":" in str(value["kind"]):
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
    kind = {} if "kind" in component.__dataclass_fields__ else {"kind": _name(type(component))}
    return kind | {f.name: _plain(v) for f in fields(component) if (v := getattr(component, f.name)) is not None}


def from_table(annotation: Any, table: Any, *, trust: bool = False) -> Any:
    """A value of `annotation` from plain data; pydantic's ValidationError (a ValueError) if it does not fit.

    trust: whether classes from outside the package may be imported and built.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(annotation).validate_python(table, context={_TRUST: trust})


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return to_table(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _foreign(table: dict[str, Any]) -> Any:
    module, _, name = table["kind"].partition(":")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{table['kind']} cannot be imported: {error}") from error
    return from_table(cls, {k: v for k, v in table.items() if k != "kind"}, trust=True)
