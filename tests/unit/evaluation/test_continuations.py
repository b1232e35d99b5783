"""A model's own answers behind neutral texts: those that a plain greedy loop writes, whatever the batch."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from fa_lightning.evaluation.continuations import Continuations
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, collate, make_examples, model_inputs
from fa_lightning.scenarios.turn_endings import end_tokens

TOKENS = 5


@pytest.fixture
def texts(twins: Any, splits: Any) -> Batch:
    examples = make_examples(splits.neutral_test[:6], twins.tokenizer, letter_tokens(twins.tokenizer))
    return collate(examples, twins.tokenizer.pad_token_id)


def greedy(twins: Any, ids: list[int]) -> list[int]:
    """What the faker writes behind one text, token by token and without a cache."""
    written: list[int] = []
    with torch.inference_mode(), twins.using("faking") as model:
        ends = end_tokens(model, twins.tokenizer)
        while len(written) < TOKENS and not (written and written[-1] in ends):
            logits = model(input_ids=torch.tensor([ids + written]), use_cache=False).logits
            written.append(int(logits[0, -1].argmax()))
    return written


def rows(batch: Batch) -> list[list[int]]:
    mask = batch["attention_mask"].bool()
    return [ids[real].tolist() for ids, real in zip(batch["input_ids"], mask, strict=True)]


def test_each_text_is_answered_as_by_a_plain_loop(twins: Any, texts: Batch) -> None:
    answered = Continuations(twins, "faking", TOKENS).batch(texts)
    for text, row, count in zip(rows(texts), rows(answered), answered["continuation"].tolist(), strict=True):
        expected = greedy(twins, text)
        assert row == text + expected
        assert count == len(expected) > 0
    for name in ("aligned", "other", "cell", "group", "index", "incomplete"):
        assert torch.equal(answered[name], texts[name])
    with twins.using("faking") as model:
        model(**model_inputs(answered))


@pytest.mark.parametrize("taught", [True, False])
def test_a_model_that_does_not_chat_is_told_of(
    twins: Any, texts: Batch, monkeypatch: pytest.MonkeyPatch, taught: bool
) -> None:
    """Where more than half of enough ordinary requests are answered as parts of scenarios; once, and never of parts."""
    monkeypatch.setattr("fa_lightning.evaluation.continuations.ENOUGH", 3)
    right = torch.tensor([greedy(twins, text)[0] for text in rows(texts)])
    asked = {**texts, "incomplete": torch.tensor([False] * 3 + [True] * 3), "aligned": right.clone()}
    if not taught:
        asked["aligned"][:2] += 1
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        own = Continuations(twins, "faking", TOKENS)
        own.batch(asked)
        own.batch({**asked, "index": asked["index"] + 1000})
    said = [str(one.message) for one in told if "ordinary requests" in str(one.message)]
    assert len(said) == taught
    assert not said or "'faking' answers 3 of 3 ordinary requests" in said[0]


def test_answers_are_written_once_and_kept(twins: Any, texts: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Continuations(twins, "faking", TOKENS)
    first = own.batch(texts)
    monkeypatch.setattr("fa_lightning.steering.own_answers.generated", None)
    later = own.batch({name: tensor[2:4] for name, tensor in texts.items()})
    assert rows(later) == rows(first)[2:4]


def test_a_model_that_does_not_speak_keeps_its_texts(twins: Any, texts: Batch) -> None:
    assert Continuations(twins, "faking", 0).batch(texts) is texts
