"""Sweet spots, the other concepts and short beside long pairs, on effects that were planted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fa_lightning.scenarios.opposites.texts import OppositePair
from fa_lightning.studies.vectors.concepts import Concept
from fa_lightning.studies.vectors.data import Draw
from fa_lightning.studies.vectors.measures import judged
from fa_lightning.studies.vectors.result import VectorsResult

LAYERS, DOSES, PROMPTS, DRAWS = [3, 7], [-0.1, 0.1, 0.2], 6, 2
HELD_OUT = tuple(OppositePair("yes", "no", f"prompt {number}") for number in range(PROMPTS))
CONCEPTS = [Concept(name, {}, HELD_OUT) for name in ("up", "left")]
KEYS = [("up", "short"), ("up", "long"), ("left", "short"), ("left", "long"), ("", "random")]
WHOLE, BROKEN = [0.0, 0.05], [math.log(3.0), 0.05]


def planted(
    added: dict[tuple[str, str], Tensor], fluency: dict[tuple[str, str], Tensor] | None = None
) -> VectorsResult:
    """What the study says of effects (layers, doses, prompts of both concepts) that all draws of a kind share."""
    draws = [Draw(*key, number) for key in KEYS for number in range(DRAWS)]
    nothing, whole = torch.zeros(len(LAYERS), len(DOSES), 2 * PROMPTS), torch.tensor(WHOLE).expand(2, 3, 2)
    # What short pairs leave out points the way of all; what long pairs leave out lies at a right angle to it.
    ahead, aside = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[0.0, 1.0]] * 2)
    tensors = {
        "added": torch.stack([added.get((draw.concept, draw.kind), nothing) for draw in draws]),
        "fluency": torch.stack([(fluency or {}).get((draw.concept, draw.kind), whole) for draw in draws]),
        "direction": torch.stack([ahead for _ in draws]),
        "rest": torch.stack([aside if draw.kind == "long" else ahead for draw in draws]),
    }
    return judged(tensors, draws, CONCEPTS, LAYERS, DOSES, 0.0, "from_1", 6, {}, 1.0)


def effects(own: float, other: float = 0.0) -> Tensor:
    """At layer 7 and dose .2: on prompts of the first concept and of the second."""
    values = torch.zeros(2, 3, 2 * PROMPTS)
    values[1, 2, :PROMPTS] = own + torch.arange(PROMPTS) / 10
    values[1, 2, PROMPTS:] = other * torch.tensor([1.0, -1.0] * (PROMPTS // 2))
    return values


def test_the_sweet_spot_is_the_largest_effect_with_whole_texts() -> None:
    up = effects(2.0, 0.5)
    up[0, 1, :PROMPTS] = 1.0
    up[1, 0, :PROMPTS] = 9.0  # steers the other way
    up[1, 1, :PROMPTS] = 8.0  # texts are broken
    fluency = torch.tensor(WHOLE).repeat(2, 3, 1)
    fluency[1, 1] = torch.tensor(BROKEN)
    result = planted({("up", "short"): up}, {("up", "short"): fluency})
    spot = result.spots[0]
    assert (spot.concept, spot.kind, spot.layer, spot.dose) == ("up", "short", 7, 0.2)
    assert spot.effect.value == pytest.approx(2.25)
    assert spot.effect.ci95[0] < 2.25 < spot.effect.ci95[1]
    assert spot.others.value == pytest.approx(0.5), "whatever the sign"
    assert math.isnan(spot.random.value), "random vectors do nothing here"
    (broken,) = [point for point in result.at("up", "short") if not point.is_fluent]
    assert (broken.layer, broken.dose, broken.perplexity_ratio) == (7, 0.1, pytest.approx(3.0))


def test_each_half_of_the_prompts_is_judged_where_the_other_half_is_best() -> None:
    up = torch.zeros(2, 3, 2 * PROMPTS)
    even, odd = torch.arange(0, PROMPTS, 2), torch.arange(1, PROMPTS, 2)
    up[0, 1, even], up[0, 1, odd] = 5.0, 1.0
    up[1, 2, even], up[1, 2, odd] = 2.0, 3.0
    spot = planted({("up", "short"): up}).spots[0]
    assert (spot.layer, spot.dose) == (3, 0.1), "all prompts together"
    assert spot.effect.value == pytest.approx((2.0 + 1.0) / 2)


def test_a_random_vector_is_searched_as_the_others_are_by_sign_too() -> None:
    random = torch.zeros(2, 3, 2 * PROMPTS)
    random[0, 1, :PROMPTS] = 0.5
    random[1, 2, :PROMPTS] = -2.0
    random[0, 0, :PROMPTS] = 9.0  # below 0, no dose is tried
    spot = planted({("up", "short"): effects(3.0), ("", "random"): random}).spots[0]
    assert spot.random.value == pytest.approx(2.0)


def test_where_nothing_has_an_effect_there_is_no_spot() -> None:
    spot = planted({}).spots[0]
    assert spot.layer is None
    assert math.isnan(spot.effect.value)


def test_short_pairs_beside_long_ones() -> None:
    result = planted({("up", "short"): effects(3.0), ("up", "long"): effects(1.0)})
    pairs = result.pairs[0]
    assert pairs.difference.value == pytest.approx(2.0)
    assert (pairs.layer, pairs.short, pairs.long, pairs.across) == (7, 1.0, 0.0, 1.0)
    assert math.isnan(result.pairs[1].difference.value)


def test_a_vector_is_judged_on_its_own_concept() -> None:
    left = effects(0.25, other=0.0)
    left = torch.cat([left[..., PROMPTS:], left[..., :PROMPTS]], dim=-1)
    result = planted({("left", "short"): left})
    assert [(spot.concept, spot.kind) for spot in result.spots if spot.layer is not None] == [("left", "short")]
