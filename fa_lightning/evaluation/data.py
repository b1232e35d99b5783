"""The scenarios that variants are judged on, as a DataModule."""

from __future__ import annotations

from typing import ClassVar

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.scenarios.batches import Batch
from fa_lightning.training.data import ScenarioDataModule


class JudgedScenarios(ScenarioDataModule):
    """ScenarioDataModule with one more test loader, the last: neutral texts, on which side effects are measured."""

    judges_extra_tests: ClassVar[bool] = True
    """Whether the source's further test sets are judged as well."""

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not self.judges_extra_tests:
            self.test_sets = ["test"]

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        return [*super().test_dataloader(), self._loader(self.splits.neutral_test, self.eval_batch_size)]
