"""Dataclasses to JSON and back, checking every key and type on the way in."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import os
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fa_lightning.common.files import write_atomically
from fa_lightning.errors import UserError

_T = TypeVar("_T")


def encode(value: Any, where: str) -> Any:
    """`value` as JSON types; fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((item.name, getattr(value, item.name)) for item in dataclasses.fields(value))
        return {name: encode(part, f"{where}.{name}") for name, part in pairs if part is not None}
    if isinstance(value, dict):
        return {str(name): encode(part, f"{where}.{name}") for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(part, f"{where}[{index}]") for index, part in enumerate(value)]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold: give numbers, texts, lists or dicts")


def decode(kind: Any, value: Any, where: str) -> Any:
    """`value` from JSON as an object of type `kind`.

    Raises:
        UserError: the value does not fit; the message names its place.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        _expect(value in arguments, where, value, " or ".join(map(json.dumps, arguments)))
        return value
    if origin in (Union, UnionType):
        return None if value is None else decode(arguments[0], value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where)
    if origin is dict:
        _expect(isinstance(value, dict), where, value, "an object")
        return {name: decode(arguments[1], part, f"{where}.{name}") for name, part in value.items()}
    if origin is list:
        _expect(isinstance(value, list), where, value, "a list")
        return [decode(arguments[0], part, f"{where}[{index}]") for index, part in enumerate(value)]
    if origin is tuple:
        _expect(isinstance(value, list) and len(value) == len(arguments), where, value, f"{len(arguments)} numbers")
        pairs = enumerate(zip(arguments, value, strict=True))
        return tuple(decode(part_kind, part, f"{where}[{index}]") for index, (part_kind, part) in pairs)
    if kind is float:
        _expect(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)), where, value, kind)
        return math.nan if value is None else float(value)
    if kind is bool:
        _expect(isinstance(value, bool), where, value, "true or false")
        return value
    _expect(isinstance(value, kind) and not isinstance(value, bool), where, value, kind)
    return value


def read_dataclass(kind: type[_T], path: Path) -> _T | None:
    """What a stage wrote to `path` as JSON; None where there is no such file.

    Raises:
        UserError: the file is damaged or of another program; the message names the file and the place in it.
    """
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not whole JSON ({error}): run the stage again") from error
    value: _T = decode(kind, raw, str(path))
    return value


def write_dataclass(path: Path, value: Any, indent: int = 2) -> None:
    """Write a dataclass as JSON, all or nothing; numbers that are not finite become null, since JSON has no nan.

    Raises:
        TypeError: a value has no JSON form; the message names its place.
    """
    text = json.dumps(encode(value, path.name), indent=indent, allow_nan=False, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode())


def _decode_dataclass(kind: type[_T], value: Any, where: str) -> _T:
    """`value`, a JSON object, as a `kind`, checking its keys."""
    _expect(isinstance(value, dict), where, value, "an object")
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    required = {
        name
        for name, item in fields.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    }
    # `encode` leaves out what is None.
    left_out = {name: None for name in required - set(value) if type(None) in get_args(hints[name])}
    missing, unknown = sorted(required - set(value) - set(left_out)), sorted(set(value) - set(fields))
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    if unknown:
        raise UserError(f"{where} has the unknown {', '.join(unknown)}; allowed are {', '.join(fields)}")
    return kind(**left_out, **{name: decode(hints[name], part, f"{where}.{name}") for name, part in value.items()})


def _expect(holds: bool, where: str, value: Any, wanted: type | str) -> None:
    """Raise a ValueError that names the place unless `holds`."""
    if not holds:
        name = (
            wanted
            if isinstance(wanted, str)
            else {"float": "a number", "int": "a whole number"}.get(wanted.__name__, "a text")
        )
        raise UserError(f"{where} is {json.dumps(value)[:60]}, but should be {name}")
