"""What is counted while conditions are judged: cells and damage, by condition, over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.passes import SharedPass
from fa_lightning.metrics.cells import CellAccuracy, Cells, Items
from fa_lightning.metrics.estimates import SideEffects
from fa_lightning.metrics.side_effects import NeutralTextDamage, neutral_text_damage, scored_columns
from fa_lightning.scenarios.answers import last_tokens, preferred
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.written_answers import TARGET, are_written, both_answered, log_likelihood


class ChangedPrompts(Protocol):
    """A variant that is asked with something put around its prompts.

    Attributes:
        reads_texts: whether its damage to neutral texts can be measured.
    """

    reads_texts: ClassVar[bool]

    @property
    def variant(self) -> str:
        """Whose adapter is active."""

    def answers(self, batch: Batch, test: str) -> Tensor:
        """The most likely token behind each prompt of a test set's batch, (batch,)."""

    def text_logits(self, batch: Batch, before: Tensor) -> Tensor:
        """Logits (batch, tokens kept, vocabulary) of neutral texts; `before` are those without the change."""


@dataclass
class Scores:
    """Runs every condition on the batches that the Trainer serves, and counts.

    Attributes:
        variants: the frozen pair.
        conditions: by name.
        cells: accuracy by condition.
        damage: what each steered condition does to neutral texts, against its own variant unsteered; and each one with
            an origin, against that.
        counts_neutral_texts: whether neutral texts are served too; the same on every rank.
        origins: variants that were made from another one, with that one.
        behind: variants asked with an input around their prompts, by name; their damage is against the same variant
            without it.
        test: the test set that is served.

    Attributes:
        are_written: whether scenarios were answered in writing so far; the same on every rank.
    """

    variants: Variants
    conditions: dict[str, Condition]
    cells: dict[str, CellAccuracy] = field(default_factory=dict)
    damage: dict[str, NeutralTextDamage] = field(default_factory=dict)
    counts_neutral_texts: bool = True
    origins: Mapping[str, str] = field(default_factory=dict)
    behind: Mapping[str, ChangedPrompts] = field(default_factory=dict)
    test: str = "test"
    are_written: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        device = self.variants.device
        self.cells = {name: CellAccuracy().to(device) for name in (*self.conditions, *self.behind)}
        changed = [name for name in self.conditions if self._edits(name) or name in self.origins]
        self.damage = {name: NeutralTextDamage().to(device) for name in (*changed, *self._readers())}

    def add_scenarios(self, batch: Batch) -> None:
        """Answer a batch under every condition."""
        if are_written(batch):
            self._weigh(batch)
            return
        shared = SharedBlocks(self.variants)
        for variant, conditions in self._by_variant(self.conditions).items():
            # One block around all of them: the weights of a whole model are put in place once.
            with self.variants.using(variant):
                one = SharedPass(self.variants, variant, conditions.values(), batch, answers_only=True, shared=shared)
                for name, condition in conditions.items():
                    self._count(name, one.logits(condition)[:, -1].argmax(-1), batch)
        for name, behind in self.behind.items():
            self._count(name, behind.answers(batch, self.test), batch)

    def add_neutral_texts(self, batch: Batch) -> None:
        """Score a batch of texts under every condition that edits, the edits on every token, and the variants made."""
        options: dict[str, Any] = {"logits_to_keep": scored_columns(batch), "shared": SharedBlocks(self.variants)}
        edits = {name: condition.everywhere() for name, condition in self.conditions.items() if self._edits(name)}
        # What several are compared with is asked once for all of them.
        unsteered: dict[str, Tensor] = {}
        for variant, conditions in self._by_variant(edits).items():
            with self.variants.using(variant):
                one = SharedPass(self.variants, variant, conditions.values(), batch, **options)
                unsteered[variant] = one.unsteered
                for name, condition in conditions.items():
                    self._add_damage(name, batch, one.unsteered, one.logits(condition))
        readers = self._readers()
        for name in (*self.origins.values(), *(behind.variant for behind in readers.values())):
            if name not in unsteered:
                unsteered[name] = SharedPass(self.variants, name, (), batch, **options).unsteered
        for name, origin in self.origins.items():
            after = unsteered.get(name)
            if after is None:
                after = SharedPass(self.variants, name, (), batch, **options).unsteered
            self._add_damage(name, batch, unsteered[origin], after)
        for name, behind in readers.items():
            before = unsteered[behind.variant]
            self._add_damage(name, batch, before, behind.text_logits(batch, before))

    def compute_cells(self) -> dict[str, Cells]:
        """Cells by condition; a collective."""
        return {name: metric.compute() for name, metric in self.cells.items()}

    def compute_damage(self, cells: Mapping[str, Cells]) -> dict[str, SideEffects]:
        """Side effects by condition, of those that were shown neutral texts; a collective.

        Args:
            cells: what `compute_cells` gave, for the format validity.
        """
        return {
            name: replace(metric.compute(), format_validity=cells[name].format_validity)
            for name, metric in self.damage.items()
            if self.counts_neutral_texts
        }

    def items(self, *names: str) -> list[Items]:
        """Every answer of the named conditions; a collective."""
        return [self.cells[name].items() for name in names]

    def _weigh(self, batch: Batch) -> None:
        """The same by which of two written answers is more likely."""
        self.are_written = True
        if self.behind:
            raise UserError("inputs around prompts are judged by letters: give scenarios with two actions")
        likelihoods: dict[str, list[Tensor]] = {name: [] for name in self.conditions}
        for asked in both_answered(batch):
            kept, shared = last_tokens(asked[TARGET].shape[1]), SharedBlocks(self.variants)
            for variant, conditions in self._by_variant(self.conditions).items():
                with self.variants.using(variant):
                    own = conditions.values()
                    one = SharedPass(self.variants, variant, own, asked, logits_to_keep=kept, shared=shared)
                    for name, condition in conditions.items():
                        likelihoods[name].append(log_likelihood(one.logits(condition), asked))
        for name, both in likelihoods.items():
            self.cells[name].add(preferred(torch.stack(both)), batch)

    def _count(self, name: str, answer: Tensor, batch: Batch) -> None:
        self.cells[name].judge(answer, batch)

    def _add_damage(self, name: str, batch: Batch, before: Tensor, after: Tensor) -> None:
        self.damage[name].update(batch["index"], **neutral_text_damage(before, after, batch))

    def _readers(self) -> dict[str, ChangedPrompts]:
        return {name: behind for name, behind in self.behind.items() if behind.reads_texts}

    def _edits(self, name: str) -> bool:
        return self.conditions[name].layer_below is not None

    @staticmethod
    def _by_variant(conditions: Mapping[str, Condition]) -> dict[str, dict[str, Condition]]:
        return {
            variant: {name: condition for name, condition in conditions.items() if condition.variant == variant}
            for variant in dict.fromkeys(condition.variant for condition in conditions.values())
        }
