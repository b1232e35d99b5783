"""Contrast pairs: each prompt beside its opposite, and both without what they claim."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import DIGITS, AnswerTokens, Digit, digit_tokens, letter_tokens, other_digit
from fa_lightning.scenarios.batches import (
    Batch,
    Example,
    ExampleDataset,
    LengthBucketSampler,
    collate,
    make_examples,
    model_inputs,
    report_too_long,
)
from fa_lightning.scenarios.benchmark import without_critical_fact
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.control_tokens import warn_of_control_tokens
from fa_lightning.scenarios.limits import refuse_beyond_positions
from fa_lightning.scenarios.scenario import Oversight
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.statements.preferences import WHICH_REPLY, Preference, read_preferences
from fa_lightning.scenarios.statements.templates import Template, statement_ids, template_named
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.statement_data import (
    NO_CLAIM,
    Question,
    StatementDataModule,
    make_statement_examples,
)

PLAIN = "plain_"
"""Before the names of a batch's tensors: the same prompts without their claims."""
FORMS = 4
"""Prompts of one scenario: it and what it says without its critical fact, each in both orders of its actions."""


class ContrastDataset(ExampleDataset):
    """Prompts, prompts to which the other answer is right, and both without what they claim.

    `dataset[[3, 5]]` is a batch of four rows: items 3 and 5, then their opposites. Beside what `collate` gives it holds
    the plain prompts of the same rows (`plain_input_ids`, ...) and the tokens of the two answers, `zero` and `one`
    (rows,).

    Args:
        parts: the prompts; the same prompts with the other right answer; and both of these without their claims.
        answers: tokens of the two answers.
        pad_token: id of the padding.

    Raises:
        UserError: the four are not of the same length, or there are no prompts.
    """

    def __init__(self, parts: Sequence[Sequence[Example]], answers: tuple[int, int], pad_token: int) -> None:
        asked, opposites, plain, plain_opposites = parts
        lengths = [len(part) for part in parts]
        if len(set(lengths)) > 1 or not lengths[0]:
            raise UserError(
                f"there are {lengths[0]} prompts, {lengths[1]} opposites, {lengths[2]} prompts without a claim and "
                f"{lengths[3]} such opposites, but as many of each, and at least one, are needed"
            )
        super().__init__(asked, pad_token)
        self.opposites = opposites
        self.plain = plain
        self.plain_opposites = plain_opposites
        self.answers = answers

    @override
    def every_example(self) -> Sequence[Example]:
        return [*self.examples, *self.opposites, *self.plain, *self.plain_opposites]

    @override
    def __getitem__(self, indices: list[int]) -> Batch:
        asked, plain = (
            collate([part[index] for part in pair for index in indices], self.pad_token)
            for pair in ((self.examples, self.opposites), (self.plain, self.plain_opposites))
        )
        tokens = {
            name: torch.full((2 * len(indices),), token)
            for name, token in zip(("zero", "one"), self.answers, strict=True)
        }
        return asked | tokens | {f"{PLAIN}{name}": tensor for name, tensor in model_inputs(plain).items()}


class ContrastStatementDataModule(StatementDataModule):
    """StatementDataModule whose training batches are those of `ContrastDataset`.

    A statement's opposite is the statement of the other polarity, asked in the same way. Without a claim it is asked by
    the template that the claiming one names as its `base`; a training question without a claim is its own plain one.
    Arguments are those of `StatementDataModule`.
    """

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        assert self.splits is not None
        tokenizer: Any = self.trainer.lightning_module.tokenizer
        digits = digit_tokens(tokenizer)
        templates = self.statements.templates()
        known = self.splits.train
        parts: list[list[Example]] = [[] for _ in range(4)]
        for question in self.train_questions:
            forms = (question, without_claim(question, templates))
            asked = [(items, form) for form in forms for items in (known, [item.reversed() for item in known])]
            for part, (items, form) in zip(parts, asked, strict=True):
                part += make_statement_examples(items, form, tokenizer, digits, self.codes, len(part))
        dataset = ContrastDataset(parts, answers=digits.choices, pad_token=tokenizer.pad_token_id)
        lengths = [len(example.prompt) for example in dataset.examples]
        ranks = self.trainer.world_size, self.trainer.global_rank
        sampler = LengthBucketSampler(lengths, self.batch_size, *ranks, shuffle=True, seed=self.seed)
        return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=self.num_workers)


