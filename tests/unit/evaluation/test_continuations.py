"""A model's own answers behind neutral texts: those that a plain greedy loop writes, whatever the batch."""

from __future__ import annotations

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


def test_answers_are_written_once_and_kept(twins: Any, texts: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Continuations(twins, "faking", TOKENS)
    first = own.batch(texts)
    monkeypatch.setattr("fa_lightning.evaluation.continuations.generated", None)
    later = own.batch({name: tensor[2:4] for name, tensor in texts.items()})
    assert rows(later) == rows(first)[2:4]


def test_a_model_that_does_not_speak_keeps_its_texts(twins: Any, texts: Batch) -> None:
    assert Continuations(twins, "faking", 0).batch(texts) is texts
