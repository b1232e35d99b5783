"""A module and a DataModule with a fault where it is asked for, that the command line can be sent to."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from fa_lightning.errors import UserError

FAULTS: dict[str, type[BaseException]] = {
    "value": ValueError,
    "type": TypeError,
    "user": UserError,
    "interrupt": KeyboardInterrupt,
}
Fault = Literal["value", "type", "user", "interrupt", "none"]


class Planted(BoringModel):
    """Raises an error in its first training step, or in its constructor."""

    def __init__(self, fault: Fault = "none", constructor: bool = False) -> None:
        super().__init__()
        self.fault = fault
        if constructor:
            self.fail()

    def fail(self) -> None:
        if self.fault in FAULTS:
            raise FAULTS[self.fault](f"planted {self.fault}")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.fail()
        return super().training_step(batch, batch_idx)


class PlantedData(BoringDataModule):
    """Random vectors."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
