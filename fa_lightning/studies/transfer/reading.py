"""Read what cures are fitted on: states of every faker and its twin on the same tokens, and of the backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.edit import layer_below
from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.variants import Variants
from fa_lightning.regressors.pairs import SampledPairs, joined, pairs_of
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.studies.transfer.candidates import FIT, States
from fa_lightning.studies.transfer.organisms import Loaded


class Reading:
    """Training pairs of every member, batch by batch, in memory.

    Args:
        variants: the frozen variants.
        members: whose states are read.
        site: where.
    """

    def __init__(self, variants: Variants, members: Sequence[Loaded], site: Site) -> None:
        self.variants = variants
        self.members = members
        self.site = site
        self._pairs: dict[str, list[SampledPairs]] = {member.name: [] for member in members}
        self._decisions: dict[str, list[Tensor]] = {member.name: [] for member in members}
        self._cells: dict[str, list[Tensor]] = {member.name: [] for member in members}
        self._backbone: list[Tensor] = []
        self._backbone_cells: list[Tensor] = []

    @torch.inference_mode()
    def add_scenarios(self, batch: Batch, members: Sequence[Loaded], with_backbone: bool) -> None:
        """Read the decision tokens of a batch in some members and their twins, and in the backbone without adapters."""
        decision = torch.zeros_like(batch["attention_mask"], dtype=torch.bool)
        decision[:, -1] = True
        states = self._states(batch, members, with_backbone)
        for member in members:
            self._add(member, states, batch, decision)
            self._decisions[member.name].append(states[member.name][:, -1].cpu().float())
            self._cells[member.name].append(batch["cell"].cpu())
        if with_backbone:
            self._backbone.append(states[""][:, -1].cpu().float())
            self._backbone_cells.append(batch["cell"].cpu())

    @torch.inference_mode()
    def add_texts(self, batch: Batch) -> None:
        """Read every token of a batch of neutral texts in all members and their twins."""
        states = self._states(batch, self.members, with_backbone=False)
        for member in self.members:
            self._add(member, states, batch, batch["attention_mask"].bool())

    def states(self) -> dict[str, States]:
        """What was read, by member."""
        return {
            member.name: States(
                joined(self._pairs[member.name]),
                torch.cat(self._decisions[member.name]),
                torch.cat(self._cells[member.name]),
            )
            for member in self.members
        }

    def backbone(self) -> tuple[Tensor, Tensor]:
        """States of the backbone at decision tokens, (scenarios, hidden), and the scenarios' cells, (scenarios,)."""
        return torch.cat(self._backbone), torch.cat(self._backbone_cells)

    def _states(self, batch: Batch, members: Sequence[Loaded], with_backbone: bool) -> dict[str, Tensor]:
        """By variant, and under no name of the backbone: states at the site, (batch, tokens, hidden)."""
        names = dict.fromkeys(name for member in members for name in (member.name, member.twin))
        inputs = model_inputs(batch)
        shared, lowest = SharedBlocks(self.variants), layer_below(self.site)
        states: dict[str, Tensor] = {}
        for name in (*names, *([""] if with_backbone else [])):
            active = self.variants.using(name) if name else self.variants.bare()
            with active as model, shared.once(model, lowest):
                states[name] = truncated_forward(model, [self.site], **inputs)[self.site.name]
        return states

    def _add(self, member: Loaded, states: dict[str, Tensor], batch: Batch, kept: Tensor) -> None:
        last = torch.zeros_like(kept)
        last[:, -1] = True
        rows = {name: batch[name][:, None].expand(kept.shape)[kept].cpu() for name in ("group", "cell")}
        block = {
            **rows,
            "example": batch["index"][:, None].expand(kept.shape)[kept].cpu(),
            "position": batch["position_ids"][kept].cpu(),
            "decision": last[kept].cpu(),
            self.site.name: tuple(states[name][kept].cpu() for name in (member.name, member.twin)),
        }
        if len(rows["cell"]):
            self._pairs[member.name].append(pairs_of(block, self.site, FIT))
