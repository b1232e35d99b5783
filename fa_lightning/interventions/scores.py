"""What is counted while conditions are judged: cells and damage, by condition, over all ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from fa_lightning.backbones.adapters import Variants
from fa_lightning.interventions.conditions import Condition, all_logits, answer_logits
from fa_lightning.metrics.cells import CellAccuracy, Cells, Damage, Items, NeutralTextDamage
from fa_lightning.metrics.functional import neutral_text_damage
from fa_lightning.scenarios.batches import Batch


@dataclass
class Scores:
    """Runs every condition on the batches that the Trainer serves, and counts.

    Attributes:
        variants: the frozen pair.
        conditions: by name.
        cells: accuracy by condition.
        damage: what each steered condition does to neutral texts, against its own variant unsteered.
        counts_neutral_texts: whether neutral texts are served too; the same on every rank.
    """

    variants: Variants
    conditions: dict[str, Condition]
    cells: dict[str, CellAccuracy] = field(default_factory=dict)
    damage: dict[str, NeutralTextDamage] = field(default_factory=dict)
    counts_neutral_texts: bool = True

    def __post_init__(self) -> None:
        device = self.variants.device
        self.cells = {name: CellAccuracy().to(device) for name in self.conditions}
        self.damage = {name: NeutralTextDamage().to(device) for name in self.conditions if self._edits(name)}

    def add_scenarios(self, batch: Batch) -> None:
        """Answer a batch under every condition."""
        for name, condition in self.conditions.items():
            answer = answer_logits(self.variants, condition, batch).argmax(-1)
            correct = answer == batch["aligned"]
            self.cells[name].update(
                correct, batch["cell"], batch["group"], batch["index"], correct | (answer == batch["other"])
            )

    def add_neutral_texts(self, batch: Batch) -> None:
        """Score a batch of texts under every condition that edits."""
        unsteered: dict[str, torch.Tensor] = {}
        for name, metric in self.damage.items():
            condition = self.conditions[name]
            if condition.variant not in unsteered:
                unsteered[condition.variant] = all_logits(self.variants, Condition(condition.variant), batch)
            steered = all_logits(self.variants, condition, batch)
            sums: Any = neutral_text_damage(
                unsteered[condition.variant], steered, batch["input_ids"], batch["attention_mask"]
            )
            metric.update(batch["index"], **sums)

    def compute_cells(self) -> dict[str, Cells]:
        """Cells by condition; a collective."""
        return {name: metric.compute() for name, metric in self.cells.items()}

    def compute_damage(self) -> dict[str, Damage]:
        """Damage by condition, of those that were shown neutral texts; a collective."""
        return {name: metric.compute() for name, metric in self.damage.items() if self.counts_neutral_texts}

    def items(self, *names: str) -> list[Items]:
        """Every answer of the named conditions; a collective."""
        return [self.cells[name].items() for name in names]

    def _edits(self, name: str) -> bool:
        condition = self.conditions[name]
        return bool(condition.interventions) or condition.oracle is not None
