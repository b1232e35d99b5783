"""Prompts for probes as a DataModule, and what is known about each."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import AnswerTokens
from fa_lightning.scenarios.batches import Batch, Example, example_loader, report_too_long
from fa_lightning.scenarios.cells import NEUTRAL_CELL
from fa_lightning.scenarios.control_tokens import warn_of_control_tokens
from fa_lightning.scenarios.limits import refuse_beyond_positions
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.splits import SPLITS
from fa_lightning.studies.probes.questions import LEAST, ProbeExample, ProbeSource


class ProbeDataModule(pl.LightningDataModule):
    """Serves every prompt once, left-padded and ended where an answer begins; `index` says which row is which.

    Args:
        questions: where rows come from.
        batch_size: prompts in a batch of one device.
        max_tokens: longer prompts are left out, and their number is printed.

    Raises:
        UserError: a size is below 1.
    """

    def __init__(self, questions: ProbeSource, batch_size: int = 64, max_tokens: int = 1024) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        self.questions = questions
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.rows: list[ProbeExample] = []
        self.answers: AnswerTokens | None = None
        self._examples: list[Example] = []
        self._pad_token = 0

    def source_fingerprint(self) -> dict[str, str]:
        """What the data depend on besides the arguments in the config."""
        return self.questions.fingerprint()

    def prepare_for(self, tokenizer: Any) -> None:
        """Read and tokenise the rows.

        Raises:
            UserError: a split has fewer than 8 rows, or one class alone.
            TemplateFault: the answers are not single distinct tokens.
        """
        if self.rows:
            return
        self.answers = self.questions.answers(tokenizer)
        self._pad_token = tokenizer.pad_token_id
        every = self.questions.load()
        warn_of_control_tokens(tokenizer, [row.message for row in every], "prompts")
        prompts = {row.message: (*prompt_ids(tokenizer, row.message), *self.answers.lead) for row in every}
        for row in every:
            prompt = prompts[row.message]
            # Its opposite is as long but for a word or two; without it, it has nothing to stand beside.
            if max(len(prompt), len(prompts.get(row.opposite, prompt))) > self.max_tokens:
                continue
            # Which answer is right stays behind: a row's labels are looked up when all states have been read.
            index = len(self.rows)
            self._examples.append(
                Example(prompt, self.answers.choices[0], self.answers.choices[1], NEUTRAL_CELL, row.group_number, index)
            )
            self.rows.append(row)
        report_too_long(len(every) - len(self.rows), len(every), self.max_tokens)
        refuse_beyond_positions(tokenizer, (example.prompt for example in self._examples))
        self._refuse_too_little()

    @override
    def test_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        self.prepare_for(module.tokenizer)
        ranks = (self.trainer.world_size, self.trainer.global_rank)
        return example_loader(self._examples, self._pad_token, self.batch_size, *ranks)

    def labels(self, question: str) -> Tensor:
        """The labels of all rows, booleans (rows,)."""
        return torch.tensor([row.labels[question] for row in self.rows])

    @property
    def groups(self) -> Tensor:
        """The group of each row, (rows,) int64."""
        return torch.tensor([row.group_number for row in self.rows])

    def _refuse_too_little(self) -> None:
        for split in SPLITS:
            rows = [row for row in self.rows if row.split == split]
            if len(rows) < LEAST:
                raise UserError(
                    f"{split} has {len(rows)} prompts of at most max_tokens={self.max_tokens} tokens, but probes need "
                    f"{LEAST} or more: raise max_tokens, or the sizes of data.init_args.questions"
                )
            for question in self.questions.questions:
                true = sum(row.labels[question.name] for row in rows)
                if true in (0, len(rows)):
                    raise UserError(
                        f"{question.name} is {true > 0} in all {len(rows)} prompts of {split}, but probes need both: "
                        "raise the sizes of data.init_args.questions"
                    )
