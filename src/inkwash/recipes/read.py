"""Reading recipes: TOML, overrides, and every mistake told at once with the nearest right name."""

from __future__ import annotations

import copy
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path as File
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from inkwash.kinds import OneOf, from_table, members_of, to_table
from inkwash.recipes.recipe import LENGTHS, Recipe, RecipeError

Tables = dict[str, Any]
"""A recipe as TOML reads it: tables in tables."""

NONE = "none"
"""What a condition is said to be that a model is not to have."""


def builtin_names() -> list[str]:
    """The names of the recipes that ship with the package."""
    return sorted(f.name.removesuffix(".toml") for f in files("inkwash.recipes").iterdir() if f.name.endswith(".toml"))


def builtin(name: str) -> Tables:
    """A shipped recipe's tables. Raises RecipeError with the nearest names for one that does not exist."""
    if name not in builtin_names():
        raise RecipeError(f"There is no built-in recipe {name!r}. {_nearest(name, builtin_names())}")
    return tomllib.loads(files("inkwash.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def read_recipe(
    source: str | File | Mapping[str, Any], overrides: Mapping[str, Any] | None = None, sets: Sequence[str] = ()
) -> Recipe:
    """A validated recipe.

    source: a .toml file, the name of a built-in recipe, tables, or any data source, which then gets the defaults;
    overrides: values by dotted name ({"train.steps": 100}), None meaning not given; sets: "key=value" in TOML. A kind
    among them that is not the recipe's drops the recipe's settings of the other kind; so does a net's preset that the
    recipe's kind of net does not have.
    Raises RecipeError with all mistakes.
    """
    mistakes: list[str] = []
    table = _tables(source)
    chosen = {key: value for key, value in (overrides or {}).items() if value is not None}
    changes = list(chosen.items())
    for text in sets:
        try:
            changes.append(_parse(text))
        except ValueError as error:
            mistakes.append(str(error))
    # A kind first: it may drop what a recipe set, and not what is set beside it.
    for key, value in sorted(_with_kind_of_preset(changes, table), key=lambda c: not c[0].endswith(".kind")):
        try:
            _put(table, key, value)
        except ValueError as error:
            mistakes.append(str(error))
    _say_one_length(table, [*chosen, *(s.partition("=")[0].strip() for s in sets)])
    _say_conditions(table)
    recipe: Recipe = checked(Recipe, table, mistakes)
    return recipe


def read_tables(file: str | File, table: Tables, sets: Sequence[str], mistakes: list[str]) -> Tables:
    """The tables of a file, those given in place of its own, and then "key=value"; what is wrong is noted."""
    tables = _tables(str(file)) if str(file).endswith(".toml") else {}
    whole = tables | {k: {**said, **v} for k, v in table.items() if isinstance(said := tables.get(k, {}), dict)}
    for text in sets:
        try:
            _put(whole, *_parse(text))
        except ValueError as error:
            mistakes.append(str(error))
    _say_one_length(
        whole, [*(f"train.{k}" for k in table.get("train", {})), *(s.partition("=")[0].strip() for s in sets)]
    )
    return whole


def _say_one_length(table: Tables, said: Sequence[str]) -> None:
    """How long is one fact with three names: what is said last replaces the others."""
    names = [k.removeprefix("train.") for k in said]
    given = {k for k in names if k in LENGTHS and table.get("train", {}).get(k) is not None}
    if len(given) == 1:
        table["train"] = {k: v for k, v in table["train"].items() if k in given or k not in LENGTHS}


def _say_conditions(table: Tables) -> None:
    """A condition given by its encoder's or its task's name alone has its own table.

    One that is "none" is none of the model's: TOML has no word for what is not there. Nor has it for partners.
    """
    data = table.get("data")
    if isinstance(data, dict) and data.get("pairs") == NONE:
        table["data"] = {key: value for key, value in data.items() if key != "pairs"}
    told = table.get("conditions")
    if NONE in (told, told.get("kind") if isinstance(told, dict) else None):
        table["conditions"] = {}
    elif isinstance(told, dict):
        kinds = {name: value.get("kind") if isinstance(value, dict) else value for name, value in told.items()}
        kept = {name: value for name, value in told.items() if kinds[name] != NONE}
        part = {"text": "encoder", "image": "task"}
        table["conditions"] = {n: {part[n]: v} if n in part and isinstance(v, str) else v for n, v in kept.items()}


def checked(cls: Any, table: Tables, mistakes: list[str]) -> Any:
    """A recipe from its tables. Raises RecipeError with all that is wrong with it, beside the mistakes made before."""
    _say_kinds(cls, table)
    unknown = _unknown(cls, table, "") + _unknown_preset(table.get("net"))
    mistakes = mistakes + unknown
    try:
        recipe = from_table(cls, table, trust=True)
    except ValueError as error:
        told, said = tuple(said.split(" ", 1)[0] for said in unknown), _explain(cls, error)
        mistakes += [one for one in said if not one.startswith(told)] if told else said
    if mistakes:
        said = list(dict.fromkeys(mistakes))
        head = "This recipe has a mistake:" if len(said) == 1 else f"This recipe has {len(said)} mistakes:"
        raise RecipeError("\n  - ".join([head, *said]), said)
    return recipe


def write_recipe(recipe: Recipe) -> str:
    """A recipe as TOML, every value spelled out."""
    import tomli_w

    return tomli_w.dumps(_without_kind(to_table(recipe)))


def _tables(source: str | File | Mapping[str, Any]) -> Tables:
    if isinstance(source, Mapping):
        return copy.deepcopy(dict(source))
    name = str(source)
    if name.endswith(".toml"):
        try:
            return tomllib.loads(File(name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            near = sorted(str(p) for p in File(name).parent.glob("*.toml")) if File(name).parent.is_dir() else []
            raise RecipeError(f"There is no recipe file {name}. {_nearest(name, [*near, *builtin_names()])}") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise RecipeError(f"{name} cannot be read as TOML: {error}.") from error
    return builtin(name) if name in builtin_names() else {"data": {"source": name}}  # ./name is a folder


def _put(table: Tables, key: str, value: Any) -> None:
    if isinstance(value, str):
        key = key.removesuffix(".kind")  # a component given by its kind
    *tables, last = key.split(".")
    for name in tables:
        inner = table.setdefault(name, {})
        if isinstance(inner, str):  # a component given by its kind alone
            inner = table[name] = {"kind": inner}
        if not isinstance(inner, dict):
            raise ValueError(f"{key} cannot be set: {name} is {inner!r}, not a table.")
        table = inner
    if isinstance(value, str) and isinstance(inner := table.get(last), dict) and inner.get("kind", value) == value:
        inner["kind"] = value
        return
    table[last] = value


def _with_kind_of_preset(changes: list[tuple[str, Any]], table: Tables) -> list[tuple[str, Any]]:
    """The changes, and the kind of net that has the preset among them where the recipe's own kind has other presets."""
    asked, own = dict(changes), table.get("net")
    kinds = {k: names for k, c in _members(_net()).items() if (names := _presets(c))}
    stated = str(own.get("kind") if isinstance(own, dict) else own)
    if stated not in kinds or asked.keys() & {"net", "net.kind"} or (preset := asked.get("net.preset")) is None:
        return changes
    has = [k for k in (stated, *kinds) if preset in kinds[k]]
    return [("net.kind", has[0]), *changes] if has else changes


def _parse(item: str) -> tuple[str, Any]:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set {item!r} is not of the form key=value, for example --set optim.lr=1e-3.")
    try:
        value = tomllib.loads(f"v = {text.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    return key.strip(), value


def _say_kinds(cls: Any, table: Tables) -> None:
    """Where a component's table does not say its kind, its keys do: the first that has them all, the default before.

    So `[optim] lr = 1e-3` is about the default optimiser, and `[sampler.method] eta = 0.5` can only mean ddim. A preset
    has the kind be one that has it: `[net] preset = "S"` is a dit.
    """
    for key, annotation in get_type_hints(cls, include_extras=True).items():
        inner = table.get(key)
        if not isinstance(inner, dict) or key not in _fields(cls):
            continue
        if (kinds := _members(annotation)) and "kind" not in inner:
            field = _fields(cls)[key]
            default = field.default if field.default_factory is MISSING else field.default_factory()
            ordered = dict.fromkeys([getattr(default, "kind", None) or next(iter(kinds)), *kinds])
            named = [k for k in ordered if inner.get("preset") in _presets(kinds[k])]
            fits = [k for k in named or ordered if inner.keys() <= _fields(kinds[k]).keys()]
            inner["kind"] = next(iter([*fits, *named, *ordered]))
        if (chosen := _class(annotation, inner)) is not None:
            _say_kinds(chosen, inner)


def _unknown(annotation: Any, value: Any, where: str) -> list[str]:
    """What is said of keys and kinds that do not exist, with the nearest that do."""
    cls = _class(annotation, value)
    if cls is None:
        kinds = _kinds(annotation)
        kind = value.get("kind") if isinstance(value, dict) else value
        if kinds and isinstance(kind, str) and ":" not in kind and kind not in kinds:
            return [f"{where} = {kind!r} is unknown. {_nearest(kind, kinds)}"]
        return []
    if not isinstance(value, dict):
        return []
    hints = get_type_hints(cls, include_extras=True)
    names = list(_fields(cls))
    said: list[str] = []
    for key, inner in value.items():
        path = f"{where}.{key}" if where else key
        if key not in names:
            at_top = [] if where else _elsewhere(cls, key)
            meant = f"Did you mean {' or '.join(at_top)}?" if at_top else _nearest(key, names, where)
            said.append(f"{path} is unknown. {meant}")
        else:
            said += _unknown(hints[key], inner, path)
    return said


def _unknown_preset(net: Any) -> list[str]:
    """What is said of a net's preset that its kind does not have, or no kind where the kind does not exist."""
    kinds = {k: names for k, c in _members(_net()).items() if (names := _presets(c))}
    preset, kind = (net.get("preset"), str(net.get("kind"))) if isinstance(net, dict) else (None, "")
    known = [kind] if kind in kinds else [] if kind in _members(_net()) or ":" in kind else list(kinds)
    if preset is None or not known or any(preset in kinds[k] for k in known):
        return []
    listed = "; ".join(f"{k}: {', '.join(names)}" for k, names in kinds.items())
    return [f"net.preset = {preset!r} is unknown{f' for {kind}' if kind in kinds else ''}. There are {listed}."]


def _explain(cls: Any, error: ValueError) -> list[str]:
    """pydantic's errors in this project's words, without those `_unknown` has told better."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return [str(error)]
    kinds = {k for a in get_type_hints(cls, include_extras=True).values() for k in _kinds(a)}
    said = []
    for one in errors():
        if one["type"] in ("unexpected_keyword_argument", "union_tag_invalid"):
            continue
        parts = [str(p) for p in one["loc"] if not (str(p) in kinds or "[" in str(p) or str(p) == "NoneType")]
        where = ".".join(parts) or "the recipe"
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "missing":
            said.append(f"{where} is missing.")
        elif one["type"] in ("value_error", "kind_missing", "kind_untrusted"):
            said.append(f"{where}: {message}")
        else:
            message = message.removeprefix("Input should be ")
            said.append(f"{where} = {one['input']!r} should be {message}.")
    return said


def _class(annotation: Any, value: Any) -> Any:
    """The dataclass that a table under this annotation describes, or None."""
    if get_origin(annotation) is Annotated and any(isinstance(m, OneOf) for m in get_args(annotation)[1:]):
        members = members_of(annotation)
        return members.get(value.get("kind", "") if isinstance(value, dict) else str(value))
    if get_origin(annotation) in (Union, UnionType):
        return next((c for a in get_args(annotation) if a is not NoneType and (c := _class(a, value))), None)
    return annotation if is_dataclass(annotation) else None


def _fields(cls: Any) -> dict[str, Field[Any]]:
    """A dataclass's fields by name; its class variables are none, and cannot be set."""
    return {f.name: f for f in fields(cls)}


def _presets(cls: Any) -> tuple[Any, ...]:
    """The names that a component's field `preset` takes; none where it has no such field."""
    return get_args(get_type_hints(cls)["preset"]) if "preset" in _fields(cls) else ()


def _net() -> Any:
    """How a recipe annotates its network."""
    return get_type_hints(Recipe, include_extras=True)["net"]


def _kinds(annotation: Any) -> list[str]:
    return list(_members(annotation))


def _members(annotation: Any) -> dict[str, Any]:
    """The components an annotation lets a table describe, by kind; none for other annotations."""
    if get_origin(annotation) is Annotated:
        is_choice = any(isinstance(m, OneOf) for m in get_args(annotation)[1:])
        return dict(members_of(annotation)) if is_choice else {}
    return {k: m for a in get_args(annotation) for k, m in _members(a).items()}


def _nearest(name: str, names: Sequence[str], where: str = "") -> str:
    shown = [n for n in names if n != "kind"]
    near = difflib.get_close_matches(name, shown, 1, 0.5)
    if not shown:
        return f"{where} has no settings besides its kind."
    dot = f"{where}." if where else ""
    return f"Did you mean {dot}{near[0]}?" if near else f"There {'are' if len(shown) > 1 else 'is'} {', '.join(shown)}."


def _elsewhere(cls: Any, key: str) -> list[str]:
    """The tables of a recipe that a key written at its top belongs into."""
    tables = []
    for table, annotation in get_type_hints(cls, include_extras=True).items():
        kinds = _kinds(annotation)
        classes = [_class(annotation, kind) for kind in kinds] if kinds else [annotation]
        if any(is_dataclass(c) and key in _fields(c) for c in classes):
            tables.append(f"{table}.{key}")
    return tables


def _without_kind(table: Tables) -> Tables:
    """Drop `kind` from tables whose place in the recipe says it already."""
    plain = ("train", "sampler", "evaluation")
    return {
        k: {n: v for n, v in t.items() if n != "kind"} if k in plain and isinstance(t, dict) else t
        for k, t in table.items()
        if k != "kind"
    }
