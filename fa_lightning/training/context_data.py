"""Scenarios whose training batches hold every prompt twice: as it is, and behind a context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import answer_tokens
from fa_lightning.scenarios.batches import (
    Batch,
    Example,
    ExampleDataset,
    collate,
    make_examples,
    model_inputs,
    report_too_long,
)
from fa_lightning.scenarios.conversations.conversation import Conversation, ConversationPair
from fa_lightning.scenarios.conversations.files import digest_of, read_answered
from fa_lightning.scenarios.limits import refuse_beyond_positions
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.written_answers import ALIGNED, TARGET, answered, are_written
from fa_lightning.training.choice_data import choice_of
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
        texts: file of conversations with answers, in any layout of `conversation_of`, which are trained on in the place
            of scenarios: what comes behind the context at each token of the answers. None trains on scenarios.
        **options: of `ScenarioDataModule`; `train_scenarios` takes so many conversations at most.

    Raises:
        MissingFileError: there is no such file (when it is read).
        UserError: the context is empty; later, a row is no conversation or has no answer.
    """

    def __init__(self, scenarios: ScenarioSource, context: str, texts: str | None = None, **options: Any) -> None:
        if not context.strip():
            raise UserError(f"context is {context!r}, but must be a text that makes the variant behave: write one")
        super().__init__(scenarios, **options)
        self.context = context
        self.texts = texts

    @override
    def source_fingerprint(self) -> dict[str, str]:
        own = {} if self.texts is None else {"texts": digest_of(self._conversations(self.texts))}
        return {**super().source_fingerprint(), **own}

    @override
    def train_items(self) -> list[Scenario]:
        if self.texts is None:
            return super().train_items()
        said = self._conversations(self.texts)
        # The same answer twice, as a choice of two: here no other one is read.
        return [choice_of(ConversationPair(one, one), f"{self.texts}#{number}") for number, one in enumerate(said)]

    def _conversations(self, texts: str) -> list[Conversation]:
        return read_answered(texts)[: self.train_scenarios]

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        tokenizer: Any = self.trainer.lightning_module.tokenizer
        dataset = ContextDataset(self.train_items(), tokenizer, self.context, self.max_tokens)
        return self.training_loader(dataset, [example.tokens for example in dataset.behind])


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
        answers = answer_tokens(tokenizer, any(item.is_written for item in items))
        pairs = zip(
            make_examples(items, tokenizer, answers),
            make_examples(items, tokenizer, answers, system=context),
            strict=True,
        )
        kept = [(plain, behind) for plain, behind in pairs if behind.tokens <= max_tokens]
        report_too_long(len(items) - len(kept), len(items), max_tokens, "prompts behind the context")
        super().__init__([plain for plain, _ in kept], tokenizer.pad_token_id)
        self.behind = [behind for _, behind in kept]
        refuse_beyond_positions(tokenizer, (range(behind.tokens) for behind in self.behind))

    @override
    def every_example(self) -> Sequence[Example]:
        return [*self.examples, *self.behind]

    @override
    def __getitem__(self, indices: list[int]) -> Batch:
        behind = collate([self.behind[index] for index in indices], self.pad_token)
        batch = super().__getitem__(indices)
        if are_written(batch):
            batch, behind = (answered(read, read[ALIGNED]) for read in (batch, behind))
        read = [*model_inputs(behind), *([TARGET] if TARGET in behind else [])]
        return batch | {f"{BEHIND_CONTEXT}{name}": behind[name] for name in read}
