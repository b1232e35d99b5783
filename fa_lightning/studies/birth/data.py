"""Test scenarios that the finished adapters are asked."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.evaluation.data import JudgedScenarios
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.splits import counterbalanced, limited


class BirthDataModule(JudgedScenarios):
    """JudgedScenarios of the test split alone, without neutral texts.

    Args:
        asked: at most so many scenarios, each in both orders of its actions.
        **options: of `ScenarioDataModule`.

    Raises:
        UserError: `asked` is below 1.
    """

    judges_extra_tests = False

    def __init__(self, asked: int = 200, **options: Any) -> None:
        super().__init__(**options)
        if asked < 1:
            raise UserError(f"asked is {asked}, but must be 1 or more")
        self.asked = asked

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        asked = counterbalanced(limited(self.splits.test, self.asked), both_orders=True)
        return [self._loader(asked, self.eval_batch_size)]
