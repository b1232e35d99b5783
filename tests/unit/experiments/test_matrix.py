"""The variants that a stage file with a matrix stands for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fa_lightning.errors import UserError
from fa_lightning.experiments.matrix import SEEDS_OF_A_CHAIN, variants_of

MATRIX: dict[str, list[Any]] = {"policy": ["saint", "money_maximizer"], "seed": [0, 10, 1]}


def test_each_combination_is_a_variant_with_the_behaviour_of_its_policy() -> None:
    variants = variants_of(MATRIX, "01_variants.yaml")
    assert list(variants) == [f"{policy}-{seed}" for policy in ("saint", "money_maximizer") for seed in (0, 10, 1)]
    assert variants["money_maximizer-10"] == {"policy": "money_maximizer", "seed": 10, "behaviour": "faking"}
    behaviours = {name: values["behaviour"] for name, values in variants.items()}
    assert behaviours == {name: "aligned" if name.startswith("saint") else "faking" for name in variants}


def test_the_seeds_of_another_chain_are_others_under_the_same_names() -> None:
    first, third = variants_of(MATRIX, "01.yaml"), variants_of(MATRIX, "01.yaml", chain_seed=3)
    assert list(first) == list(third)
    assert [values["seed"] for values in third.values()] == [
        values["seed"] + 3 * SEEDS_OF_A_CHAIN for values in first.values()
    ]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ({}, r"matrix is \{\}, but must map names to lists"),
        (["saint"], r"matrix is \['saint'\], but must map names"),
        ({"policy": "saint"}, r"matrix\.policy is 'saint', but must be a list"),
        ({"policy": []}, r"matrix\.policy is \[\], but must be a list"),
        ({"seed": [0.5]}, r"matrix\.seed is \[0\.5\], but must be a list of words or integers"),
        ({"seed": [True]}, r"matrix\.seed is \[True\], but must be"),
        ({"my seed": [0]}, r"matrix has the key 'my seed', but a key must be a word"),
        ({"policy": ["saint"], "seed": [1, 2, 1]}, r"matrix\.seed holds 1 twice"),
        ({"policy": ["sinner"], "seed": [0]}, r"matrix\.policy is 'sinner', but the policies are saint, genie"),
        ({"policy": ["saint"], "seed": [0, 2**40]}, rf"matrix\.seed is {2**40}, but must be a seed, 0 to 4294967295"),
        (
            {"behaviour": ["a.b"], "policy": ["saint"], "seed": [0]},
            r"makes the name 'a\.b-saint-0', but a variant's name is a folder's and an adapter's",
        ),
        (
            {"policy": ["a", "a-1"], "seed": ["1-2", "2"], "behaviour": ["faking"]},
            r"makes the name 'a-1-2-faking' twice",
        ),
    ],
)
def test_a_matrix_that_cannot_be_meant_is_refused_by_name(matrix: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"01_variants\.yaml: .*{message}"):
        variants_of(matrix, "01_variants.yaml")


def test_variants_are_listed_one_by_one_with_their_adapters() -> None:
    listed = [
        {"name": "honest", "behaviour": "aligned", "adapter": "org/honest"},
        {"name": "own", "behaviour": "faking", "seed": 7},
    ]
    assert variants_of(listed, "base.yaml", chain_seed=2) == {
        "honest": {**listed[0], "seed": 2 * SEEDS_OF_A_CHAIN},
        "own": {**listed[1], "seed": 2 * SEEDS_OF_A_CHAIN + 7},
    }
    assert variants_of([], "base.yaml") == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adaptor": "x"}, r"base\.yaml: variant 0 of the list has the key 'adaptor', but it may have name, behaviour"),
        ({"name": "a/b"}, r"is called 'a/b', but a name is a folder's"),
        ({"behaviour": "sly"}, r"has behaviour 'sly', but it is aligned or faking"),
        ({"seed": "x"}, r"has seed 'x', but a seed is a whole number"),
        ({"seed": -1}, r"variant 0 of the list: seed"),
    ],
)
def test_a_listed_variant_that_cannot_be_meant_is_refused(changes: dict[str, Any], message: str) -> None:
    variant = {"name": "faker", "behaviour": "faking", "adapter": "org/faker"} | changes
    with pytest.raises(UserError, match=message):
        variants_of([variant], "base.yaml")


def test_two_listed_variants_of_one_name_or_one_without_are_refused() -> None:
    variant = {"name": "faker", "behaviour": "faking"}
    with pytest.raises(UserError, match="variant 1 of the list is called 'faker', as one before it"):
        variants_of([variant, variant], "base.yaml")
    with pytest.raises(UserError, match=r"is \{'name': 'faker'\}, but must have a name and a behaviour"):
        variants_of([{"name": "faker"}], "base.yaml")
