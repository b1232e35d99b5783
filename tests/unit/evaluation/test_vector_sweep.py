"""What is measured of a steering vector, against plain forwards with a hook of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.evaluation.vector_sweep import VectorPoint, VectorSweep, sweep, sweet_spot
from fa_lightning.scenarios.opposites.texts import OppositePair
from fa_lightning.scenarios.text_form import TextForm
from fa_lightning.steering.constant import strength_of_dose
from fa_lightning.steering.intervention import Intervention

HELD_OUT = [
    OppositePair("I agree.", "I refuse to do it.", "Will you do it?"),
    OppositePair("Yes.", "No.", "Do you like the new rules of this house?"),
    OppositePair("He was kind.", "He was not.", "How was he?"),
]
PROMPTS = ["Who are you?", "What will you do tomorrow when nobody looks?"]
TOKENS = 6


@pytest.fixture
def model(backbone: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(backbone).eval()


@pytest.fixture
def form(tiny_tokenizer: Any) -> TextForm:
    return TextForm(tiny_tokenizer, is_chat=True)


@pytest.fixture
def vector() -> Intervention:
    return Intervention(Site(0, positions="from_1"), torch.randn(32, generator=torch.Generator().manual_seed(3)))


@contextmanager
def added(model: Any, shift: torch.Tensor) -> Iterator[None]:
    """A vector added to what the first block returns, from the second token on: for uncached calls of one text."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        hidden = output if torch.is_tensor(output) else output[0]
        hidden = hidden.clone()
        hidden[:, 1:] += shift
        return hidden if torch.is_tensor(output) else (hidden, *output[1:])

    handle = model.model.layers[0].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def attached_counter(module: Any, runs: list[int]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda *_: runs.append(1))
    try:
        yield
    finally:
        handle.remove()


def likelihood(model: Any, asked: tuple[int, ...], answer: tuple[int, ...], shift: torch.Tensor) -> float:
    """Of an answer, token by token."""
    total, ids = 0.0, list(asked)
    with torch.no_grad(), added(model, shift):
        for token in answer:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            total += float(logits.double().log_softmax(-1)[token])
            ids.append(token)
    return total


def written(model: Any, asked: tuple[int, ...], ends: set[int], shift: torch.Tensor) -> tuple[int, ...]:
    """A greedy text, token by token."""
    ids = list(asked)
    with torch.no_grad(), added(model, shift):
        while len(ids) < len(asked) + TOKENS:
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in ends:
                break
            ids.append(token)
    return tuple(ids[len(asked) :])


@pytest.mark.parametrize("kept", [(), (0,)])
def test_effect_and_fluency_are_those_of_plain_forwards(
    model: Any, form: TextForm, vector: Intervention, kept: tuple[int, ...]
) -> None:
    tried = VectorSweep(model, form, HELD_OUT, PROMPTS, TOKENS, batch_size=4, layers=kept)
    strength, none = 0.7, torch.zeros(32)
    point = tried.point(vector.at(strength), dose=0.3)
    shift = strength * vector.regressor.constant_edit()
    effects = []
    for pair in HELD_OUT:
        asked = form.asked(pair.prompt)
        odds = [
            likelihood(model, asked, form.answer(pair.positive, pair.prompt), edit)
            - likelihood(model, asked, form.answer(pair.negative, pair.prompt), edit)
            for edit in (shift, none)
        ]
        effects.append(odds[0] - odds[1])
    assert max(effects) - min(effects) > 0.01
    assert point.effect == pytest.approx(sum(effects) / len(effects), abs=1e-3)
    assert point.effect_ci95[0] < point.effect < point.effect_ci95[1]
    assert point.length == pytest.approx(float(shift.norm()), rel=1e-5)

    ends = {form.tokenizer.eos_token_id}
    texts = {
        kind: [written(model, form.asked(prompt), ends, edit) for prompt in PROMPTS]
        for kind, edit in (("steered", shift), ("plain", none))
    }
    assert texts["steered"] != texts["plain"]
    nats = {
        kind: -sum(likelihood(model, form.asked(prompt), text, none) for prompt, text in zip(PROMPTS, own, strict=True))
        / sum(map(len, own))
        for kind, own in texts.items()
    }
    expected = float(torch.tensor(nats["steered"] - nats["plain"]).exp())
    assert point.perplexity_ratio == pytest.approx(expected, rel=1e-3)
    assert point.sample == form.tokenizer.decode(texts["steered"][0], skip_special_tokens=True).strip()
    assert tried.unsteered.sample == form.tokenizer.decode(texts["plain"][0], skip_special_tokens=True).strip()


def test_what_lies_below_a_vector_runs_once(model: Any, form: TextForm, vector: Intervention) -> None:
    tried = VectorSweep(model, form, HELD_OUT, PROMPTS, TOKENS, layers=[0])
    runs: list[int] = []
    with attached_counter(model.model.layers[0].self_attn, runs):
        tried.added(vector)
        assert not runs
        tried.added(Intervention(Site(1, positions="from_1"), vector.regressor))
        assert len(runs) == 1


def test_without_held_out_answers_there_is_no_effect(model: Any, form: TextForm, vector: Intervention) -> None:
    point = VectorSweep(model, form, [], PROMPTS, TOKENS).point(vector, 0.1)
    assert point.effect != point.effect
    assert point.perplexity_ratio > 0


def test_a_sweep_scales_each_vector_to_its_dose(model: Any, form: TextForm, vector: Intervention) -> None:
    points = list(sweep([vector], [20.0], [0.1, -0.4], VectorSweep(model, form, HELD_OUT, PROMPTS, TOKENS)))
    assert [point.length for point in points] == pytest.approx([2.0, 8.0], rel=1e-5)
    assert points[0].multiplier > 0 > points[1].multiplier


def test_a_dose_needs_a_vector_and_the_norm_of_states(vector: Intervention) -> None:
    length = float(vector.regressor.constant_edit().norm())  # type: ignore[union-attr]
    assert strength_of_dose(vector, 0.5, 30.0) == pytest.approx(15 / length)
    vector.fingerprint = {"vector": {"norm": 10.0}}
    assert strength_of_dose(vector, -0.5) == pytest.approx(-5 / length)
    for wrong in ({}, {"vector": {"norm": "ten"}}, {"vector": {"norm": -1.0}}, {"vector": 3}):
        vector.fingerprint = wrong
        with pytest.raises(UserError, match=r"^dose needs the mean norm of states at the vector's site"):
            strength_of_dose(vector, 0.5)
    with pytest.raises(UserError, match="the edit of mean_shift is nothing"):
        strength_of_dose(Intervention(Site(0), torch.zeros(32)), 0.5, 1.0)


def test_the_sweet_spot_is_the_largest_effect_of_texts_that_are_still_whole() -> None:
    plain = VectorPoint(-1, 0.0, 0.0, 0.0, 0.0, (0.0, 0.0), 1.0, 0.05, "")
    weak = replace(plain, layer=3, dose=0.1, effect=1.0)
    strong = replace(weak, dose=0.2, effect=2.0, perplexity_ratio=1.4)
    garbled = replace(weak, dose=0.5, effect=5.0, perplexity_ratio=3.0)
    stuck = replace(weak, dose=0.6, effect=6.0, perplexity_ratio=0.4, repeated=0.9)
    assert sweet_spot([weak, strong, garbled, stuck], plain) is strong
    assert sweet_spot([replace(weak, effect=-1.0), garbled], plain) is None
