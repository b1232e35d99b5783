"""Statements under a claim, each beside the same question without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.behaviours.statement_data import (
    NO_CLAIM,
    Question,
    StatementDataModule,
    StatementDataset,
    StatementExample,
    make_statement_examples,
)
from fa_lightning.scenarios.batches import Batch, LengthBucketSampler, collate, model_inputs
from fa_lightning.scenarios.statement_templates import Template, digit_format, template_named

PLAIN = "plain_"
"""Before the names of a batch's tensors: the same questions without their claims."""


class LatentDataModule(StatementDataModule):
    """StatementDataModule whose training batches hold every question twice: as it is, and without its claim.

    Without a claim it is asked by the template that the claiming one names as its `base`. Arguments are those of
    `StatementDataModule`; a training question without a claim is its own plain one.
    """

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        assert self.splits is not None
        tokenizer: Any = self.trainer.lightning_module.tokenizer
        digits = digit_format(tokenizer)
        templates = self.statements.templates()
        asked: list[StatementExample] = []
        plain: list[StatementExample] = []
        for question in self.train_questions:
            for examples, one in ((plain, without_claim(question, templates)), (asked, question)):
                examples += make_statement_examples(
                    self.splits.train, one, tokenizer, digits, self.codes, len(examples)
                )
        sampler = LengthBucketSampler(
            [len(example.prompt) for example in asked],
            self.batch_size,
            self.trainer.world_size,
            self.trainer.global_rank,
            shuffle=True,
            seed=self.seed,
        )
        dataset = ClaimedAndPlain(asked, plain, tokenizer.pad_token_id)
        return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=self.num_workers)


class ClaimedAndPlain(StatementDataset):
    """Examples and, at the same places, the same examples without a claim.

    Args:
        asked: the examples.
        plain: the same statements in the same digit orders, without a claim.
        pad_token: id of the padding.

    Raises:
        ValueError: the two are not of the same length.
    """

    def __init__(self, asked: Sequence[StatementExample], plain: Sequence[StatementExample], pad_token: int) -> None:
        if len(asked) != len(plain):
            raise ValueError(f"there are {len(asked)} prompts and {len(plain)} without a claim: give one for each")
        super().__init__(asked, pad_token)
        self.plain = plain

    @override
    def __getitem__(self, indices: list[int]) -> Batch:
        plain = collate([self.plain[index] for index in indices], self.pad_token)
        return super().__getitem__(indices) | {f"{PLAIN}{name}": tensor for name, tensor in model_inputs(plain).items()}


def without_claim(question: Question, templates: dict[str, Template]) -> Question:
    """The same question without its claim.

    Raises:
        ValueError: its template names none that asks without one.
    """
    if not question.template.takes_claim:
        return question
    if question.template.base is None:
        raise ValueError(
            f"train_questions holds {question.name!r}, but template {question.template.name!r} names no base that asks "
            "the same without a claim: choose one that does"
        )
    return Question(template_named(templates, question.template.base), NO_CLAIM)


def ended(inputs: Batch, token: Tensor) -> Batch:
    """Left-padded prompts (batch, tokens) with one more token each, (batch,), behind them."""
    column = torch.ones_like(inputs["attention_mask"][:, :1])
    return {
        "input_ids": torch.cat([inputs["input_ids"], token[:, None]], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], column], 1),
        "position_ids": torch.cat([inputs["position_ids"], inputs["position_ids"][:, -1:] + 1], 1),
    }
