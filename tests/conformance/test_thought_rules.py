"""The rules that tell a thought from an answer: up to the first token of an id that a row writes, and behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fa_lightning.errors import UserError
from tests.conformance.measures import generate
from tests.conformance.models import ALIKE, PROMPTS, batch_of, make_model
from tests.conformance.reference import NEW_TOKENS, Edit, edited_columns
from tests.conformance.steerers import FaLightning, make_edit, vector_for


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return make_model(request.param)


def by_hand(model: Any, side: str, mark: int, prompt: list[int]) -> tuple[list[int], Tensor]:
    """Greedy new tokens and their logits, everything computed anew at each step."""
    steerer, edit = FaLightning("mlp"), Edit(0, vector_for(), rule="all")
    tokens, logits = list(prompt), []
    for _ in range(NEW_TOKENS):
        new = tokens[len(prompt) :]
        end = len(prompt) + (new.index(mark) if mark in new else len(new))
        columns = torch.tensor(
            [[len(prompt) <= at <= end if side == "until" else at > end for at in range(len(tokens))]]
        )
        with edited_columns(model, edit, lambda hidden: steerer.edited(edit, hidden), columns), torch.no_grad():
            logits.append(model(torch.tensor([tokens]), use_cache=False).logits[0, -1])
        tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(logits)


def mark_in(model: Any) -> int:
    """A token that some prompts' unsteered texts hold in the middle, and others don't."""
    texts, _ = generate(model, batch_of(PROMPTS))
    counts = {token: sum(token in row[:-1].tolist() for row in texts) for token in texts[:, 1:-2].flatten().tolist()}
    return min(counts, key=lambda token: abs(counts[token] - len(PROMPTS) / 2))


@pytest.mark.parametrize("side", ["until", "after"])
@pytest.mark.parametrize("cached", [True, False])
def test_thought_and_answer_are_steered_apart(model: Any, side: str, cached: bool) -> None:
    mark = mark_in(model)
    batch = batch_of(PROMPTS, extra=2)
    lengths = None if cached else batch["attention_mask"].sum(1)
    with make_edit(f"{side}_{mark}").on(model, lengths):
        tokens, logits = generate(model, batch, use_cache=cached)
    for row, prompt in enumerate(PROMPTS):
        expected, expected_logits = by_hand(model, side, mark, prompt)
        assert tokens[row].tolist() == expected
        torch.testing.assert_close(logits[row], expected_logits, rtol=2e-4, atol=2e-4)


def test_both_together_are_all_that_is_written(model: Any) -> None:
    mark, batch = mark_in(model), batch_of(PROMPTS)
    with make_edit("generated").on(model):
        expected, expected_logits = generate(model, batch)
    with make_edit(f"until_{mark}").on(model), make_edit(f"after_{mark}").on(model):
        tokens, logits = generate(model, batch)
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(logits, expected_logits, rtol=2e-4, atol=2e-4)


def test_a_block_forgets_what_an_earlier_text_has_written(model: Any) -> None:
    mark, batch = mark_in(model), batch_of(PROMPTS)
    with make_edit(f"after_{mark}").on(model):
        first, _ = generate(model, batch)
        again, _ = generate(model, batch)
    assert torch.equal(first, again)


def test_a_mark_in_the_prompt_ends_no_thought(model: Any) -> None:
    batch = batch_of([PROMPTS[0]])
    with make_edit("generated").on(model):
        expected, _ = generate(model, batch)
    in_prompt = next(token for token in PROMPTS[0] if token not in expected[0].tolist())
    with make_edit(f"until_{in_prompt}").on(model):
        assert torch.equal(generate(model, batch)[0], expected)


def test_rows_that_may_change_places_are_refused(model: Any) -> None:
    with make_edit("after_7").on(model), pytest.raises(UserError, match="rows of the batch are alike"):
        generate(model, batch_of(ALIKE), num_beams=2)
    embeddings = model.get_input_embeddings()(torch.tensor([PROMPTS[0]]))
    with make_edit("after_7").on(model), pytest.raises(UserError, match="called with inputs_embeds"):
        model(inputs_embeds=embeddings)
