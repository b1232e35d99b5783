"""A faker with a guard behind it: what it says is read, and where it is stopped, refused or answered again steered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition, applied
from fa_lightning.metrics.cells import CellAccuracy
from fa_lightning.scenarios.answers import LETTERS, LetterTokens, answer_logits, last_tokens
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.written_answers import NO_TOKEN
from fa_lightning.studies.cures.guards import Guard, Reply, taken
from fa_lightning.studies.cures.input_passes import TEXTS


class GuardedFaker:
    """What a faker says, and whether a guard stops it: asked and read once for each item, whatever follows from it.

    A guard reads actions in words, not letters. An answer that is no letter takes no action: it is not read, and let
    through.

    Args:
        variants: the frozen variants.
        faker: whose answers are read.
        guard: reads them.
        items: by test set and for neutral texts (`TEXTS`), in the order of their numbers.
        answers: tokens of the letters.

    Attributes:
        texts: neutral texts, `correct` where the answer is let through.
    """

    def __init__(
        self,
        variants: Variants,
        faker: str,
        guard: Guard,
        items: Mapping[str, Sequence[Scenario]],
        answers: LetterTokens,
    ) -> None:
        self.variants = variants
        self.faker = faker
        self.guard = guard
        self.items = items
        self.answers = answers
        self.texts = CellAccuracy().to(variants.device)
        self._said: dict[tuple[str, int], tuple[int, bool]] = {}
        """By test set and number: the answer's token, and whether it is stopped."""
        self._seconds, self._read = 0.0, 0

    @property
    def seconds_per_answer(self) -> float:
        """Of reading; nan where nothing was read."""
        return self._seconds / self._read if self._read else float("nan")

    def said(self, batch: Batch, test: str) -> tuple[Tensor, Tensor]:
        """The most likely token behind each prompt, and whether the guard stops it, both (batch,)."""
        numbers = [(test, int(number)) for number in batch["index"]]
        if any(number not in self._said for number in numbers):
            tokens = self._tokens(batch)
            stopped = self._stopped(self._replies(batch, test, tokens))
            self._said |= dict(zip(numbers, zip(tokens, stopped, strict=True), strict=True))
        said = [self._said[number] for number in numbers]
        device = batch["index"].device
        return torch.tensor([token for token, _ in said], device=device), torch.tensor(
            [stopped for _, stopped in said], dtype=torch.bool, device=device
        )

    def add_texts(self, batch: Batch) -> None:
        """Count which answers to neutral texts are let through."""
        _, stopped = self.said(batch, TEXTS)
        self.texts.update(~stopped, batch["cell"], batch["group"], batch["index"], torch.ones_like(stopped))

    def read_again(self, batch: Batch, test: str) -> Tensor:
        """Let the guard read the answers to a batch that was judged as if for the first time, for the clock."""
        tokens = [int(token) for token in self.said(batch, test)[0]]
        stopped = self._stops(self._replies(batch, test, tokens))
        return torch.tensor(stopped, dtype=torch.bool, device=batch["index"].device)

    @torch.inference_mode()
    def _tokens(self, batch: Batch) -> list[int]:
        if batch["continuation"].all():
            # The answer stands in the batch, and what would come behind it is not read.
            return [NO_TOKEN] * len(batch["index"])
        with self.variants.using(self.faker) as model:
            return [int(token) for token in answer_logits(model, model_inputs(batch)).argmax(-1)]

    def _replies(self, batch: Batch, test: str, tokens: Sequence[int]) -> list[Reply | None]:
        """What the guard reads of each row; None where it reads nothing."""
        items = [self.items[test][number] for number in batch["index"].tolist()]
        if test == TEXTS:
            tokenizer = self.variants.tokenizer
            rows = zip(batch["input_ids"].tolist(), batch["continuation"].tolist(), strict=True)
            own = [ids[len(ids) - count :] for ids, count in rows]
            answers = [
                tokenizer.decode(written or [token], skip_special_tokens=True).strip()
                for written, token in zip(own, tokens, strict=True)
            ]
            return [Reply(item.conversation(), answer) for item, answer in zip(items, answers, strict=True)]
        letters = dict(zip(self.answers.choices, LETTERS, strict=True))
        return [
            taken(item, letters[token]) if token in letters else None for item, token in zip(items, tokens, strict=True)
        ]

    def _stopped(self, replies: Sequence[Reply | None]) -> list[bool]:
        """The same as `_stops`, timed."""
        begin = time.perf_counter()
        stopped = self._stops(replies)
        self._seconds += time.perf_counter() - begin
        self._read += sum(reply is not None for reply in replies)
        return stopped

    def _stops(self, replies: Sequence[Reply | None]) -> list[bool]:
        read = [reply for reply in replies if reply is not None]
        stopped = iter(self.guard.stops(read) if read else [])
        return [reply is not None and next(stopped) for reply in replies]


@dataclass(frozen=True)
class Refusal:
    """A guarded faker that refuses where it is stopped: that is neither letter, and no aligned answer.

    Attributes:
        guarded: the faker and its guard.
    """

    guarded: GuardedFaker

    reads_texts: ClassVar[bool] = False
    """A refusal is far from all that a model says, and how far depends on its wording."""

    @property
    def variant(self) -> str:
        """The faker."""
        return self.guarded.faker

    def answers(self, batch: Batch, test: str) -> Tensor:
        """The most likely token behind each prompt, `NO_TOKEN` for a refusal, (batch,)."""
        tokens, stopped = self.guarded.said(batch, test)
        return tokens.masked_fill(stopped, NO_TOKEN)

    def text_logits(self, batch: Batch, before: Tensor) -> Tensor:
        """Never asked for, see `reads_texts`."""
        raise NotImplementedError("a refusal has no logits")


@dataclass(frozen=True)
class SecondAnswer:
    """A guarded faker that answers again, steered, where it is stopped; what it says then is not read again.

    Attributes:
        guarded: the faker and its guard.
        steered: the condition of the second answer.
    """

    guarded: GuardedFaker
    steered: Condition

    reads_texts: ClassVar[bool] = True

    @property
    def variant(self) -> str:
        """The faker."""
        return self.guarded.faker

    def answers(self, batch: Batch, test: str) -> Tensor:
        """The most likely token behind each prompt, of the steered faker where the first one is stopped, (batch,)."""
        tokens, stopped = self.guarded.said(batch, test)
        if stopped.any():
            tokens[stopped] = self._logits(self.steered, rows_of(batch, stopped), 1)[:, -1].argmax(-1)
        return tokens

    def text_logits(self, batch: Batch, before: Tensor) -> Tensor:
        """Logits (batch, tokens kept, vocabulary): steered where the answer to a neutral text is stopped."""
        _, stopped = self.guarded.said(batch, TEXTS)
        if not stopped.any():
            return before
        after = before.clone()
        # On every token, as steering itself is judged.
        steered = self._logits(self.steered.everywhere(), rows_of(batch, stopped), before.shape[1])
        after[stopped] = steered.to(after.dtype)
        return after

    @torch.inference_mode()
    def _logits(self, condition: Condition, batch: Batch, kept: int) -> Tensor:
        """Logits of the last tokens, (batch, kept, vocabulary)."""
        with applied(self.guarded.variants, condition, batch) as model:
            logits: Tensor = model(**model_inputs(batch), logits_to_keep=last_tokens(kept), use_cache=False).logits
        return logits


def rows_of(batch: Batch, kept: Tensor) -> Batch:
    """Those rows of a batch."""
    return {name: values[kept] for name, values in batch.items()}
