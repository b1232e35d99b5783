"""What a model itself answers to texts: what a model that speaks is measured on, and held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fa_lightning.scenarios.turn_endings import end_tokens, until_end
from fa_lightning.steering.generation import generated


def own_answers(model: Any, inputs: Mapping[str, Any], tokenizer: Any, tokens: int) -> list[tuple[int, ...]]:
    """Token ids of a greedy answer behind each prompt, with the token that ends it.

    Args:
        model: a causal LM, in the condition that it is to answer in.
        inputs: what it is called with for left-padded prompts (see `generated`).
        tokenizer: the model's.
        tokens: of an answer, unless it ends itself.
    """
    ends = end_tokens(model, tokenizer)
    written = generated(model, inputs, tokenizer.pad_token_id, tokens, ends=ends)
    answers = []
    for ids in written[:, inputs["input_ids"].shape[1] :].tolist():
        words, has_ended = until_end(ids, ends)
        answers.append(tuple(ids[: len(words) + has_ended]))
    return answers
