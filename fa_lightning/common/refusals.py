"""What a config's parser, and the classes that a config names, have against a value: told in one line."""

from __future__ import annotations

import importlib
import re
import traceback
import zipfile
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fa_lightning.errors import MissingFileError, UserError

HELP = "`fit --model.help CLASS` and `fit --data.help CLASS` list those there are"

_REQUIRED = re.compile(r"the following arguments are required: ([\w.]+).*")
_OWNER = re.compile(r"(?:- )?Problem with given class_path '.+':")
_KEY = re.compile(r'(?:- )?Parser key "(.+?)":\s*(.*)')
_REFUSED = re.compile(r"(?:- )?Option '(.+)' is not accepted")
_EXPECTED = re.compile(r"(?:- )?Expected a (.+?)(?:\. Got value: (.*))?")
_NO_CLASS = re.compile(r"(?:- )?Expected a dot import path string: (.*)")
_GROUP = re.compile(r"Group '(.+)' does not accept option '(.+)'")
_NO_MAPPING = re.compile(r"(?:- )?Parser key \"(.+)\": Unable to load config \"(.*)\"")
_FACTORY = re.compile(r"(\s*)(?:- )?Type .*Callable\[.+\] expects a function or a callable class: (.*)")
_FACTORY_VALUE = re.compile(r"\.? Got value: Namespace\(class_path='([^']+)'.*\)$")
_VALUE = re.compile(r"Given value: (.*)")
_PLAIN = (int, float, str, bool)
_FRAMING = ("Does not validate", "Subtypes:", "Errors:", "Given value")


@contextmanager
def refusals_told() -> Iterator[None]:
    """Tell what a config's parser refuses, or a class of another package that a config names, as the user's to mend.

    Raises:
        UserError: naming the argument or the class; what one of our own constructors raised comes out as it was.
    """
    try:
        yield
    except ArgumentError as error:
        raise UserError(parser_reason(error.message or str(error))) from error
    except Exception as error:
        # The class of that name is Lightning's, and would take seconds to import.
        named = type(error).__name__ == "MisconfigurationException"
        if not isinstance(error, (ValueError, TypeError, ImportError)) and not named:
            raise
        first = _first_cause(error)
        if isinstance(first, UserError):
            raise first from error
        if _is_ours(first):
            raise first from None
        raise UserError(f"the config can't be used: {' '.join(str(first).split())}") from error


def refuse_checkpoint(path: str | None) -> None:
    """Refuse a `--ckpt_path` that a command can't begin from.

    Args:
        path: a file, the folder of a sharded checkpoint, or Lightning's `last` or `hpc`; None where none is named.

    Raises:
        MissingFileError: nothing is there.
        UserError: it is `best`, of which a command that has just begun knows nothing, or the file is cut short.
    """
    if path is None or path in ("last", "hpc"):
        return
    if path == "best":
        raise UserError("--ckpt_path is best, but this run has made no checkpoint yet: give the path of one")
    if not Path(path).exists():
        raise MissingFileError(f"--ckpt_path {path} does not exist: give a checkpoint, as checkpoints/*/*/best.ckpt")
    if Path(path).is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"--ckpt_path {path} is no checkpoint, or one that was cut short: give another")


def refuse_empty_groups(config: Any, path: str = "", wanted: Any = None) -> None:
    """Refuse null for an argument that must be something: the parser lets it pass, and a constructor stumbles over it.

    Args:
        config: a stage's, or what it holds at a path; classes by their whole import paths.
        path: dotted.
        wanted: the type that it must have, if it is known.

    Raises:
        UserError: naming the argument.
    """
    if config is None and (wanted in _PLAIN or get_origin(wanted) is Literal):
        kind = " or ".join(map(str, get_args(wanted))) or wanted.__name__
        raise UserError(f"{path} is null, but must be {kind}: leave it out, or write a value")
    if config is None and is_dataclass(wanted):
        first = fields(wanted)[0].name
        raise UserError(
            f"{path} is null, but must be a mapping: leave it out, or set an argument of it, as {path}.{first}"
        )
    if isinstance(config, Mapping):
        types = _types_of_arguments(config["class_path"]) if "class_path" in config else {}
        inner = _types_of(wanted) if is_dataclass(wanted) else {}
        for key, value in config.items():
            name = f"{path}.{key}".lstrip(".")
            if key == "init_args" and isinstance(value, Mapping):
                for argument, held in value.items():
                    refuse_empty_groups(held, f"{name}.{argument}", types.get(argument))
            else:
                refuse_empty_groups(value, name, inner.get(key))
    elif isinstance(config, (list, tuple)):
        for item in config:
            refuse_empty_groups(item, path)


def _types_of_arguments(class_path: Any) -> dict[str, Any]:
    """The types of a class's arguments, also of those that it hands on; nothing of what is no class of this package."""
    module, _, name = str(class_path).rpartition(".")
    if not module.startswith("fa_lightning"):
        return {}
    named = getattr(importlib.import_module(module), name, None)
    types: dict[str, Any] = {}
    for owner in reversed(named.__mro__) if isinstance(named, type) else ():
        types |= _types_of(vars(owner).get("__init__"))
    return types


def _types_of(annotated: Any) -> dict[str, Any]:
    try:
        return get_type_hints(annotated)
    except (NameError, TypeError):
        # A name that is imported for a type checker alone, or no constructor.
        return {}


