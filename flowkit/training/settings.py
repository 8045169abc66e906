"""A recipe's fields from outside: `field=value` on the command line, the whole of it as TOML, and back from a checkpoint."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints

from flowkit.errors import UsageError, WeightsError
from flowkit.training.recipe import Recipe

Value = TypeVar("Value")


def with_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with every "field=value" of `settings` in place; nested fields are "engine.max_displacement=64".

    A value is written as in TOML, quotes and brackets may be left out: `precision=fp32`, `size=128,192` (height, width),
    `stages.0.batch=4`, `stages=[]`, `iterations=none`. All of them hold at once, whatever their order; of two for one field
    the last. UsageError for a field that does not exist, naming those that do, and for values that do not fit.
    """
    wanted = _Wanted()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: give field=value")
        place = wanted
        for name in path.strip().split("."):
            place.setting = place.setting or setting
            place = place.inside.setdefault(name, _Wanted())
        place.text, place.setting = text.strip(), setting
    return _replaced(recipe, wanted)


def recipe_from(base: Recipe, saved: Mapping[str, Any]) -> Recipe:
    """The recipe whose fields a checkpoint has kept, of the class of `base`; WeightsError when they do not fit."""
    from pydantic import TypeAdapter, ValidationError

    try:
        known = {field.name for field in fields(base)}
        return TypeAdapter(type(base)).validate_python({k: v for k, v in saved.items() if k in known})
    except (ValidationError, UsageError) as error:
        raise WeightsError(
            f"the checkpoint's recipe is not one of this version of flowkit: {_reason(error)}"
        ) from error


def as_toml(recipe: Recipe) -> str:
    """Every field with what it means, as TOML; none is written as a comment, for TOML has no such value."""
    return "\n".join(_table(recipe, "")).strip() + "\n"


# --- setting ---------------------------------------------------------------------------------------------------------


@dataclass
class _Wanted:
    """What is asked of a field: its value, as text, and of the fields inside; `setting` is one that asks, for messages."""

    text: str | None = None
    setting: str = ""
    inside: dict[str, _Wanted] = field(default_factory=dict)


def _replaced(value: Any, wanted: _Wanted) -> Any:
    """`value`, a dataclass, with what is wanted of its fields, all at once: they are checked together."""
    known = [item.name for item in fields(value)]
    hints = get_type_hints(type(value))
    new = {}
    for name, asked in wanted.inside.items():
        if name not in known:
            raise UsageError(f"--set {asked.setting}: there is no field {name!r}; known: {', '.join(known)}")
        new[name] = getattr(value, name)
        if asked.text is not None:
            new[name] = _parsed(hints[name], new[name], asked.text, asked.setting)
        if asked.inside:
            new[name] = _inside(new[name], asked)
    return replace(value, **new)


def _inside(current: Any, wanted: _Wanted) -> Any:
    """`current` with what is wanted of the fields, items or keys inside."""
    if is_dataclass(current):
        return _replaced(current, wanted)
    for name, asked in wanted.inside.items():
        if isinstance(current, tuple) and name.isdigit() and asked.text is None:
            index = int(name)
            if index >= len(current):
                raise UsageError(f"--set {asked.setting}: there are {len(current)} of them, counted from 0")
            current = (*current[:index], _replaced(current[index], asked), *current[index + 1 :])
        elif isinstance(current, dict) and asked.text is not None and not asked.inside:
            current = {**current, name: _literal(asked.text)}
        else:
            raise UsageError(f"--set {asked.setting}: nothing of that name is inside")
    return current


def _parsed(hint: Any, current: Any, text: str, setting: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if is_dataclass(current):
        known = ", ".join(field.name for field in fields(current))
        raise UsageError(f"--set {setting}: it has fields of its own; set one of them: {known}")
    literal = _literal(text)
    if isinstance(current, tuple) and not isinstance(literal, list | tuple):
        literal = [literal] if text else []
    try:
        return TypeAdapter(hint).validate_python(literal)
    except ValidationError as error:
        raise UsageError(f"--set {setting}: {_reason(error)}") from error


def _literal(text: str) -> Any:
    """What TOML makes of the text; with brackets where there are commas, a plain string at last."""
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for form in (text, f"[{text}]") if "," in text else (text,):
        try:
            return tomllib.loads(f"value = {form}")["value"]
        except tomllib.TOMLDecodeError:
            continue
    return [part.strip() for part in text.split(",")] if "," in text else text


def _reason(error: Exception) -> str:
    """The first complaint in one line."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


# --- writing ---------------------------------------------------------------------------------------------------------


def _table(value: Any, path: str) -> Iterator[str]:
    """The plain fields of a dataclass, then its tables."""
    meanings, tables = _meanings(type(value)), []
    for own in (each.name for each in fields(value)):
        item = getattr(value, own)
        name = f"{path}.{own}".lstrip(".")
        if is_dataclass(item) or (isinstance(item, dict) and item):
            tables.append((name, "[{}]", [item], own))
        elif isinstance(item, tuple) and item and is_dataclass(item[0]):
            tables.append((name, "[[{}]]", list(item), own))
        else:
            yield from _comment(meanings.get(own, ""))
            yield f"# {own} = none" if item is None else f"{own} = {_written(item)}"
    for name, brackets, items, own in tables:
        yield ""
        yield from _comment(meanings.get(own, ""))
        for item in items:
            yield brackets.format(name)
            yield from _table(item, name) if is_dataclass(item) else (f"{k} = {_written(v)}" for k, v in item.items())


def _comment(meaning: str) -> list[str]:
    return textwrap.wrap(meaning, 110, initial_indent="# ", subsequent_indent="# ")


def _written(item: Any) -> str:
    if isinstance(item, dict):
        return "{" + ", ".join(f"{key} = {_written(value)}" for key, value in item.items()) + "}"
    if isinstance(item, tuple | list):
        return "[" + ", ".join(map(_written, item)) + "]"
    if isinstance(item, float):
        return repr(item)  # TOML writes inf and nan as Python does
    return json.dumps(item, ensure_ascii=False)


def _meanings(kind: type) -> dict[str, str]:
    """What the strings below the fields of a dataclass say, those of its bases included."""
    meanings: dict[str, str] = {}
    for cls in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                meanings[statement.target.id] = " ".join(str(following.value.value).split())
    return meanings
