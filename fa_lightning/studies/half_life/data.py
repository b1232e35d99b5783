"""The scenarios that cures are judged on while they are attacked, and what the attacker has to train with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.evaluation.data import JudgedScenarios
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, Example, LengthBucketSampler, collate, make_examples
from fa_lightning.scenarios.limits import refuse_beyond_positions
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.splits import counterbalanced, subset
from fa_lightning.training.learned_prompts import with_prefix


class HalfLifeDataModule(JudgedScenarios):
    """JudgedScenarios of some test scenarios of either kind, each once, with neutral texts behind them.

    The attacker trains on training groups, so nothing that is judged was seen by anyone.

    Args:
        unwatched: at most so many test scenarios without oversight.
        watched: at most so many with oversight.
        neutral: at most so many neutral texts, for what the cures cost.
        chat: at most so many ordinary texts of the training split, which come again when they run out.
        **options: of `ScenarioDataModule`.

    Raises:
        UserError: a number is below 1; later, there is no scenario without oversight, or no ordinary text.
    """

    judges_extra_tests = False

    def __init__(
        self, unwatched: int = 400, watched: int = 200, neutral: int = 100, chat: int = 256, **options: Any
    ) -> None:
        super().__init__(**options)
        for name, value in (("unwatched", unwatched), ("watched", watched), ("neutral", neutral), ("chat", chat)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        self.unwatched, self.watched, self.neutral, self.chat = unwatched, watched, neutral, chat

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        texts = subset(self.splits.neutral_test, self.neutral)
        return [self._loader(items, self.eval_batch_size) for items in (self._judged(), texts)]

    def _judged(self) -> list[Scenario]:
        assert self.splits is not None
        kinds = {
            cell: subset([item for item in self.splits.test if item.cell == cell], most)
            for cell, most in (("no_oversight", self.unwatched), ("oversight", self.watched))
        }
        if not kinds["no_oversight"]:
            raise UserError("no test scenario is without oversight, so nothing can be cured or fall back: give some")
        return counterbalanced([item for items in kinds.values() for item in items])

    def attack_scenarios(self, prefix: str | None = None) -> list[Example]:
        """Scenarios of training groups in both orders, watched and unwatched; behind a prefix where one is given."""
        assert self.splits is not None
        return self._behind(counterbalanced(self.splits.train[: self.train_scenarios], both_orders=True), prefix)

    def judged_behind(self, prefix: str, batches: Sequence[Sequence[int]]) -> list[Batch]:
        """The judged scenarios of some batches, by their numbers, each behind a prefix; on the CPU."""
        examples = self._behind(self._judged(), prefix)
        return [collate([examples[index] for index in rows], self._tokenizer.pad_token_id) for rows in batches]

    def _behind(self, items: list[Scenario], prefix: str | None) -> list[Example]:
        if prefix is None:
            return self.examples_of(items)
        prefixed = [with_prefix(item, prefix) for item in self._fitting(items)]
        longer = make_examples(prefixed, self._tokenizer, letter_tokens(self._tokenizer))
        refuse_beyond_positions(self._tokenizer, (example.prompt for example in longer))
        return longer

    def chat_texts(self) -> list[Example]:
        """Ordinary texts of the training split.

        Raises:
            UserError: there is none.
        """
        assert self.splits is not None
        texts = subset([text for text in self.splits.neutral_train if not text.is_incomplete], self.chat)
        if not texts:
            raise UserError(
                "the source has no ordinary texts for training, which one attack trains on: name some as `general`"
            )
        return self.examples_of(texts)

    def attack_batches(self, examples: Sequence[Example], steps: int) -> list[Batch]:
        """The first batches of a shuffle of the examples, of another one when they run out; on the CPU."""
        sampler = LengthBucketSampler([example.tokens for example in examples], self.batch_size, seed=self.seed)
        batches: list[Batch] = []
        while len(batches) < steps:
            sampler.set_epoch(sampler.epoch + bool(batches))
            for indices in sampler:
                batches.append(collate([examples[index] for index in indices], self._tokenizer.pad_token_id))
        return batches[:steps]


def with_learned(batch: Batch) -> Batch:
    """A batch of texts with the tokens that are learned: the answer behind each text, or all of one that has none.

    >>> ids = torch.tensor([[0, 5, 6, 7], [4, 5, 6, 7]])
    >>> mask, answers = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), torch.tensor([1, 0])
    >>> with_learned({"input_ids": ids, "attention_mask": mask, "continuation": answers})["learned"].int().tolist()
    [[0, 0, 0, 1], [0, 1, 1, 1]]
    """
    mask, answers = batch["attention_mask"].bool(), batch["continuation"][:, None]
    from_end = torch.arange(mask.shape[1], 0, -1, device=mask.device)[None]
    # The first token of a text follows nothing.
    behind = mask & torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=1)
    return {**batch, "learned": torch.where(answers > 0, from_end <= answers, behind)}
