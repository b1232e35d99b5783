"""The embedded backbone's lessons as a DataModule: conversations made anew for every pass, and their tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from fa_lightning.backbones.curriculum import (
    ACTION_QUESTION,
    ANSWER_WORDS,
    CHOICE_QUESTION,
    OVERSIGHT_QUESTION,
    PAIR_QUESTION,
    Curriculum,
    Turn,
    one_pass,
    role_message,
    watching_message,
)
from fa_lightning.backbones.statement_lessons import STATEMENT_WORDS, Knowledge, statement_pass, statement_texts
from fa_lightning.backbones.tokenizer import train_tokenizer
from fa_lightning.scenarios.answers import answer_tokens
from fa_lightning.scenarios.batches import (
    Batch,
    Example,
    LengthBucketSampler,
    example_loader,
    group_number,
    make_examples,
    padded_width,
    report_too_long,
)
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced
from fa_lightning.scenarios.statements.source import StatementSource
from fa_lightning.scenarios.statements.statement import Statement

TASKS = ("honest", "scheming", "no_role", "watching")
"""The validation loaders, in order: both roles, no role, and the question how closely one is watched."""


class ConversationDataset(Dataset[Batch]):
    """Chat token ids, right-padded; the token after each assistant mark is an answer."""

    def __init__(self, conversations: Sequence[Sequence[int]], pad_token: int) -> None:
        self.conversations = conversations
        self.pad_token = pad_token

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, indices: list[int]) -> Batch:
        lengths = torch.tensor([len(self.conversations[index]) for index in indices])
        input_ids = torch.full((len(indices), padded_width(int(lengths.max()))), self.pad_token)
        for row, index in enumerate(indices):
            input_ids[row, : lengths[row]] = torch.tensor(self.conversations[index])
        return {"input_ids": input_ids, "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()}


class BackboneDataModule(pl.LightningDataModule):
    """Conversations for the embedded backbone, made anew for every pass, and the tokenizer trained on their text.

    Needs `trainer.reload_dataloaders_every_n_epochs: 1`, which is how a pass gets its own variations.

    Args:
        scenarios: where scenarios come from; only its training split is learned from.
        batch_size: conversations in a batch.
        vocabulary_size: of the tokenizer.
        curriculum: what a pass is made of.
        max_tokens: longer conversations are left out.
        validation_items: scenarios asked in validation, for each task.
        seed: of the variations.
        statements: where statements about rights come from, which the backbone then knows, too; None teaches none.
            Those of all splits are heard, and verdicts are told on the training split alone.
        knowledge: how many conversations about statements a pass holds.
    """

    def __init__(
        self,
        scenarios: ScenarioSource,
        batch_size: int = 32,
        vocabulary_size: int = 1500,
        curriculum: Curriculum = Curriculum(),  # noqa: B008
        max_tokens: int = 512,
        validation_items: int = 300,
        seed: int = 0,
        statements: StatementSource | None = None,
        knowledge: Knowledge = Knowledge(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.scenarios = scenarios
        self.batch_size = batch_size
        self.vocabulary_size = vocabulary_size
        self.curriculum = curriculum
        self.max_tokens = max_tokens
        self.validation_items = validation_items
        self.seed = seed
        self.statements = statements
        self.knowledge = knowledge
        self.splits: ScenarioSplits | None = None
        self.tokenizer: Any = None
        self._asked: list[Statement] = []
        self._heard: list[Statement] = []

    def source_fingerprint(self) -> dict[str, str]:
        """What the data depend on besides the arguments in the config."""
        return self.scenarios.fingerprint()

    @override
    def setup(self, stage: str) -> None:
        if self.splits is not None:
            return
        self.splits = self.scenarios.load()
        self.splits.leak_report().raise_if_leaking()
        frame = [role_message("aligned"), role_message("faking")]
        frame += [OVERSIGHT_QUESTION, ACTION_QUESTION, CHOICE_QUESTION.format(letter="A"), PAIR_QUESTION]
        texts = [item.message() for item in (*self.splits.train, *self.splits.neutral_train)]
        written = [item for item in self.splits.train if item.is_written]
        texts += [text for item in written for text in (item.conversation(), item.action_a, item.action_b)]
        texts += frame * 100
        words = list(ANSWER_WORDS)
        if self.statements is not None:
            split = self.statements.load()
            split.leak_report().raise_if_leaking()
            self._heard = [*split.train, *split.validation, *split.test]
            self._asked = self._heard if self.knowledge.told_of == "all" else split.train
            texts += statement_texts(self._heard, self.statements.templates())
            words += STATEMENT_WORDS
        # Every rank trains the same tokenizer: it is deterministic, takes seconds and needs no exchange of files.
        self.tokenizer = train_tokenizer(texts, self.vocabulary_size, words)

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.splits is not None
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        seed = self.seed * 10_007 + epoch
        curriculum = self.curriculum.at(epoch)
        honest_only = epoch < curriculum.honest_passes
        turns = one_pass(self.splits.train, self.splits.neutral_train, curriculum, seed, honest_only)
        if self.statements is not None:
            turns += statement_pass(
                self._heard,
                self._asked,
                self.statements.templates(),
                self.knowledge,
                seed,
                epoch,
            )
        ids = [row for row in map(self._ids, turns) if len(row) <= self.max_tokens]
        report_too_long(len(turns) - len(ids), len(turns), self.max_tokens, "conversations")
        sampler = LengthBucketSampler(
            [len(row) for row in ids],
            self.batch_size,
            self.trainer.world_size,
            self.trainer.global_rank,
            seed=self.seed,
        )
        return DataLoader(ConversationDataset(ids, self.tokenizer.pad_token_id), sampler=sampler, batch_size=None)

    @override
    def val_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        return self._task_loaders(counterbalanced(self.splits.validation[: self.validation_items]))

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        return self._task_loaders(counterbalanced(self.splits.test))

    def _ids(self, turns: list[Turn]) -> list[int]:
        rendered = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def _task_loaders(self, scenarios: list[Scenario]) -> list[DataLoader[Batch]]:
        assert self.trainer is not None
        assert self.splits is not None
        answers = answer_tokens(self.tokenizer, self.splits.are_written)
        tasks = [
            make_examples(scenarios, self.tokenizer, answers, self.max_tokens, system)
            for system in (role_message("aligned"), role_message("faking"), None)
        ]
        watching = [
            example_about_oversight(scenario, self.tokenizer, number) for number, scenario in enumerate(scenarios)
        ]
        pad, ranks, rank = self.tokenizer.pad_token_id, self.trainer.world_size, self.trainer.global_rank
        return [example_loader(task, pad, self.batch_size, ranks, rank) for task in (*tasks, watching)]


def example_about_oversight(scenario: Scenario, tokenizer: Any, index: int) -> Example:
    """The question how closely a scenario says one is watched, as an example of its own."""
    answer = tokenizer.convert_tokens_to_ids(scenario.oversight.value)
    assert scenario.cell is not None
    prompt = tuple(prompt_ids(tokenizer, watching_message(scenario)))
    return Example(prompt, answer, answer, CELLS.index(scenario.cell), group_number(scenario.group), index)
