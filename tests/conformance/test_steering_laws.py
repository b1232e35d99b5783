"""This package under every law: all families and rules with one map, all parts with another, all maps on one family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance import laws
from tests.conformance.law_list import LAWS, Law, cases
from tests.conformance.models import FAMILIES
from tests.conformance.reference import Edit, Unsteered, edited_columns
from tests.conformance.steerers import METHODS, FaLightning, vector_for


def all_cases() -> list[Any]:
    found = {}
    for law in LAWS:
        for family, rule, component in cases(law, FaLightning()):
            found[law.check.__name__, family, rule, component, "shift" if component != "residual" else "mlp"] = law
        rule = cases(law, FaLightning())[0][1]
        for method in METHODS:
            found[law.check.__name__, "llama", rule, "residual", method] = law
            # GPT-2's attention returns a tuple, OPT's MLP flattened states.
            if law.check is laws.greedy_equals_recomputation:
                found[law.check.__name__, "gpt2", "from_2", "attention", method] = law
                found[law.check.__name__, "opt", "from_2", "mlp", method] = law
    return [pytest.param(law, *case[1:], id="-".join(case)) for case, law in found.items()]


@pytest.mark.parametrize(("law", "family", "rule", "component", "method"), all_cases())
def test_law(law: Law, family: str, rule: str, component: str, method: str, model_of: Callable[[str], Any]) -> None:
    law.check(FaLightning(method), model_of(family), Edit(0, vector_for(), rule=rule, component=component))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_unsteered_model_keeps_the_laws_so_a_broken_one_is_the_fault_of_steering(
    family: str, model_of: Callable[[str], Any]
) -> None:
    edit = Edit(0, vector_for(), rule="from_2")
    for check in (laws.batch_equals_singles, laws.padding_changes_nothing, laws.static_cache, laws.chunked_prefill):
        check(Unsteered(), model_of(family), edit)


GENERATED = ["greedy_equals_recomputation", "sampling_equals_recomputation", "beams_equal_recomputation"]
COMPILED = ["a_compiled_model_is_steered", "generate_compiles_nothing_unsteered"]


class Wrong(FaLightning):
    """Edits by hand in one wrong way; each is taken from a library in use."""

    def __init__(self, way: str) -> None:
        super().__init__("shift")
        self.way = way

    @contextmanager
    def steer(self, model: Any, edits: list[Edit], prompt_tokens: Tensor | None = None) -> Iterator[Any]:
        def change(hidden: Tensor) -> Tensor:
            edited = self.edited(edits[0], hidden).to(hidden.dtype)
            if self.way == "in_place":
                return hidden.copy_(edited)
            covered = torch.zeros(hidden.shape[:2], dtype=torch.bool)
            if self.way == "columns":  # of the call, padding and all
                covered[:, 2:] = True
            else:
                covered[0] = True
            return torch.where(covered[..., None], edited, hidden)

        with edited_columns(model, edits[0], change, torch.ones(1, 1, dtype=torch.bool)):
            yield model


@pytest.mark.parametrize(
    ("way", "rule", "broken"),
    [
        (
            "columns",
            "from_2",
            [
                "mixed_strengths_equal_singles",
                "padding_changes_nothing",
                "cache_on_equals_off",
                *GENERATED,
                "chunked_prefill",
            ],
        ),
        (
            "first_row",
            "all",
            ["batch_equals_singles", "padding_changes_nothing", "beams_equal_recomputation", *COMPILED],
        ),
        ("in_place", "all", ["earlier_readers_are_left_alone", *COMPILED]),
    ],
)
def test_the_laws_catch_what_other_libraries_do(
    way: str, rule: str, broken: list[str], model_of: Callable[[str], Any]
) -> None:
    caught = []
    others = (laws.several_edits_add_up, laws.a_failed_attachment_leaves_nothing, laws.save_then_load)
    for law in LAWS:
        if law.check not in others and (law.rules is None or rule in law.rules):
            try:
                law.check(Wrong(way), model_of("llama"), Edit(0, vector_for(), rule=rule))
            except AssertionError:
                caught.append(law.check.__name__)
    assert caught == broken
