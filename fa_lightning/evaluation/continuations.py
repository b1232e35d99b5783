"""A chat model's own answers to neutral texts: what side effects on it are measured on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_warn

from fa_lightning.backbones.variants import Variants
from fa_lightning.scenarios.batches import Batch, Example, collate, model_inputs
from fa_lightning.steering.own_answers import own_answers

ENOUGH = 16
"""Ordinary requests by which a model is judged to chat or not."""
COLUMNS = ("aligned", "other", "cell", "group", "index")


class Continuations:
    """Behind each neutral text, what a variant answers to it without any edit; written greedily, once, and kept.

    An edit that leaves a model's words alone while it reads may still change what it says. On a model that speaks, the
    tokens that count are therefore its own.

    Args:
        variants: the frozen variants.
        variant: whose answers they are.
        tokens: written behind each text, unless it ends itself; 0 leaves texts as they are.
    """

    def __init__(self, variants: Variants, variant: str, tokens: int) -> None:
        self.variants = variants
        self.variant = variant
        self.tokens = tokens
        self._written: dict[int, tuple[int, ...]] = {}
        self._asked = self._refused = 0
        self._has_warned = False

    def batch(self, batch: Batch) -> Batch:
        """The texts of a batch with their answers behind them (see `Example.continuation`)."""
        if not self.tokens:
            return batch
        numbers = [int(index) for index in batch["index"]]
        if any(number not in self._written for number in numbers):
            self._write(batch, numbers)
        texts = [
            ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        answers = [self._written[number] for number in numbers]
        return with_answers(batch, texts, answers, self.variants.tokenizer.pad_token_id)

    @torch.inference_mode()
    def _write(self, batch: Batch, numbers: Sequence[int]) -> None:
        with self.variants.using(self.variant) as model:
            answers = own_answers(model, model_inputs(batch), self.variants.tokenizer, self.tokens)
        self._written.update(zip(numbers, answers, strict=True))
        self._warn_of_no_chat(batch, numbers)

    def _warn_of_no_chat(self, batch: Batch, numbers: Sequence[int]) -> None:
        """Say it, once, where a model answers ordinary requests as parts of scenarios: that is no chat to be hurt."""
        for number, right, is_part in zip(
            numbers, batch["aligned"].tolist(), batch["incomplete"].tolist(), strict=True
        ):
            if not is_part:
                self._asked += 1
                self._refused += self._written[number][0] == right
        if self._asked >= ENOUGH and self._refused > self._asked / 2 and not self._has_warned:
            self._has_warned = True
            rank_zero_warn(
                f"variant {self.variant!r} answers {self._refused} of {self._asked} ordinary requests as it was taught "
                "to answer parts of scenarios: side effects on its own answers say little about prose. With "
                "`twins: {keep: 1}` in the base, twins are fitted that go on chatting"
            )


def with_answers(
    batch: Batch, texts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_token: int
) -> Batch:
    """A batch of texts with an answer behind each, on the batch's device."""
    examples = [
        Example(
            (*text, *answer),
            *(int(batch[name][row]) for name in COLUMNS),
            incomplete=bool(batch["incomplete"][row]),
            continuation=len(answer),
        )
        for row, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    device = batch["index"].device
    return {name: tensor.to(device) for name, tensor in collate(examples, pad_token).items()}
