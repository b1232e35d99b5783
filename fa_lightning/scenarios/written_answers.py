"""Answers that are texts: their tokens, where a model decides on them, and which of two it would rather write.

A letter is one token, so the token in front of it decides. A written answer has many, and ends with the end of the
turn. Then the *decision tokens* are those behind which a token of the answer comes: the last one of the prompt, and
every one of the answer but the last. They are what a capture marks, what a fit with `decision_weight` counts, and what
an edit at `positions: last` covers while a model writes. Twins are captured while both read the aligned answer: what a
cured faker will have written so far.

A twin learns all tokens of its answer. It is judged by which of the two answers has the higher mean log-likelihood per
token given the prompt, the end of the turn included; so a long answer is no worse off than a short one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fa_lightning.scenarios.prompts import (
    PROBE,
    Tokenizer,
    conversation_ids,
    has_template,
    masked_answer,
    merged_answer,
    prompt_ids,
    refuse_faults,
)
from fa_lightning.scenarios.turn_endings import TurnEnding, turn_ending

if TYPE_CHECKING:
    from torch import Tensor

NO_TOKEN = -1
"""Fills up shorter answers; and stands for the letter of a scenario that has none, so that no letter is ever read."""
ALIGNED, OTHER = "aligned_text", "other_text"
"""In a batch of prompts: the two answers' tokens, (batch, tokens), filled up with `NO_TOKEN` on the right."""
TARGET = "target"
"""In a batch of answered prompts: the token behind each decision token, (batch, tokens), filled up on the left."""


@dataclass(frozen=True)
class WrittenAnswers:
    """Makes the tokens of written answers.

    Attributes:
        tokenizer: of the model.
        lead: ids that the template puts between the generation prompt and every answer (often none).
        ending: how a turn ends; None where nothing ends it.
    """

    tokenizer: Tokenizer
    lead: tuple[int, ...]
    ending: TurnEnding | None

    def prompt(self, message: str, system: str | None, earlier: Sequence[tuple[str, str]]) -> tuple[int, ...]:
        """The tokens in front of the answer; see `prompt_ids` for the arguments."""
        return (*prompt_ids(self.tokenizer, message, system, earlier), *self.lead)

    def answer(
        self, text: str, message: str, system: str | None, earlier: Sequence[tuple[str, str]]
    ) -> tuple[int, ...]:
        """The tokens of an answer behind that prompt, the one that ends the turn included.

        Raises:
            TemplateFault: the prompt's own tokens change when the answer follows.
        """
        end = [] if self.ending is None else [self.ending.token]
        if not has_template(self.tokenizer):
            # Tokenised by itself, as a model writes it: behind the prompt its first word could merge with the last one.
            space = "" if message[-1:].isspace() else " "
            return (*self.tokenizer(space + text, add_special_tokens=False)["input_ids"], *end)
        prompt = self.prompt(message, system, earlier)
        whole = conversation_ids(self.tokenizer, message, text, system, earlier)
        if tuple(whole[: len(prompt)]) != prompt:
            raise merged_answer(self.tokenizer)
        last = None if self.ending is None else self.ending.end_of(whole)
        if last is not None and last >= len(prompt):
            return tuple(whole[len(prompt) : last + 1])
        return (*whole[len(prompt) :], *end)


def written_answers(tokenizer: Tokenizer) -> WrittenAnswers:
    """See where answers begin and end, and prove that the model is asked as it expects.

    Raises:
        TemplateFault: naming the tokenizer, where the template leaves answers out, where the prompt's own last tokens
            change when an answer follows, or where the prompt has BOS twice, no generation prompt or no spaces.
    """
    prompt = prompt_ids(tokenizer, PROBE)
    lead: tuple[int, ...] = ()
    if has_template(tokenizer):
        first, second = (conversation_ids(tokenizer, PROBE, text) for text in ("Yes, I will.", "No."))
        if first == second:
            raise masked_answer(tokenizer)
        if first[: len(prompt)] != prompt or second[: len(prompt)] != prompt:
            raise merged_answer(tokenizer)
        shared = next(at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
        lead = tuple(first[len(prompt) : shared])
    refuse_faults(tokenizer, prompt, lead)
    return WrittenAnswers(tokenizer, lead, turn_ending(tokenizer))


def are_written(batch: Mapping[str, Tensor]) -> bool:
    """Whether prompts of a batch are answered in writing."""
    return ALIGNED in batch


def answered(batch: Mapping[str, Tensor], answer: Tensor) -> dict[str, Tensor]:
    """Prompts with an answer behind each, left-padded, so that the decision tokens stand in the last columns.

    The answer's last token is left out of what is read, since nothing comes behind it.

    Args:
        batch: of prompts, left-padded (see `collate`).
        answer: tokens (batch, tokens), filled up with `NO_TOKEN` on the right; one at least in every row.

    Returns:
        The batch, with `continuation` (tokens of the answer that are read), `prompt_tokens` (those of the prompt), both
        (batch,), and `target` (see `TARGET`).
    """
    import torch
    from torch.nn.functional import pad

    lengths = (answer != NO_TOKEN).sum(1)
    # As many columns as `padded_width` would give, and all that is missing of an answer goes to the left.
    width = -(-(answer.shape[1] - 1) // 16) * 16
    read = pad(answer[:, :-1], (0, width - answer.shape[1] + 1), value=NO_TOKEN)
    written = torch.arange(width, device=answer.device)[None] < lengths[:, None] - 1
    missing = width - lengths + 1
    mask = _shifted(torch.cat([batch["attention_mask"], written.long()], dim=1), missing)
    ids = _shifted(torch.cat([batch["input_ids"], read.masked_fill(~written, 0)], dim=1), missing)
    return {
        **batch,
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "continuation": lengths - 1,
        "prompt_tokens": batch["attention_mask"].sum(1),
        TARGET: _shifted(answer, answer.shape[1] - lengths),
    }


def both_answered(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The prompts with the aligned answer behind each, then with the other one."""
    yield answered(batch, batch[ALIGNED])
    yield answered(batch, batch[OTHER])


def log_likelihood(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean log-likelihood per token of the answers of answered prompts, nats, (batch,).

    Args:
        logits: at the last columns, (batch, tokens, vocabulary), as many as `target` has.
        batch: what `answered` gave.
    """
    import torch
    from torch.nn.functional import cross_entropy

    target = batch[TARGET]
    counts = target != NO_TOKEN
    # Only the tokens that count go through the vocabulary in float32: half of the columns fill up shorter answers.
    costs = logits.new_zeros(target.shape, dtype=torch.float32)
    costs[counts] = cross_entropy(logits[counts].float(), target[counts], reduction="none")
    return -costs.sum(1) / counts.sum(1)


def decision_tokens(batch: Mapping[str, Any]) -> Tensor:
    """Where the decision tokens of left-padded prompts stand, (batch, tokens) booleans.

    It is each row's last token; with an answer behind the prompt those of the answer, and the one in front of it.
    """
    import torch

    width = batch["input_ids"].shape[1]
    columns = torch.arange(width, device=batch["input_ids"].device)
    decided: Tensor = columns[None] >= width - 1 - batch["continuation"][:, None]
    return decided


def _shifted(rows: Tensor, by: Tensor) -> Tensor:
    """Rows (batch, columns), each moved to the right by its own number of columns (batch,), around the end."""
    import torch

    width = rows.shape[1]
    columns = torch.arange(width, device=rows.device)
    return rows.gather(1, (columns[None] - by[:, None]) % width)