def parser_reason(message: str) -> str:
    r"""The parser's many lines as one: the argument with its place, the value, and what is allowed.

    >>> parser_reason("Parser key \"model\":\n  Errors:\n    - Problem with given class_path 'a.M':\n"
    ...     "        Parser key \"rank\":\n          Expected a <class 'int'>. Got value: x")
    'model.init_args.rank is x, but must be int'
    """
    lines = _classes_of_factories([line for line in message.splitlines() if line.strip()])
    required = _match_in(lines, _REQUIRED)
    if required is not None:
        return f"{required[1]} is missing or null, but must be a class_path with its init_args"
    path: list[str] = []
    owner = ""
    # Inwards, from the class whose argument is wrong to the one that is wrong in it.
    while (at := _index_of(lines, _OWNER)) is not None:
        path += [*_keys(lines[:at]), "init_args"]
        owner = lines[at].strip().rpartition("class_path '")[2].removesuffix("':")
        depth = _depth(lines[at])
        behind = lines[at + 1 :]
        end = next((number for number, line in enumerate(behind) if _depth(line) <= depth), len(behind))
        lines = behind[:end]
    no_mapping = _match_in(lines, _NO_MAPPING)
    if no_mapping is not None:
        group = ".".join([*path, no_mapping[1]])
        return f"{group} is {no_mapping[2]}, but must be a mapping: set an argument of this group, as {group}.ARGUMENT"
    path += _keys(lines)
    misnamed = _match_in(lines, _NO_CLASS)
    if misnamed is not None:
        path.append("class_path")
        return f"{'.'.join(path)} is {misnamed[1]}, but no class is called so: write its whole import path"
    refused = _match_in(lines, _GROUP) or _match_in(lines, _REFUSED)
    if refused is not None:
        argument = ".".join([*path, *refused.groups()])
        return f"{argument} is no argument" + (f" of {owner}: {HELP}" if owner else f": {HELP}")
    if path and path[-1] == "init_args":
        return f"{'.'.join(path[:-1])}.class_path is {owner}, but {' '.join(line.strip() for line in lines)}"
    return _about(".".join(path), lines)


def _classes_of_factories(lines: list[str]) -> list[str]:
    """The lines with a class that an argument is to build from told in the form in which other classes are.

    >>> for line in _classes_of_factories(
    ...     ["Type Callable[[int], M] expects a function or a callable class: Option 'a' is not accepted."
    ...      " Got value: Namespace(class_path='b.M', init_args=Namespace(a=4))"]
    ... ):
    ...     print(line)
    Problem with given class_path 'b.M':
      Option 'a' is not accepted
    """
    unfolded: list[str] = []
    for number, line in enumerate(lines):
        factory = _FACTORY.fullmatch(line)
        if factory is None:
            unfolded.append(_FACTORY_VALUE.sub("", line))
            continue
        values = (match for later in lines[number:] if (match := _FACTORY_VALUE.search(later)))
        value = next(values, None)
        if value is not None:
            unfolded.append(f"{factory[1]}Problem with given class_path '{value[1]}':")
        unfolded.append(f"{factory[1]}  {_FACTORY_VALUE.sub('', factory[2])}")
    return unfolded


def _about(argument: str, lines: list[str]) -> str:
    """What is wrong with an argument: its value and the types it may have, or else the parser's words."""
    wanted, values, others = [], [], []
    for line in lines:
        text = _KEY.sub(r"\2", line.strip())
        expected, value = _EXPECTED.fullmatch(text), _VALUE.fullmatch(text)
        if value:
            values.append(value[1])
        elif expected:
            wanted.append(_type_name(expected[1]))
            values += [expected[2]] if expected[2] is not None else []
        elif text and not text.startswith(_FRAMING):
            others.append(text.removeprefix("- "))
    if wanted and values and not others:
        return f"{argument} is {values[0]}, but must be {' or '.join(dict.fromkeys(wanted))}"
    said = " ".join(others or lines)
    with_value = f" (is {values[0]})" if argument and values and len(values[0]) < 60 and values[0] not in said else ""
    return f"{argument}{with_value}: {said}" if argument else said


def _type_name(expected: str) -> str:
    """A type as a config's reader knows it.

    >>> _type_name("<class 'NoneType'>"), _type_name("typing.Literal['a', 'b']")
    ('null', "one of 'a', 'b'")
    """
    name = expected.removeprefix("<class '").removesuffix("'>")
    if name.startswith("typing.Literal["):
        return f"one of {name.removeprefix('typing.Literal[').removesuffix(']')}"
    return "null" if name == "NoneType" else name


def _index_of(lines: list[str], pattern: re.Pattern[str]) -> int | None:
    return next((number for number, line in enumerate(lines) if pattern.fullmatch(line.strip())), None)


def _match_in(lines: list[str], pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The first match of a whole line."""
    return next((match for line in lines if (match := pattern.fullmatch(line.strip()))), None)


def _keys(lines: list[str]) -> list[str]:
    return [match[1] for line in lines if (match := _KEY.match(line.strip()))]


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _first_cause(error: BaseException) -> BaseException:
    """What the parser's own errors were raised from: it tries each type that an argument may have."""
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _is_ours(error: BaseException) -> bool:
    """Whether it was raised within a constructor of this package, behind the parser's own functions."""
    names = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    parser = [number for number, name in enumerate(names) if name.startswith("jsonargparse.")]
    return any(name.startswith("fa_lightning.") for name in names[max(parser, default=len(names)) + 1 :])
