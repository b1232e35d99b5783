"""Many edits tried on the same prompts: the faker's pass below a layer is made once and shared by all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.edit import edited, swap_in
from fa_lightning.activations.kept_pass import KeptPass
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.variants import Variants
from fa_lightning.common.activity import doing
from fa_lightning.errors import NotFiniteError
from fa_lightning.evaluation.conditions import everywhere, in_texts
from fa_lightning.metrics.cells import CellAccuracy, Cells, Items
from fa_lightning.metrics.estimates import Accuracy, CellCounts, SideEffects
from fa_lightning.metrics.side_effects import NeutralTextDamage, neutral_text_damage, scored_columns
from fa_lightning.scenarios.answers import last_token
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.steering.intervention import Intervention, steering

Interventions = tuple[Intervention, ...]

PREVIEW_RESAMPLES = 1
"""Trials that only serve a choice need no interval, which would take longer than the trial itself."""

KEPT_BYTES = 2**28
"""Unsteered logits are kept up to this size: the whole of a small model's texts, the first batches of a large one's."""

EditOf = Callable[[int], AbstractContextManager[None]]
"""Given the number of a batch, the block in which an edit is in place."""


@dataclass
class Judged:
    """What an edit did.

    Attributes:
        cells: nan where the scenarios were not asked.
        items: every answer, for a paired recovery; empty where not asked.
        damage: on neutral texts; nan where they were not read.
    """

    cells: Cells
    items: Items
    damage: SideEffects


_NOT_ASKED = Cells(Accuracy(math.nan), Accuracy(math.nan), CellCounts(0, 0), math.nan)
_NOT_READ = SideEffects()


class Bench:
    """One split's scenarios and neutral texts, and one variant that edits are tried on.

    Args:
        variants: the frozen pair.
        scenarios: batches as the Trainer served them.
        neutral: the same of neutral texts.
        variant: the adapter to be steered.
        resamples: of the bootstrap; see `PREVIEW_RESAMPLES`.
    """

    def __init__(
        self,
        variants: Variants,
        scenarios: Sequence[Batch],
        neutral: Sequence[Batch],
        variant: str = "faking",
        resamples: int = 1000,
    ) -> None:
        self.variants = variants
        self.variant = variant
        self.resamples = resamples
        self.layer = -1
        self._passes = {
            "scenarios": [KeptPass(variants, variant, batch, logits_to_keep=last_token()) for batch in scenarios],
            "neutral": [KeptPass(variants, variant, batch, logits_to_keep=scored_columns(batch)) for batch in neutral],
        }
        self._theirs: dict[str, list[Tensor]] = {}
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def settle(self, layer: int) -> None:
        """Make the pass up to block `layer` (-1: none) for all batches; edits below it can't be judged until the next.

        Holds one state for each token of the split, on the variants' device.
        """
        if layer == self.layer:
            return
        self._theirs, self.layer = {}, layer
        passes = [one for kind in self._passes.values() for one in kind]
        # All before the first: one layer's states must not lie beside another's.
        for one in passes:
            one.release()
        with self.variants.using(self.variant):
            for one in passes if layer >= 0 else ():
                with doing("steering", one.batch):
                    one.keep_at(layer)

    def judge(self, edits: Mapping[Any, Interventions], cells: bool = True, damage: bool = True) -> dict[Any, Judged]:
        """Try interventions, by name; their strength is their own.

        Args:
            edits: by any name; no intervention at all is the variant itself.
            cells: ask the scenarios.
            damage: read the neutral texts, with the edits on every token.
        """
        asked = {name: self._steered(interventions) for name, interventions in edits.items()}
        read = {name: self._steered(everywhere(interventions)) for name, interventions in edits.items()}
        return self._judge(asked if cells else {}, read if damage else {}, list(edits))

    def judge_swaps(self, site: Site, units: Mapping[Any, Tensor]) -> dict[Any, Judged]:
        """Try the oracle swap of some units: the aligned twin's own values in the place of the faker's at a site.

        Args:
            site: where; its position rule says which tokens.
            units: by any name, which units to swap, (hidden,) booleans.
        """
        for kind, passes in self._passes.items():
            if kind + site.name not in self._theirs:
                with self.variants.using("aligned"):
                    self._theirs[kind + site.name] = [self._their_states(site, one.batch) for one in passes]
        asked = {name: self._swap("scenarios", site, swapped) for name, swapped in units.items()}
        read = {name: self._swap("neutral", in_texts(site), swapped) for name, swapped in units.items()}
        return self._judge(asked, read, list(units))

    @torch.no_grad()
    def _judge(self, asked: Mapping[Any, EditOf], read: Mapping[Any, EditOf], names: list[Any]) -> dict[Any, Judged]:
        device = self.variants.device
        accuracy = {name: CellAccuracy(self.resamples).to(device) for name in names}
        harm = {name: NeutralTextDamage().to(device) for name in names}
        # One block around all of them: the weights of a whole model are put in place once.
        with self.variants.using(self.variant):
            self._count(asked, read, accuracy, harm)
        return {
            name: Judged(
                accuracy[name].compute() if asked else _NOT_ASKED,
                accuracy[name].items() if asked else {},
                harm[name].compute() if read else _NOT_READ,
            )
            for name in names
        }

    def _count(
        self,
        asked: Mapping[Any, EditOf],
        read: Mapping[Any, EditOf],
        accuracy: Mapping[Any, CellAccuracy],
        harm: Mapping[Any, NeutralTextDamage],
    ) -> None:
        """Run all edits over the scenarios, then over the neutral texts."""
        for place, one in enumerate(self._passes["scenarios"] if asked else ()):
            with doing("steering", one.batch):
                for name, edit in asked.items():
                    logits = one.logits(self.layer, edit(place))[:, -1]
                    accuracy[name].judge(_finite(logits, name).argmax(-1), one.batch)
        for place, one in enumerate(self._passes["neutral"] if read else ()):
            batch = one.batch
            with doing("steering", batch):
                unsteered = self._unsteered(place)
                for name, edit in read.items():
                    steered = one.logits(self.layer, edit(place))
                    sums = neutral_text_damage(unsteered, steered, batch)
                    _finite(sums["kl"], name)
                    harm[name].update(batch["index"], **sums)

    def _unsteered(self, place: int) -> Tensor:
        """Logits of neutral texts without an edit; kept where they are small."""
        if place in self._kept:
            return self._kept[place]
        logits = self._passes["neutral"][place].logits(self.layer)
        if sum(kept.nbytes for kept in self._kept.values()) + logits.nbytes <= KEPT_BYTES:
            self._kept[place] = logits
        return logits

    def _their_states(self, site: Site, batch: Batch) -> Tensor:
        with doing("steering", batch), torch.no_grad(), self.variants.using("aligned") as model:
            return truncated_forward(model, [site], **model_inputs(batch))[site.name]

    def _swap(self, kind: str, site: Site, units: Tensor) -> EditOf:
        def edit(place: int) -> AbstractContextManager[None]:
            theirs = self._theirs[kind + site.name][place]
            swap = swap_in(theirs, site, self._passes[kind][place].batch, units)
            return edited(self.variants.model, site, swap, (theirs.shape[0], theirs.shape[1]))

        return edit

    def _steered(self, interventions: Interventions) -> EditOf:
        return lambda _: steering(self.variants.model, interventions)


def _finite(values: Tensor, name: Any) -> Tensor:
    """Logits or divergences, or an error that says which edit broke the model."""
    if not torch.isfinite(values).all():
        raise NotFiniteError(
            f"the edit {name} makes logits that are not finite: its strength is too large for the model's dtype, or "
            "its map holds nan. Lower the strengths or doses, or leave out the method"
        )
    return values
