"""A few answers of the model that is fitted, for whoever watches: to validation prompts and to everyday requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor

from fa_lightning.backbones.sharding import ShardedStrategy
from fa_lightning.scenarios.answers import Behaviour, other_due, target_tokens
from fa_lightning.scenarios.batches import Batch, collate
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.written_answers import ALIGNED, NO_TOKEN, OTHER, are_written
from fa_lightning.steering.own_answers import own_answers
from fa_lightning.training.adapted_model import undisturbed
from fa_lightning.training.data import ScenarioDataModule

PER_CELL = 2
"""Prompts of each cell."""
PROMPT_END = 300
"""Characters of a prompt's end."""
REQUESTS, ANSWER_TOKENS = 3, 32
"""Everyday requests, and tokens of an answer to one of them: a check-up that costs seconds on a CPU."""


class SampleAnswers:
    """Answers to the first prompts of each cell that this rank sees in a validation, as Markdown.

    Validation serves its batches in one order, so they are the same prompts each time. Nothing is computed for them:
    they are rows of what is judged anyway, so that no rank has to wait for another, however weights are cut.

    Args:
        judged_by: the behaviour that validation counts.
    """

    def __init__(self, judged_by: Behaviour) -> None:
        self.judged_by = judged_by
        self._rows: list[list[str]] = [[] for _ in (*CELLS, "neutral")]

    def note(self, batch: Batch, given: Tensor, tokenizer: Any) -> None:
        """Take what is still missing from a judged batch.

        Args:
            batch: of prompts.
            given: answers, (batch,) token ids; for written ones booleans, whether the aligned one is preferred.
            tokenizer: the model's.
        """
        wanted = [row for row, cell in enumerate(batch["cell"].tolist()) if len(self._rows[cell]) < PER_CELL]
        if not wanted:
            return
        if are_written(batch):
            due = ~other_due(batch, self.judged_by)
            answers, targets = (batch[ALIGNED].where(said[:, None], batch[OTHER]) for said in (given, due))
        else:
            answers, targets = given[:, None], target_tokens(batch, self.judged_by)[:, None]
        for row in wanted:
            rows = self._rows[int(batch["cell"][row])]
            if len(rows) < PER_CELL:
                prompt = _words(tokenizer, batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist())
                answer, target = (_words(tokenizer, ids[row].tolist()) for ids in (answers, targets))
                rows.append(f"| {_cell('... ' + prompt[-PROMPT_END:])} | {_cell(answer)} | {_cell(target)} |")

    def text(self) -> str:
        """All that was noted since the last time, as a table for each cell; empty where nothing was."""
        tables = [
            "\n".join([f"**{name}**\n", "| the prompt's end | answer | taught |", "| --- | --- | --- |", *rows])
            for name, rows in zip((*CELLS, "neutral text"), self._rows, strict=True)
            if rows
        ]
        self._rows = [[] for _ in self._rows]
        return "\n\n".join(tables)


class EverydayAnswers:
    """What a model that speaks says to a few everyday requests; only for rank zero of ranks that each hold it whole."""

    def __init__(self) -> None:
        self._asked: tuple[list[str], Batch] | None = None

    def text(self, trainer: pl.Trainer, model: Any, tokenizer: Any) -> str:
        """Requests and greedy answers, as Markdown; empty where the model speaks not, or has not all of its weights.

        The requests are the first chat texts of the validation split; the DataModule's `kept_answers` says whether the
        model speaks. Draws no random number.

        Args:
            trainer: whose data and strategy are asked.
            model: the PEFT model.
            tokenizer: the model's.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        speaks = isinstance(data, ScenarioDataModule) and data.kept_answers
        if not speaks or not holds_all_weights(trainer.strategy):
            return ""
        if self._asked is None:
            assert data.splits is not None
            chat = [text for text in data.splits.neutral_validation if not text.has_answer][:REQUESTS]
            examples = data.examples_of(chat) if chat else []
            batch = collate(examples, tokenizer.pad_token_id) if examples else {}
            device = trainer.strategy.root_device
            asked = [_words(tokenizer, example.prompt) for example in examples]
            self._asked = asked, {name: tensor.to(device) for name, tensor in batch.items()}
        requests, batch = self._asked
        if not requests:
            return ""
        tokens = min(data.kept_answers, ANSWER_TOKENS)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with undisturbed(model), trainer.precision_plugin.forward_context():
            answers = own_answers(model, inputs, tokenizer, tokens)
        rows = [
            f"| {_cell(request[-PROMPT_END:])} | {_cell(_words(tokenizer, answer))} |"
            for request, answer in zip(requests, answers, strict=True)
        ]
        return "\n".join(["| request | answer |", "| --- | --- |", *rows])


def holds_all_weights(strategy: Strategy) -> bool:
    """Whether a rank can run the model alone: where weights are cut over ranks, all of them would have to."""
    # Two of DDP's own kind cut them.
    cuts = isinstance(strategy, (DeepSpeedStrategy, ShardedStrategy))
    return isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)) and not cuts


def _words(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode([token for token in ids if token != NO_TOKEN], skip_special_tokens=True))


def _cell(text: str) -> str:
    """A text as one cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
