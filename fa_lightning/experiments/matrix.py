"""One stage file for many variants: its `matrix` of values, and the config of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fa_lightning.common.ranges import RANGES, check_number
from fa_lightning.common.user_files import read_yaml
from fa_lightning.errors import UserError
from fa_lightning.scenarios.scenario import behaviour_of_policy

MATRIX = "matrix"
Values = dict[str, Any]
"""The value of each axis, by its name."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def matrix_of(path: Path) -> dict[str, list[Any]] | None:
    """The `matrix` section of a stage file; None where it has none, and so is one stage.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is no config, the section is no mapping of names to lists of plain values, or a list holds a value
            twice.
    """
    content = read_config(path)
    if MATRIX not in content:
        return None
    matrix = content[MATRIX]
    example = "as {policy: [saint, money_maximizer], seed: [0, 1, 2]}"
    if not isinstance(matrix, Mapping) or not matrix:
        raise UserError(f"{path}: matrix is {matrix!r}, but must map names to lists of values, {example}")
    for axis, values in matrix.items():
        if not isinstance(axis, str) or not axis.isidentifier():
            raise UserError(f"{path}: matrix has the key {axis!r}, but a key must be a word, {example}")
        plain = isinstance(values, list) and all(type(value) in (str, int) for value in values)
        if not plain or not values:
            raise UserError(f"{path}: matrix.{axis} is {values!r}, but must be a list of words or integers, {example}")
        for value in values:
            if axis in RANGES and type(value) is int:
                check_number(axis, value, f"{path}: matrix.{axis}")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"{path}: matrix.{axis} holds {twice[0]!r} twice: name each value once")
    return dict(matrix)


def expand(path: Path) -> dict[str, tuple[Values, str]]:
    """The stages of a file with a matrix, by name: each combination's values, and the config that they make, as YAML.

    A name is the values joined by `-`, the first axis slowest: `saint-0`, `saint-1`. In the file's values `{seed}`
    stands for the combination's seed (an integer where it is the whole value), and where an axis is called `policy`,
    `{behaviour}` for the behaviour that the policy has.

    Raises:
        UserError: a name can't be an adapter's or comes twice, a placeholder is unknown, or an axis is not used.
    """
    matrix = matrix_of(path) or {}
    content = {key: value for key, value in read_config(path).items() if key != MATRIX}
    stages: dict[str, tuple[Values, str]] = {}
    for values in _combinations(path, matrix):
        name = "-".join(str(values[axis]) for axis in matrix)
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{path}: the matrix makes the name {name!r}, but a variant's name is a folder's and an adapter's: use "
                "letters, digits, - and _ alone"
            )
        if name in stages:
            raise UserError(f"{path}: the matrix makes the name {name!r} twice: change a value of it")
        used: set[str] = set()
        filled = _filled(content, values, path, used)
        unused = sorted(set(matrix) - used - ({"policy"} if "behaviour" in used else set()))
        if unused:
            raise UserError(
                f"{path}: matrix.{unused[0]} has no effect: no value of the file holds {{{unused[0]}}}. Put it where "
                "the variants differ, or leave it out of the matrix"
            )
        stages[name] = (values, yaml.safe_dump(filled, sort_keys=False))
    return stages


def refuse_matrix(words: Sequence[str]) -> None:
    """Refuse a plain command on a file that stands for many stages.

    Args:
        words: of the command line.

    Raises:
        UserError: naming the way.
    """
    for path in _configs(words):
        if matrix_of(path) is not None:
            raise UserError(
                f"--config {path} has a matrix, so it stands for {len(expand(path))} stages and not for one. Run them "
                f"with `fit --experiment {path.parent}`; --refit {path.stem}/NAME makes one of them again"
            )


def _combinations(path: Path, matrix: Mapping[str, list[Any]]) -> Iterator[Values]:
    for combination in itertools.product(*matrix.values()):
        values = dict(zip(matrix, combination, strict=True))
        if "policy" in values and "behaviour" not in values:
            try:
                values["behaviour"] = behaviour_of_policy(values["policy"])
            except UserError as error:
                raise UserError(f"{path}: matrix.{error}") from error
        yield values


def _filled(value: Any, values: Values, path: Path, used: set[str], where: str = "") -> Any:
    """`value` with its placeholders filled; the axes that were used are added to `used`."""
    if isinstance(value, Mapping):
        if len(value) == 1 and next(iter(value)) in values and next(iter(value.values())) is None:
            raise UserError(f'{path}: {where} holds {{{next(iter(value))}}} without quotes: write "{{...}}" in quotes')
        return {key: _filled(one, values, path, used, f"{where}.{key}".lstrip(".")) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, values, path, used, f"{where}.{number}") for number, one in enumerate(value)]
    if not isinstance(value, str):
        return value
    names = _PLACEHOLDER.findall(value)
    unknown = [name for name in names if name not in values]
    if unknown:
        raise UserError(
            f"{path}: {where} holds {{{unknown[0]}}}, but the matrix gives only "
            f"{', '.join(f'{{{name}}}' for name in values)}"
        )
    used.update(names)
    whole = _PLACEHOLDER.fullmatch(value)
    return values[whole[1]] if whole else _PLACEHOLDER.sub(lambda match: str(values[match[1]]), value)


def _configs(words: Sequence[str]) -> Iterator[Path]:
    """The files that a command line names by --config."""
    for place, word in enumerate(words):
        option, _, value = word.partition("=")
        if option in ("--config", "-c"):
            value = value or (words[place + 1] if place + 1 < len(words) else "")
            # Without one, the parser asks for it.
            if value:
                yield Path(value)


def read_config(path: Path) -> Mapping[str, Any]:
    """What a config file holds.

    Raises:
        MissingFileError: there is no such file, or it is a folder.
        UserError: it is no YAML, empty, or no mapping; naming the file and the line.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        held = "is empty" if content is None else f"holds a {type(content).__name__}"
        example = "give a YAML file that maps trainer, model and data to their arguments, as those in configs do"
        raise UserError(f"{path} {held}: {example}")
    return content
