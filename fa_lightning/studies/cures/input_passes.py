"""A variant asked with something put around its prompts, counted beside conditions that see the prompts alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import LetterTokens, answer_logits
from fa_lightning.scenarios.batches import Batch, Example, collate, make_examples, model_inputs
from fa_lightning.scenarios.prompts import Tokenizer
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.studies.cures.inputs import InputCure
from fa_lightning.studies.cures.learned_prompt import LearnedPrompt

TEXTS = "neutral texts"
"""The name that neutral texts have among the test sets."""


def asked_alone(
    items: Sequence[Scenario], tokenizer: Tokenizer, answers: LetterTokens, max_tokens: int
) -> list[tuple[Scenario, Example]]:
    """Items whose own prompt is no longer than `max_tokens`, as they are asked: in the order of their numbers."""
    examples = make_examples(items, tokenizer, answers)
    return [pair for pair in zip(items, examples, strict=True) if len(pair[1].prompt) <= max_tokens]


def examples_behind(
    cure: InputCure, items: Sequence[Scenario], tokenizer: Tokenizer, answers: LetterTokens, max_tokens: int, most: int
) -> list[Example]:
    """What `make_examples` makes of the items, with an input around each; the same numbers, groups, answers.

    Args:
        cure: prepared.
        items: scenarios or neutral texts.
        tokenizer: of the model.
        answers: its answer tokens.
        max_tokens: items whose own prompt is longer are left out, as they are without the input.
        most: tokens that the model's context holds.

    Raises:
        UserError: a prompt does not fit the context any more.
    """
    examples: list[Example] = []
    for item, alone in asked_alone(items, tokenizer, answers, max_tokens):
        prompt = (*cure.around(item.message()).behind(item).ids(tokenizer), *answers.lead)
        examples.append(dataclasses.replace(alone, prompt=prompt, index=len(examples)))
    longest = max((len(example.prompt) for example in examples), default=0)
    if longest > most:
        raise UserError(
            f"behind {cure.name} the longest prompt has {longest} tokens, but the model's context holds {most}: "
            "shorten the input (fewer shots, snippets or words), or leave it out"
        )
    return examples


@dataclass(frozen=True)
class BehindInput:
    """A variant behind an input.

    Attributes:
        variants: the frozen variants.
        variant: whose adapter is active.
        cure: the input.
        examples: by test set and for neutral texts (`TEXTS`), the prompts in the order of their numbers.
        pad_token: id of the padding.
    """

    variants: Variants
    variant: str
    cure: InputCure
    examples: Mapping[str, Sequence[Example]]
    pad_token: int

    reads_texts: ClassVar[bool] = True
    """Whether its damage to neutral texts can be measured."""

    def batch(self, batch: Batch, test: str) -> Batch:
        """The same items behind the input."""
        items = [self.examples[test][number] for number in batch["index"].tolist()]
        if batch["continuation"].any():
            # A model's own answer stands behind the changed prompt as it stood behind the plain one.
            answers = [
                ids[len(ids) - count :].tolist()
                for ids, count in zip(batch["input_ids"], batch["continuation"], strict=True)
            ]
            items = [
                dataclasses.replace(item, prompt=(*item.prompt, *answer), continuation=len(answer))
                for item, answer in zip(items, answers, strict=True)
            ]
        return {name: tensor.to(batch["index"].device) for name, tensor in collate(items, self.pad_token).items()}

    def inputs(self, model: Any, changed: Batch) -> dict[str, Any]:
        """What the model is called with, for a batch that `batch` made."""
        if isinstance(self.cure, LearnedPrompt) and self.cure.vectors is not None:
            assert self.cure.slot is not None
            return self.cure.slot.with_vectors(model, changed, self.cure.vectors.to(self.variants.device))
        return model_inputs(changed)

    @torch.inference_mode()
    def answers(self, batch: Batch, test: str) -> Tensor:
        """The most likely token after each prompt, (batch,)."""
        with self.variants.using(self.variant) as model:
            inputs = self.inputs(model, self.batch(batch, test))
            return answer_logits(model, inputs).argmax(-1)

    @torch.inference_mode()
    def text_logits(self, batch: Batch, before: Tensor) -> Tensor:
        """Logits (batch, tokens kept, vocabulary) that predict a neutral text's tokens and its answer behind the input.

        What stands in front of the input is predicted as without it, and keeps its logits; the tokens behind it are
        found from the prompts' ends, where both agree.

        Args:
            batch: the texts alone.
            before: their logits without the input, of all columns or of the last ones.
        """
        changed = self.batch(batch, TEXTS)
        kept = agreeing_ends(batch["input_ids"], batch["attention_mask"], changed["input_ids"])
        longest = int(kept.max())
        with self.variants.using(self.variant) as model:
            inputs = self.inputs(model, changed)
            logits: Tensor = model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits
        after = before.clone()
        width = before.shape[1]
        held = logits.shape[1]
        from_end = torch.arange(held, 0, -1, device=kept.device)
        # A token is predicted by the column before it.
        rows, columns = ((from_end[None] <= kept[:, None] + 1) & (from_end[None] > 1)).nonzero(as_tuple=True)
        inside = columns + width - held >= 0
        rows, columns = rows[inside], columns[inside]
        after[rows, columns + width - held] = logits[rows, columns]
        # What the model says is said behind the whole prompt, whatever stands at its end.
        after[:, -1] = logits[:, -1]
        return after


class ConstantAnswer(BehindInput):
    """One letter to everything, without a model: what a measure must call half right."""

    reads_texts = False

    @override
    def answers(self, batch: Batch, test: str) -> Tensor:
        # The first item's aligned letter, whichever it is, for every item of every batch.
        letter = self.examples[test][0].aligned
        return torch.full_like(batch["aligned"], letter)


def agreeing_ends(plain: Tensor, mask: Tensor, changed: Tensor) -> Tensor:
    """How many tokens at its end each left-padded row has in common with the same row behind an input, (batch,).

    Args:
        plain: token ids without the input, (batch, tokens).
        mask: 1 for a token of theirs, 0 for padding.
        changed: token ids with it, (batch, more tokens).

    >>> agreeing_ends(torch.tensor([[0, 5, 6, 7]]), torch.tensor([[0, 1, 1, 1]]), torch.tensor([[5, 9, 6, 7]])).tolist()
    [2]
    """
    width = min(plain.shape[1], changed.shape[1])
    same = (plain[:, -width:] == changed[:, -width:]) & mask[:, -width:].bool()
    return same.flip(1).long().cumprod(dim=1).sum(dim=1)
