"""Watch a fit: measure the model every few steps, and write what was found at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from fa_lightning.backbones.generators import generator_states, restore_generators
from fa_lightning.common.codec import read_dataclass, write_dataclass
from fa_lightning.errors import UserError
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.splits import counterbalanced, subset
from fa_lightning.studies.birth.measuring import Measuring
from fa_lightning.studies.birth.result import HISTORY_NAME, History
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.module import AdapterModule
from fa_lightning.training.sample_answers import holds_all_weights


class Watch(pl.Callback):
    """Measures the adapter that is fitted before its first step, every few steps and behind the last one.

    The fit goes on as if nobody watched: nothing is drawn from anybody's generators, and no mode or weight is changed.
    A row is on the disk as soon as it is measured (`history.json`, replaced as a whole). A fit that is resumed keeps
    the rows up to its checkpoint and measures the later ones again; one that starts anew begins an empty file.

    Args:
        folder: receives `history.json`.
        steps: between two measurements; or a list of the steps that are measured, beside the first and the last.
        scenarios: at most so many validation scenarios, half of them without oversight.
        layers: number of adapted blocks that are probed, evenly spread.
        doses: norm of noise and vectors over the mean norm of last tokens' states.
        draws: of noise.

    Raises:
        UserError: a number is out of range; later, the fit is none of an adapter on scenarios, or each rank holds only
            a part of the weights.
    """

    def __init__(
        self,
        folder: str,
        steps: int | list[int] = 25,
        scenarios: int = 200,
        layers: int = 3,
        doses: list[float] = [0.5, 1.0],  # noqa: B006
        draws: int = 2,
    ) -> None:
        if not (min(steps, default=0) >= 0 if isinstance(steps, list) else steps >= 1):
            raise UserError(f"steps is {steps}, but must be 1 or more, or a list of steps from 0 on, such as [10, 100]")
        for name, value, low in (("scenarios", scenarios, 8), ("layers", layers, 1), ("draws", draws, 1)):
            if value < low:
                raise UserError(f"{name} is {value}, but must be {low} or more")
        if not doses or min(doses) <= 0:
            raise UserError(f"doses is {doses}, but must hold numbers above 0, such as [0.5, 1.0]")
        self.path = Path(folder) / HISTORY_NAME
        self.steps, self.scenarios, self.layers = steps, scenarios, layers
        self.doses, self.draws = list(doses), draws
        self.history: History | None = None
        self._measuring: Measuring | None = None
        self._measured: set[int] = set()

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for value, kind in ((pl_module, AdapterModule), (data, ScenarioDataModule)):
            if not isinstance(value, kind):
                raise UserError(f"Watch is for a fit by {kind.__name__}, but here is a {type(value).__name__}")
        if not holds_all_weights(trainer.strategy):
            raise UserError(
                "Watch measures on one rank, but this strategy cuts the weights over ranks: use "
                "configs/trainer/ddp.yaml"
            )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with undrawn():
            self._begin(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Here and not behind the step before, so that the fit's own clock does not run.
        step = trainer.global_step
        if step == 0 or (step in self.steps if isinstance(self.steps, list) else step % self.steps == 0):
            self._measure(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer, module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        examples = data.examples_of(chosen(data.splits.validation, self.scenarios))
        measuring = Measuring(
            module.model,
            module.variant,
            examples,
            module.tokenizer.pad_token_id,
            data.eval_batch_size,
            self.layers,
            self.doses,
            self.draws,
        )
        self._measuring = measuring
        known = read_dataclass(History, self.path) if trainer.ckpt_path is not None else None
        if known is not None and known.setting != measuring.setting:
            raise UserError(
                f"{self.path} was measured otherwise ({known.setting}) than this fit is now ({measuring.setting}): "
                "give the same arguments, or move it away"
            )
        rows = [] if known is None else [row for row in known.rows if row.step <= trainer.global_step]
        self.history = History(measuring.setting, rows)
        self._measured = {row.step for row in rows}

    def _measure(self, trainer: pl.Trainer, module: Any) -> None:
        assert self.history is not None
        assert self._measuring is not None
        # Known to every rank, while the rows are rank zero's: batches that are accumulated come at one step.
        if trainer.global_step in self._measured:
            return
        self._measured.add(trainer.global_step)
        if trainer.is_global_zero:
            with undrawn():
                running = trainer.precision_plugin.forward_context()
                row = self._measuring.measure(module.adapted, trainer.global_step, running)
            self.history = replace(self.history, rows=[*self.history.rows, row])
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_dataclass(self.path, self.history)
            rank_zero_info(
                f"step {row.step}: aligned answers {row.oversight.value:.3f} with oversight, "
                f"{row.no_oversight.value:.3f} without; measured in {row.seconds:.1f} s"
            )
        trainer.strategy.barrier("measured")


@contextmanager
def undrawn() -> Iterator[None]:
    """Whatever the block draws, all generators go on from where they were."""
    before = generator_states()
    try:
        yield
    finally:
        restore_generators(before)


def chosen(validation: list[Scenario], number: int) -> list[Scenario]:
    """A sample of at most so many validation scenarios, as many of either cell.

    Each is in the order of actions that it is judged in, so the states below the adapter are those that the fit keeps.
    """
    judged = counterbalanced(validation)
    cells = [[item for item in judged if (item.cell == "no_oversight") is bare] for bare in (False, True)]
    size = min(number // 2, *map(len, cells))
    return [item for own in cells for item in subset(own, size)]
