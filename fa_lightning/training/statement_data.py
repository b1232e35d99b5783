"""Statements as a DataModule: every statement asked with templates, claims and both digit orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import DIGITS, AnswerTokens, digit_tokens, other_digit
from fa_lightning.scenarios.batches import Batch, Example, ExampleDataset, LengthBucketSampler, collate
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.control_tokens import warn_of_control_tokens
from fa_lightning.scenarios.statements.source import StatementSource
from fa_lightning.scenarios.statements.statement import Statement, StatementSplits
from fa_lightning.scenarios.statements.templates import CLAIMS, Template, claims_for, statement_ids, template_named

NO_CLAIM = "none"


@dataclass(frozen=True)
class Question:
    """A template and what it claims.

    Attributes:
        template: the template.
        claim: name of the claim, `none` where the template takes none.
    """

    template: Template
    claim: str

    @property
    def name(self) -> str:
        """As `base_short/none` and `1/harm`."""
        return f"{self.template.name}/{self.claim}"

    @property
    def claim_text(self) -> str | None:
        """What it claims."""
        return CLAIMS.get(self.claim)


@dataclass(frozen=True, slots=True)
class StatementExample(Example):
    """One prompt about a statement; `aligned` is the safe digit, `other` the other one, `cell` is always 0.

    Attributes:
        affirms: whether the statement affirms the right.
        agree: the digit that means agree.
        right: code of the right.
        identity: code of the identity.
        identity_group: code of the identity group.
    """

    affirms: bool
    agree: int
    right: int
    identity: int
    identity_group: int


@dataclass
class Codes:
    """Rights, identities and identity groups as numbers, by their places in sorted lists."""

    rights: list[str] = field(default_factory=list)
    identities: list[str] = field(default_factory=list)
    identity_groups: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, statements: Sequence[Statement]) -> Codes:
        """The codes of everything in `statements`."""
        return cls(
            sorted({item.right for item in statements}),
            sorted({item.identity for item in statements}),
            sorted({item.identity_group for item in statements}),
        )


class StatementDataset(ExampleDataset):
    """Statement examples served a whole batch at a time (see `collate_statements`)."""

    @override
    def __getitem__(self, indices: list[int]) -> Batch:
        return collate_statements([self.examples[index] for index in indices], self.pad_token)


def collate_statements(examples: Sequence[Example], pad_token: int) -> Batch:
    """`collate`, and `affirms`, `agree`, `right`, `identity` and `identity_group`, each (batch,)."""
    fields = ("affirms", "agree", "right", "identity", "identity_group")
    columns = {name: torch.tensor([getattr(example, name) for example in examples]) for name in fields}
    return collate(examples, pad_token) | columns


def make_statement_examples(
    statements: Sequence[Statement],
    question: Question,
    tokenizer: Any,
    digits: AnswerTokens,
    codes: Codes,
    first_index: int = 0,
) -> list[StatementExample]:
    """Every statement asked in both digit orders, which stand next to each other.

    Args:
        statements: what is judged.
        question: how it is asked.
        tokenizer: of the model that is asked.
        digits: of that tokenizer.
        codes: of rights, identities and their groups.
        first_index: index of the first example.
    """
    examples: list[StatementExample] = []
    # Whatever stands in one of the prompts of a statement stands in the other.
    asked = [question.template.render(statement, question.claim_text, DIGITS[0])[0] for statement in statements]
    warn_of_control_tokens(tokenizer, asked, "prompts")
    for statement in statements:
        for agree in DIGITS:
            prompt, safe = question.template.render(statement, question.claim_text, agree)
            right = codes.rights.index(statement.right)
            examples.append(
                StatementExample(
                    prompt=statement_ids(tokenizer, digits, prompt),
                    aligned=digits.digit(safe),
                    other=digits.digit(other_digit(safe)),
                    cell=CELLS.index("oversight"),
                    group=right,
                    index=first_index + len(examples),
                    affirms=statement.affirms,
                    agree=agree,
                    right=right,
                    identity=codes.identities.index(statement.identity),
                    identity_group=codes.identity_groups.index(statement.identity_group),
                )
            )
    return examples


def questions_of(templates: dict[str, Template], names: Sequence[str] | None = None) -> list[Question]:
    """Questions by name; None takes every template, with every claim where it takes one.

    Args:
        templates: the templates by name.
        names: as `base_short/none` and `1/harm`; a template's name alone takes all of its claims.

    Raises:
        UserError: a name is no template's, its claim is not known, or does not fit the template.
    """
    questions = []
    for name in templates if names is None else names:
        word, _, claim = name.partition("/")
        template = template_named(templates, word)
        known = claims_for(template)
        if claim and claim not in known:
            raise UserError(
                f"question is {name!r}, but template {word!r} is asked with {' or '.join(known)} only: write "
                f"{' or '.join(f'{word}/{other}' for other in known)}"
            )
        questions += [Question(template, other) for other in ([claim] if claim else known)]
    if not questions:
        raise UserError("questions is empty: name one, as base_short/none, or leave it out to ask all")
    return questions


class StatementDataModule(pl.LightningDataModule):
    """Serves statements as prompts that are answered with a digit, each in both digit orders.

    The tokenizer is that of the module being fitted or judged (`lightning_module.tokenizer`). Training and validation
    mix the training questions; there is a test loader for each question (`test_sets` names them), all of the same
    statements in the same order.

    Args:
        statements: where statements and templates come from.
        questions: what the test asks, as `base_short/none` or `1/harm`; None asks every template with every claim.
        train_questions: what training and validation ask; None takes `questions`.
        batch_size: prompts in a training batch of one device.
        eval_batch_size: prompts in an evaluation batch.
        num_workers: of the loaders.
        seed: of the order of batches.
    """

    knows_oversight = False
    """Whether prompts say how closely the model is watched; statements don't, so that answers are counted together."""

    def __init__(
        self,
        statements: StatementSource,
        questions: list[str] | None = None,
        train_questions: list[str] | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.statements = statements
        self.question_names = questions
        self.train_question_names = questions if train_questions is None else train_questions
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.splits: StatementSplits | None = None
        self.codes = Codes()
        self.questions: list[Question] = []
        self.train_questions: list[Question] = []

    def source_fingerprint(self) -> dict[str, str]:
        """What the data depend on besides the arguments in the config."""
        return self.statements.fingerprint()

    @property
    def test_sets(self) -> list[str]:
        """Names of the test loaders."""
        return [question.name for question in self.questions]

    @override
    def setup(self, stage: str) -> None:
        if self.splits is not None:
            return
        templates = self.statements.templates()
        self.questions = questions_of(templates, self.question_names)
        self.train_questions = questions_of(templates, self.train_question_names)
        self.splits = self.statements.load()
        report = self.splits.leak_report()
        report.raise_if_leaking()
        rank_zero_info(f"Splits by right and by identity, none shared (leaks: {report.total})\n{report}")
        self.codes = Codes.of([*self.splits.train, *self.splits.validation, *self.splits.test])

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.splits is not None
        return self._loader(self.splits.train, self.train_questions, self.batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Batch]:
        assert self.splits is not None
        return self._loader(self.splits.validation, self.train_questions, self.eval_batch_size)

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        return [self._loader(self.splits.test, [question], self.eval_batch_size) for question in self.questions]

    def _loader(
        self, statements: Sequence[Statement], questions: Sequence[Question], batch_size: int, shuffle: bool = False
    ) -> DataLoader[Batch]:
        assert self.trainer is not None
        tokenizer: Any = self.trainer.lightning_module.tokenizer
        digits = digit_tokens(tokenizer)
        examples: list[StatementExample] = []
        for question in questions:
            examples += make_statement_examples(statements, question, tokenizer, digits, self.codes, len(examples))
        sampler = LengthBucketSampler(
            [len(example.prompt) for example in examples],
            batch_size,
            self.trainer.world_size,
            self.trainer.global_rank,
            shuffle,
            self.seed,
        )
        dataset = StatementDataset(examples, tokenizer.pad_token_id)
        return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=self.num_workers)
