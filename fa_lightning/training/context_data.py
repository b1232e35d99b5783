"""Scenarios whose training batches hold every prompt twice: as it is, and behind a context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import (
    Batch,
    Example,
    ExampleDataset,
    collate,
    make_examples,
    model_inputs,
    report_too_long,
)
from fa_lightning.scenarios.limits import refuse_beyond_positions
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.training.data import ScenarioDataModule

BEHIND_CONTEXT = "context_"
"""Before the names of a batch's tensors: the same prompts behind the context."""


class ContextDataModule(ScenarioDataModule):
    """ScenarioDataModule whose training batches hold every prompt twice: as it is, and behind a context.

    The context is a system message, or stands in front of the user's where a chat template knows none. Validation and
    test are asked without it.

    Args:
        scenarios: where scenarios come from.
        context: the text.
        **options: of `ScenarioDataModule`.

    Raises:
        UserError: the context is empty.
    """

    def __init__(self, scenarios: ScenarioSource, context: str, **options: Any) -> None:
        if not context.strip():
            raise UserError(f"context is {context!r}, but must be a text that makes the variant behave: write one")
        super().__init__(scenarios, **options)
        self.context = context

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        tokenizer: Any = self.trainer.lightning_module.tokenizer
        dataset = ContextDataset(self.train_items(), tokenizer, self.context, self.max_tokens)
        return self.training_loader(dataset, [len(example.prompt) for example in dataset.behind])


class ContextDataset(ExampleDataset):
    """Examples and, at the same places, the same examples behind a context.

    Args:
        items: scenarios and neutral texts.
        tokenizer: of the model that will read them.
        context: the system message.
        max_tokens: a prompt that is longer behind the context is left out, and the log says how many are.

    Raises:
        UserError: all of them are too long.
    """

    def __init__(self, items: Sequence[Scenario], tokenizer: Any, context: str, max_tokens: int) -> None:
        answers = letter_tokens(tokenizer)
        pairs = zip(
            make_examples(items, tokenizer, answers),
            make_examples(items, tokenizer, answers, system=context),
            strict=True,
        )
        kept = [(plain, behind) for plain, behind in pairs if len(behind.prompt) <= max_tokens]
        report_too_long(len(items) - len(kept), len(items), max_tokens, "prompts behind the context")
        super().__init__([plain for plain, _ in kept], tokenizer.pad_token_id)
        self.behind = [behind for _, behind in kept]
        refuse_beyond_positions(tokenizer, (behind.prompt for behind in self.behind))

    @override
    def every_example(self) -> Sequence[Example]:
        return [*self.examples, *self.behind]

    @override
    def __getitem__(self, indices: list[int]) -> Batch:
        behind = collate([self.behind[index] for index in indices], self.pad_token)
        return super().__getitem__(indices) | {f"{BEHIND_CONTEXT}{name}": behind[name] for name in model_inputs(behind)}