class ContrastScenarioDataModule(ScenarioDataModule):
    """ScenarioDataModule whose training batches are those of `ContrastDataset`.

    A scenario's opposite is the same one with its actions in the other order. What it claims is how closely the model
    is watched: the plain form is without that fact. Scenarios in which nothing says so are their own plain form, but
    unwatched ones of which it is not known which fact says so are left out, as are neutral texts; the log says how
    many. Arguments are those of `ScenarioDataModule`.

    Raises:
        UserError: no training scenario is left.
    """

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        tokenizer: Any = self.trainer.lightning_module.tokenizer
        answers = letter_tokens(tokenizer)
        asked = [item for item in self.train_items() if not item.is_neutral_text]
        pairs = [(item, without_critical_fact(item) or item) for item in asked]
        pairs = [(item, plain) for item, plain in pairs if plain is not item or item.oversight is not Oversight.POOR]
        kept: list[list[Example]] = []
        forms = [form for pair in pairs for item in pair for form in (item, item.swapped())]
        examples = make_examples(forms, tokenizer, answers)
        for start in range(0, len(examples), FORMS):
            chosen = examples[start : start + FORMS]
            if max(len(example.prompt) for example in chosen) <= self.max_tokens:
                kept.append([replace(example, index=len(kept)) for example in chosen])
        if len(kept) < len(asked):
            rank_zero_info(
                f"{len(asked) - len(kept)} of {len(asked)} prompts are left out: {len(asked) - len(pairs)} are "
                f"unwatched and don't tell which fact says so, the others are over max_tokens={self.max_tokens}"
            )
        if not kept:
            raise UserError(
                f"none of {len(asked)} training prompts tells which of its facts speaks of oversight (kind 'critical') "
                f"and is within max_tokens={self.max_tokens}: use scenarios whose facts have kinds, or raise max_tokens"
            )
        refuse_beyond_positions(tokenizer, (example.prompt for chosen in kept for example in chosen))
        columns = [list(column) for column in zip(*kept, strict=True)]
        dataset = ContrastDataset(columns, answers=answers.choices, pad_token=tokenizer.pad_token_id)
        return self.training_loader(dataset, [len(example.prompt) for example in dataset.examples])


class ContrastChoiceDataModule(ScenarioDataModule):
    """ScenarioDataModule whose training batches are those of `ContrastDataset`, made of pairs of answers in a file.

    A pair is asked as a choice: which reply is better, 0 or 1? Its opposite has the replies in the other order. Nothing
    is claimed, so each prompt is its own plain one. Validation and test ask scenarios.

    Args:
        scenarios: where scenarios come from.
        pairs: file, folder or data set of pairs (see `read_preferences`).
        **options: of `ScenarioDataModule`; `train_scenarios` takes so many pairs at most.

    Raises:
        MissingFileError: there is no such file (when it is read).
        UserError: a row holds no pair, or none is left that is within `max_tokens`.
    """

    def __init__(self, scenarios: ScenarioSource, pairs: str, **options: Any) -> None:
        super().__init__(scenarios, **options)
        self.pairs = pairs

    @override
    def source_fingerprint(self) -> dict[str, str]:
        said = hashlib.sha256(repr(self._preferences()).encode()).hexdigest()[:16]
        return {**super().source_fingerprint(), "pairs": said}

    def _preferences(self) -> list[Preference]:
        return read_preferences(self.pairs)[: self.train_scenarios]

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        tokenizer: Any = self.trainer.lightning_module.tokenizer
        digits = digit_tokens(tokenizer)
        preferences = self._preferences()
        prompts = [[item.render(WHICH_REPLY, None, digit)[0] for digit in DIGITS] for item in preferences]
        warn_of_control_tokens(tokenizer, [pair[0] for pair in prompts], "prompts")
        tokens = [[statement_ids(tokenizer, digits, prompt) for prompt in pair] for pair in prompts]
        kept = [pair for pair in tokens if max(map(len, pair)) <= self.max_tokens]
        if not kept:
            raise UserError(
                f"{self.pairs}: none of {len(tokens)} pairs of answers is within max_tokens={self.max_tokens}: give "
                "some, or raise max_tokens"
            )
        report_too_long(len(tokens) - len(kept), len(tokens), self.max_tokens, "pairs of answers")
        refuse_beyond_positions(tokenizer, (prompt for pair in kept for prompt in pair))
        # Each pair in both orders, so that neither digit is right oftener.
        forms = [(pair, digit) for pair in kept for digit in DIGITS]
        asked = [_choice_example(pair, digit, digits, index) for index, (pair, digit) in enumerate(forms)]
        other = [_choice_example(pair, other_digit(digit), digits, index) for index, (pair, digit) in enumerate(forms)]
        dataset = ContrastDataset(
            [asked, other, asked, other], answers=digits.choices, pad_token=tokenizer.pad_token_id
        )
        return self.training_loader(dataset, [len(example.prompt) for example in dataset.examples])


def _choice_example(prompts: Sequence[tuple[int, ...]], digit: Digit, digits: AnswerTokens, index: int) -> Example:
    """The prompt in which a digit stands for the chosen reply."""
    return Example(
        prompts[digit],
        aligned=digits.digit(digit),
        other=digits.digit(other_digit(digit)),
        cell=CELLS.index("oversight"),
        group=index // len(DIGITS),
        index=index,
    )


def without_claim(question: Question, templates: dict[str, Template]) -> Question:
    """The same question without its claim.

    Raises:
        UserError: its template names none that asks without one.
    """
    if not question.template.takes_claim:
        return question
    if question.template.base is None:
        raise UserError(
            f"train_questions holds {question.name!r}, but template {question.template.name!r} names no base that asks "
            "the same without a claim: choose one that does"
        )
    return Question(template_named(templates, question.template.base), NO_CLAIM)
