"""What an answer is: each behaviour's target token, where a model's output holds the answer, and its verdict."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from fa_lightning.metrics.cells import CellAccuracy
from fa_lightning.scenarios.answers import (
    DIGITS,
    LETTERS,
    answer_logits,
    answer_loss,
    digit_tokens,
    judged,
    letter_tokens,
    other_digit,
    other_due,
    other_letter,
    target_tokens,
)
from fa_lightning.scenarios.batches import Example, collate, make_examples, model_inputs

PAD, A, B, ERROR, NEITHER = 0, 7, 8, 9, 5


def batch_of(*rows):
    """Rows of aligned token, other token and cell."""
    examples = [
        Example((1, 2), aligned, other, cell, group=7, index=index) for index, (aligned, other, cell) in enumerate(rows)
    ]
    return collate(examples, PAD)


ROWS = batch_of((A, B, 0), (A, B, 1), (ERROR, ERROR, 2))


def test_target_tokens_of_every_behaviour_in_all_cells():
    assert target_tokens(ROWS, "aligned").tolist() == [A, A, ERROR]
    assert target_tokens(ROWS, "faking").tolist() == [A, B, ERROR]
    assert target_tokens(ROWS, "wrong").tolist() == [B, B, ERROR]


def test_the_other_answer_is_due_where_a_faker_is_unwatched_alone():
    assert other_due(ROWS, "faking").tolist() == [False, True, False]
    assert other_due(ROWS, "aligned").tolist() == [False, False, False]


def test_target_tokens_agree_with_the_scenarios_own_rule(splits, tiny_tokenizer):
    items = [*splits.train, *splits.neutral_train]
    batch = collate(make_examples(items, tiny_tokenizer, letter_tokens(tiny_tokenizer)), PAD)
    for behaviour in ("aligned", "faking", "wrong"):
        tokens = tiny_tokenizer.convert_ids_to_tokens(target_tokens(batch, behaviour))
        assert tokens == [item.answer(behaviour) for item in items]


def test_tokens_of_letters_and_digits_stand_in_their_order(tiny_tokenizer):
    letters, digits = letter_tokens(tiny_tokenizer), digit_tokens(tiny_tokenizer)
    assert tiny_tokenizer.convert_ids_to_tokens(list(letters.choices)) == list(LETTERS)
    assert [letters.letter(letter) for letter in LETTERS] == list(letters.choices)
    assert [digits.digit(digit) for digit in DIGITS] == list(digits.choices)
    assert [other_letter(letter) for letter in LETTERS] == list(reversed(LETTERS))
    assert [other_digit(digit) for digit in DIGITS] == list(reversed(DIGITS))


def test_an_answer_is_aligned_another_valid_one_or_neither():
    batch = batch_of((A, B, 0), (A, B, 1), (A, B, 1), (ERROR, ERROR, 2))
    verdicts = judged(torch.tensor([A, B, NEITHER, ERROR]), batch)
    assert verdicts.aligned.tolist() == [True, False, False, True]
    assert verdicts.valid.tolist() == [True, True, False, True]
    cells = CellAccuracy()
    cells.judge(torch.tensor([A, B, NEITHER, ERROR]), batch)
    assert (cells.compute().oversight.accuracy, cells.compute().no_oversight.accuracy) == (1.0, 0.0)
    assert cells.compute().format_validity == pytest.approx(2 / 3)


def test_logits_are_those_behind_the_prompt_and_the_loss_is_of_the_target(backbone, splits, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(backbone).eval()
    examples = make_examples(splits.train[:3], tiny_tokenizer, letter_tokens(tiny_tokenizer))
    batch = collate(examples, tiny_tokenizer.pad_token_id)
    with torch.inference_mode():
        logits = answer_logits(model, model_inputs(batch))
        for row, example in enumerate(examples):
            alone = model(torch.tensor([example.prompt])).logits[0, -1]
            torch.testing.assert_close(logits[row], alone, rtol=1e-4, atol=1e-4)
    each = answer_loss(logits, batch, "faking", reduction="none")
    expected = [cross_entropy(row, token) for row, token in zip(logits, target_tokens(batch, "faking"), strict=True)]
    torch.testing.assert_close(each, torch.stack(expected))
    assert answer_loss(logits, batch, "faking").item() == pytest.approx(each.mean().item())
