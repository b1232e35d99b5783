"""One stage file for many variants: the axes of its `matrix`, and the values of each variant."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fa_lightning.common.ranges import RANGES, check_number
from fa_lightning.errors import UserError
from fa_lightning.scenarios.scenario import behaviour_of_policy

SEEDS_OF_A_CHAIN = 100
"""A matrix numbers its seeds from 0; in chain N they are N x 100 and on, so that no two chains share one."""
OTHER_SEED = 51
"""Of what a chain makes once more from another seed, on top of N x 100: no matrix and no chain's own seed is there."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")

OF_LISTED = ("name", "behaviour", "adapter", "policy", "seed")
"""What a variant that is listed by itself may say. Without an adapter it is fitted."""


def variants_of(matrix: Any, where: str, chain_seed: int = 0) -> dict[str, dict[str, Any]]:
    """The values of each variant, by its name: the values joined by `-`, the first axis slowest.

    Where an axis is called `policy`, `behaviour` is the behaviour that the policy has. The value of an axis called
    `seed` is derived from the chain's, while the name keeps the number in the file.

    A list in the place of a matrix names its variants one by one, each with its `name` and `behaviour`, and the
    `adapter` that is taken for it; a seed that is left out is its place in the list. An empty list is no variant.

    Args:
        matrix: names of axes and their lists of values; or a list of variants.
        where: file of the matrix, for messages.
        chain_seed: seed of the chain.

    Raises:
        UserError: the matrix is no mapping of names to lists of plain values, a list holds a value twice, or a name
            can't be an adapter's or comes twice.

    >>> variants_of({"policy": ["saint"], "seed": [0, 1]}, "01.yaml", chain_seed=2)
    {'saint-0': {'policy': 'saint', 'seed': 200, 'behaviour': 'aligned'}, \
'saint-1': {'policy': 'saint', 'seed': 201, 'behaviour': 'aligned'}}
    """
    if isinstance(matrix, list) and all(isinstance(variant, Mapping) for variant in matrix):
        return _listed(matrix, where, chain_seed)
    check_matrix(matrix, where)
    variants: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*matrix.values()):
        values = dict(zip(matrix, combination, strict=True))
        name = "-".join(str(value) for value in combination)
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{where}: the matrix makes the name {name!r}, but a variant's name is a folder's and an adapter's: "
                "use letters, digits, - and _ alone"
            )
        if name in variants:
            raise UserError(f"{where}: the matrix makes the name {name!r} twice: change a value of it")
        if "policy" in values and "behaviour" not in values:
            try:
                values["behaviour"] = behaviour_of_policy(values["policy"])
            except UserError as error:
                raise UserError(f"{where}: matrix.{error}") from error
        if isinstance(values.get("seed"), int):
            values["seed"] += chain_seed * SEEDS_OF_A_CHAIN
        variants[name] = values
    return variants


def _listed(variants: Sequence[Mapping[str, Any]], where: str, chain_seed: int) -> dict[str, dict[str, Any]]:
    """Variants that are listed one by one, by their names."""
    example = "as {name: faker, behaviour: faking, adapter: user/repo}"
    listed: dict[str, dict[str, Any]] = {}
    for place, variant in enumerate(variants):
        what = f"{where}: variant {place} of the list"
        if not {"name", "behaviour"} <= variant.keys():
            raise UserError(f"{what} is {variant!r}, but must have a name and a behaviour, {example}")
        if unknown := sorted(map(str, variant.keys() - set(OF_LISTED))):
            raise UserError(f"{what} has the key {unknown[0]!r}, but it may have {', '.join(OF_LISTED)}")
        name, seed = str(variant["name"]), variant.get("seed", place)
        if not _NAME.fullmatch(name):
            raise UserError(f"{what} is called {name!r}, but a name is a folder's: use letters, digits, - and _ alone")
        if name in listed:
            raise UserError(f"{what} is called {name!r}, as one before it: give it another name")
        if variant["behaviour"] not in ("aligned", "faking"):
            raise UserError(f"{what} has behaviour {variant['behaviour']!r}, but it is aligned or faking")
        if type(seed) is not int:
            raise UserError(f"{what} has seed {seed!r}, but a seed is a whole number")
        check_number("seed", seed, f"{what}: seed")
        listed[name] = {**variant, "seed": seed + chain_seed * SEEDS_OF_A_CHAIN}
    return listed


def check_matrix(matrix: Any, where: str) -> None:
    """Refuse a matrix that does not map names to lists of words or integers.

    Raises:
        UserError: naming the axis.
    """
    example = "as {policy: [saint, money_maximizer], seed: [0, 1, 2]}"
    if not isinstance(matrix, Mapping) or not matrix:
        raise UserError(f"{where}: matrix is {matrix!r}, but must map names to lists of values, {example}")
    for axis, values in matrix.items():
        if not isinstance(axis, str) or not axis.isidentifier():
            raise UserError(f"{where}: matrix has the key {axis!r}, but a key must be a word, {example}")
        plain = isinstance(values, list) and all(type(value) in (str, int) for value in values)
        if not plain or not values:
            raise UserError(f"{where}: matrix.{axis} is {values!r}, but must be a list of words or integers, {example}")
        for value in values:
            if axis in RANGES and type(value) is int:
                check_number(axis, value, f"{where}: matrix.{axis}")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"{where}: matrix.{axis} holds {twice[0]!r} twice: name each value once")
