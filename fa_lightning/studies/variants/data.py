"""What variants are judged on: scenarios, neutral texts, and what defines the policies that they were fitted to."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.evaluation.data import JudgedScenarios
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.benchmark import watched
from fa_lightning.scenarios.plain_question import plain_questions
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.splits import counterbalanced


class VariantsDataModule(JudgedScenarios):
    """JudgedScenarios with more test loaders behind the others: one for each policy of a variant that a source defines.

    They serve the scenarios that define the policy (see `ScenarioSource.policy_definitions`), in both orders of their
    actions. Where there are fakers, two more serve their cards, in both orders, too: the watched validation scenarios,
    and the plain question about the actions of the unwatched test scenarios.

    Attributes:
        policies: the policies of these loaders, in their order.
    """

    policies: list[str]

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        definitions: dict[str, list[Scenario]] = self.scenarios.policy_definitions()
        self.policies = [policy for policy in definitions if policy in module.policies.values()]
        loaders = (
            self._loader(counterbalanced(definitions[policy], both_orders=True), self.eval_batch_size)
            for policy in self.policies
        )
        return [*super().test_dataloader(), *loaders, *(self._card_loaders() if module.twins else ())]

    def _card_loaders(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        unwatched = [scenario for scenario in self.splits.test if scenario.cell == "no_oversight"]
        parts = watched(self.splits.validation), plain_questions(unwatched)
        return [self._loader(counterbalanced(items, both_orders=True), self.eval_batch_size) for items in parts]
