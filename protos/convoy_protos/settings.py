"""Read a table of settings (TOML or JSON) into a frozen dataclass, strictly.

Every scenario section and every table of the round instructions is a dataclass beside the code it
configures; this is the one place where text becomes one.
"""

import dataclasses
import difflib
import hashlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from convoy_protos.errors import SettingsError

T = TypeVar("T")


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build `cls` from a table; unknown keys, wrong types and refused values are errors.

    Args:
        cls: A dataclass; nested dataclasses are read from nested tables.
        table: Keys are the field names.
        where: What to call the table in errors, for example "[training]".

    Raises:
        SettingsError: Names the table, the key and what is expected.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]  # T is a dataclass
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known) or 'none'}"
            )
            raise SettingsError(f"{where}: unknown key {key!r}; {hint}")
        values[key] = _convert(hints[key], value, f"{where} {key}")
    try:
        return cls(**values)
    except SettingsError:
        raise
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {error}") from error


def to_table(settings: Any) -> dict[str, Any]:
    """The inverse of `from_table`: plain dicts, lists, strings, numbers; None is left out."""
    table: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = _plain(getattr(settings, field.name))
        if value is not None:
            table[field.name] = value
    return table


def settings_digest(settings_json: str) -> bytes:
    """SHA-256 of the tables of a round as they travel; the same for all vehicles of a sum."""
    return hashlib.sha256(settings_json.encode()).digest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_table(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _convert(kind: Any, value: Any, where: str) -> Any:  # noqa: PLR0911 - one return a kind of type
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (kind,) = [arg for arg in args if arg is not type(None)]
        return _convert(kind, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise SettingsError(
                f"{where}: expected one of {', '.join(map(str, args))}, got {value!r}"
            )
        return value
    if origin is tuple:
        return tuple(_convert(args[0], item, where) for item in _expect(list, value, where))
    if origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        table = _expect(dict, value, where)
        return {key: _convert(args[1], item, f"{where}.{key}") for key, item in table.items()}
    if dataclasses.is_dataclass(kind):
        return from_table(typing.cast("type[Any]", kind), _expect(dict, value, where), where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _expect(kind, value, where)


def _expect(kind: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SettingsError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value
