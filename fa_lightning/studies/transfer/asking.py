"""How models are asked under cures that are no edits of states, and how far any cure moves the first token said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.passes import SharedPass
from fa_lightning.evaluation.scores import ChangedPrompts, Scores
from fa_lightning.metrics.cells import Items
from fa_lightning.metrics.distinct_items import DistinctTensors
from fa_lightning.metrics.divergences import kl_divergence
from fa_lightning.scenarios.answers import answer_logits
from fa_lightning.scenarios.batches import Batch, Example, collate, model_inputs

Cured = Condition | ChangedPrompts
"""A model under a cure: an edit of its states, or what is no such edit."""
TEXTS = "neutral texts"
"""The name that neutral texts have among the test sets."""


class LastBatch:
    """The blocks below all adapters, which run once for every cure of a batch, and no longer than it is asked.

    Args:
        variants: the frozen variants.
    """

    def __init__(self, variants: Variants) -> None:
        self.variants = variants
        self._batch: Batch | None = None
        self._shared: SharedBlocks | None = None

    def shared(self, batch: Batch) -> SharedBlocks:
        """The blocks of a batch: the same object while the same batch is asked."""
        if self._shared is None or self._batch is not batch:
            self._batch, self._shared = batch, SharedBlocks(self.variants)
        return self._shared


@dataclass(frozen=True)
class ShiftedWeights:
    """A variant with a share of other twins' difference added to its weights (task arithmetic, arXiv 2212.04089).

    Attributes:
        variants: the frozen variants.
        variant: whose adapter is active.
        difference: that is added, see `Variants.shifted`.
        strength: its factor.
        last: what others have computed of the batch at hand.
    """

    variants: Variants
    variant: str
    difference: str
    strength: float
    last: LastBatch

    reads_texts: ClassVar[bool] = True

    def answers(self, batch: Batch, test: str) -> Tensor:
        """The most likely token behind each prompt, (batch,)."""
        return self._logits(batch).argmax(-1)

    def text_logits(self, batch: Batch, before: Tensor) -> Tensor:
        """Logits behind neutral texts, (batch, 1, vocabulary)."""
        return self._logits(batch)[:, None]

    def _logits(self, batch: Batch) -> Tensor:
        with self.variants.shifted(self.difference, self.strength):
            shared = self.last.shared(batch)
            return SharedPass(self.variants, self.variant, (), batch, answers_only=True, shared=shared).unsteered[:, -1]


@dataclass(frozen=True)
class BehindSystemMessage:
    """A variant that is asked behind a system message.

    Attributes:
        variants: the frozen variants.
        variant: whose adapter is active.
        examples: by test set and for neutral texts (`TEXTS`), the prompts behind the message, by their number.
        pad_token: id of the padding.
    """

    variants: Variants
    variant: str
    examples: Mapping[str, Mapping[int, Example]]
    pad_token: int

    reads_texts: ClassVar[bool] = True

    def answers(self, batch: Batch, test: str) -> Tensor:
        """The most likely token behind each prompt, (batch,)."""
        return self._logits(batch, test).argmax(-1)

    def text_logits(self, batch: Batch, before: Tensor) -> Tensor:
        """Logits behind neutral texts, (batch, 1, vocabulary)."""
        return self._logits(batch, TEXTS)[:, None]

    @torch.inference_mode()
    def _logits(self, batch: Batch, test: str) -> Tensor:
        own = self.examples[test]
        changed = collate([own[number] for number in batch["index"].tolist()], self.pad_token)
        changed = {name: values.to(batch["index"].device) for name, values in changed.items()}
        with self.variants.using(self.variant) as model:
            return answer_logits(model, model_inputs(changed))


def answer_divergences(
    variants: Variants, conditions: Mapping[str, Condition], behind: Mapping[str, ChangedPrompts], batch: Batch
) -> dict[str, Tensor]:
    """KL(variant || the same under a condition) at the first token said to neutral texts, (batch,) nats by name.

    Args:
        variants: the frozen variants.
        conditions: edits of variants; they are put on every token that they may come to cover.
        behind: variants that are changed otherwise.
        batch: the texts.
    """
    shared = SharedBlocks(variants)
    edits = {name: condition.everywhere() for name, condition in conditions.items() if condition.interventions}
    found: dict[str, Tensor] = {}
    asked = [condition.variant for condition in edits.values()] + [changed.variant for changed in behind.values()]
    for variant in dict.fromkeys(asked):
        own = {name: condition for name, condition in edits.items() if condition.variant == variant}
        with variants.using(variant):
            one = SharedPass(variants, variant, own.values(), batch, answers_only=True, shared=shared)
            before = one.unsteered
            for name, condition in own.items():
                found[name] = kl_divergence(before[:, -1], one.logits(condition)[:, -1])
        for name, changed in behind.items():
            if changed.variant == variant:
                found[name] = kl_divergence(before[:, -1], changed.text_logits(batch, before)[:, -1])
    return {name: found[name] for name in (*edits, *behind)}


def by_kind(cured: Mapping[str, Cured]) -> tuple[dict[str, Condition], dict[str, ChangedPrompts]]:
    """Edits of states, and what is no such edit."""
    edits = {label: one for label, one in cured.items() if isinstance(one, Condition)}
    return edits, {label: one for label, one in cured.items() if not isinstance(one, Condition)}


class Asked:
    """Everything that is asked of one part: scenarios of each source, and neutral texts.

    Args:
        variants: the frozen variants.
        scores: by source, what counts answers to scenarios.
        costs: by label, what neutral texts are asked under.

    Attributes:
        scores: the same.
    """

    def __init__(self, variants: Variants, scores: dict[str, Scores], costs: Mapping[str, Cured]) -> None:
        self.scores = scores
        self._variants = variants
        self._edits, self._behind = by_kind(costs)
        self._divergences = DistinctTensors(dict.fromkeys(costs, ()))

    def add_texts(self, batch: Batch) -> None:
        """Count how far everything moves the first token said to a batch of neutral texts."""
        nats = answer_divergences(self._variants, self._edits, self._behind, batch)
        self._divergences.update(batch["index"], nats)

    def items(self) -> dict[str, Items]:
        """Every answer, by label."""
        found: dict[str, Items] = {}
        for scores in self.scores.values():
            names = list(scores.cells)
            found |= dict(zip(names, scores.items(*names), strict=True))
        return found

    def divergences(self) -> dict[str, float]:
        """Mean nats by label; nan where no text was served."""
        return {
            label: float(values.double().mean()) if len(values) else math.nan
            for label, values in self._divergences.compute().items()
        }
