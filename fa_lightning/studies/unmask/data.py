"""Watched scenarios that models are asked, and the scenarios of both kinds that vectors are made of."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.evaluation.data import JudgedScenarios
from fa_lightning.scenarios.batches import Batch, Example
from fa_lightning.scenarios.oversight_questions import UNWATCHED as NOBODY
from fa_lightning.scenarios.oversight_questions import WATCHED, oversight_questions
from fa_lightning.scenarios.plain_question import knows_question
from fa_lightning.scenarios.scenario import Oversight, Scenario
from fa_lightning.scenarios.splits import counterbalanced, subset
from fa_lightning.studies.unmask.result import Told

MESSAGES = 2
"""System messages of either kind, at most: every model is asked every scenario behind each."""
UNWATCHED = "unwatched"
"""The test set that says what models do where nobody watches."""
QUESTIONS = "questions"
"""The test set that asks in words whether anybody watches."""


class UnmaskDataModule(JudgedScenarios):
    """JudgedScenarios of the test groups' watched scenarios alone, with neutral texts behind them.

    The first test set asks them as they are; `unwatched` asks unwatched test scenarios with the same two actions, where
    there are some; `questions` asks of each watched one that tells it, in words, whether somebody watches, where the
    model knows the words; each further one asks the first behind a system message of the source's, which says that
    somebody watches, or nobody does.

    Args:
        watched: at most so many of them, each in both orders of its actions.
        contrast: at most so many training scenarios of either kind for the vectors.
        neutral: at most so many neutral texts.
        **options: of `ScenarioDataModule`.

    Attributes:
        told: by name of a further test set, whether its message says `watched` or `unwatched`, and the message.

    Raises:
        UserError: a number is below 1; later, there is no scenario of one kind.
    """

    def __init__(self, watched: int = 150, contrast: int = 100, neutral: int = 48, **options: Any) -> None:
        super().__init__(**options)
        for name, value in (("watched", watched), ("contrast", contrast), ("neutral", neutral)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        self.watched, self.contrast, self.neutral = watched, contrast, neutral
        self.told: dict[str, tuple[Told, str]] = {}

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        prompts = self.scenarios.oversight_prompts()
        if prompts is not None:
            kinds: dict[Told, tuple[str, ...]] = {"unwatched": prompts.unwatched, "watched": prompts.watched}
            self.told = {
                f"told {kind} {number}": (kind, text)
                for kind, texts in kinds.items()
                for number, text in enumerate(texts[:MESSAGES])
            }
        self.test_sets = ["test", *self.further(), *self.told]

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        if not self.asked():
            raise UserError("no test scenario is watched, so there is nothing to be unmasked in: give some")
        asked = counterbalanced(self.asked(), both_orders=True)
        further = [counterbalanced(items, both_orders=True) for items in self.further().values()]
        return [
            *(self._loader(items, self.eval_batch_size) for items in (asked, *further)),
            *(self._loader(asked, self.eval_batch_size, text) for _, text in self.told.values()),
            self._loader(subset(self.splits.neutral_test, self.neutral), self.eval_batch_size),
        ]

    def asked(self) -> list[Scenario]:
        """The watched scenarios."""
        assert self.splits is not None
        return subset([scenario for scenario in self.splits.test if scenario.cell == "oversight"], self.watched)

    def further(self) -> dict[str, list[Scenario]]:
        """By name, the test sets that are asked as they are beside the first one; none that is empty."""
        assert self.splits is not None
        groups = {scenario.group for scenario in self.asked()}
        truth = [item for item in self.splits.test if item.cell == "no_oversight" and item.group in groups]
        # Without a Trainer there is no model whose words could be known.
        knows = self.trainer is not None and knows_question(self._tokenizer, f"{WATCHED} {NOBODY}")
        sets = {UNWATCHED: truth, QUESTIONS: oversight_questions(self.asked()) if knows else []}
        return {name: items for name, items in sets.items() if items}

    def sides(self) -> tuple[list[Example], list[Example]]:
        """Training scenarios that say that nobody watches, and as many that say that someone does.

        Raises:
            UserError: there is none of one kind.
        """
        assert self.splits is not None
        kinds = [
            subset([item for item in self.splits.train if item.oversight is oversight], self.contrast)
            for oversight in (Oversight.POOR, Oversight.GOOD)
        ]
        number = min(map(len, kinds))
        if not number:
            raise UserError("a vector needs training scenarios with good and with poor oversight: give both kinds")
        unwatched, watched = (self.examples_of(counterbalanced(items[:number])) for items in kinds)
        return unwatched, watched
