"""Losses and states that need the live model: an edit's effect on answers, through the frozen layers above it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from fa_lightning.activations.capture import capture
from fa_lightning.activations.edit import Edit, edited, layer_below
from fa_lightning.activations.kept_pass import KeptPass
from fa_lightning.activations.positions import covered_tokens, rule_in_texts
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.variants import Variants
from fa_lightning.metrics.divergences import text_divergence
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.pairs import Block
from fa_lightning.scenarios.answers import last_token
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.cells import CELLS

_ROW_SOURCES = {"cell": "cell", "example": "index"}

Edits = Sequence[tuple[Site, Regressor]]


class FakerPass(KeptPass):
    """The faker's unsteered pass over one batch, kept so that every edit starts from its own layer.

    Args:
        variants: the frozen pair.
        batch: left-padded prompts or texts.
        sites: where states are read, and above which edits start.
        last_only: keep the logits of the last token alone.

    Attributes:
        states: (batch, tokens, hidden) by site name.
        unsteered: logits (batch, tokens or 1, vocabulary).
    """

    @torch.no_grad()
    def __init__(self, variants: Variants, batch: Batch, sites: Sequence[Site], last_only: bool) -> None:
        super().__init__(variants, "faking", batch, logits_to_keep=last_token() if last_only else 0)
        with capture(variants.model, sites, stop=False) as self.states:
            self.unsteered = self.keep(map(layer_below, sites))

    def steered_logits(self, edits: Edits) -> Tensor:
        """Logits with maps in place, differentiable in the maps; each edits the tokens that its site names.

        The tokens are `all` real ones or the `last`, which is what a prompt has.
        """
        return self.logits(_lowest(edits), *self._in_place(edits))

    @torch.no_grad()
    def steered_states(self, edits: Edits, site: Site) -> Tensor:
        """States at a site above the edits, (batch, tokens, hidden)."""
        return self.states_at(_lowest(edits), site, *self._in_place(edits))

    def edited(self, site: Site, edit: Edit) -> AbstractContextManager[None]:
        """The block in which `edit` is in place at a site."""
        rows, tokens = self.batch["input_ids"].shape
        return edited(self.variants.model, site, edit, (rows, tokens))

    def _in_place(self, edits: Edits) -> list[AbstractContextManager[None]]:
        return [self.edited(site, edit_of(map_, covered_in(self.batch, site.positions))) for site, map_ in edits]


def _lowest(edits: Edits) -> int:
    """The last block below all edits."""
    return min((layer_below(site) for site, _ in edits), default=-1)


def covered_in(batch: Batch, positions: str) -> Tensor:
    """The tokens of a batch of prompts that a position rule covers, (batch, tokens) booleans."""
    return covered_tokens(positions, batch["attention_mask"].bool(), batch["position_ids"], past=0)


def edit_of(regressor: Regressor, tokens: Tensor) -> Edit:
    """An edit of some tokens (batch, tokens) of the states, differentiable in the map."""

    def edit(states: Tensor) -> Tensor:
        new = states.clone()
        # In float32, as it will be when it steers.
        with torch.autocast(states.device.type, enabled=False):
            new[tokens] = regressor(states[tokens].float()).to(states.dtype)
        return new

    return edit


@torch.no_grad()
def aligned_pass(variants: Variants, batch: Batch, sites: Sequence[Site]) -> tuple[Tensor, dict[str, Tensor]]:
    """The aligned twin's answer logits (batch, vocabulary) and its states by site."""
    with capture(variants.model, sites, stop=False) as states:
        logits = KeptPass(variants, "aligned", batch, logits_to_keep=last_token()).keep(())
    return logits[:, -1], states


def neutral_divergence(live: FakerPass, site: Site, regressor: Regressor) -> Tensor:
    """KL(not steered || steered) on neutral texts with the edit on every token, nats (see `text_divergence`)."""
    everywhere = replace(site, positions=rule_in_texts(site.positions))
    steered = live.steered_logits([(everywhere, regressor)])
    return text_divergence(live.unsteered, steered, live.batch["attention_mask"])


def block_of(batch: Batch, site: Site, faking: Tensor, aligned: Tensor) -> Block:
    """Live states (batch, tokens, hidden) of both twins as a block of the store would hold them."""
    real = batch["attention_mask"].bool()
    decision = torch.zeros_like(real)
    decision[:, -1] = True
    rows = {name: batch[source][:, None].expand(real.shape)[real] for name, source in _ROW_SOURCES.items()}
    rows |= {"decision": decision[real], "position": batch["position_ids"][real]}
    return {site.name: (faking[real], aligned[real]), **rows}


def unit_effects(live: FakerPass, sites: Sequence[Site], aligned: dict[str, Tensor]) -> dict[str, Tensor]:
    """How much each unit moves the answer when it takes the aligned twin's value, to first order.

    The gradient of (aligned letter's logit - other letter's logit) with respect to the decision token's state, times
    the twins' difference, summed over the prompts of the batch: attribution patching (arXiv 2310.10348).

    Args:
        live: the faker's pass over prompts; those without oversight count.
        sites: where.
        aligned: the twin's states by site.

    Returns:
        By site, (hidden,).
    """
    unwatched = live.batch["cell"] == CELLS.index("no_oversight")
    offsets = {site.name: torch.zeros_like(live.states[site.name][:, -1], requires_grad=True) for site in sites}

    def added(offset: Tensor) -> Edit:
        return lambda states: torch.cat([states[:, :-1], states[:, -1:] + offset[:, None]], dim=1)

    edits = [live.edited(site, added(offsets[site.name])) for site in sites]
    logits = live.logits(min(map(layer_below, sites)), *edits)[:, -1].float()
    picked = [logits.gather(1, live.batch[name][:, None]) for name in ("aligned", "other")]
    gradients = torch.autograd.grad((picked[0] - picked[1]).sum(), list(offsets.values()))
    return {
        site.name: (gradient * (aligned[site.name] - live.states[site.name])[:, -1])[unwatched].sum(0)
        for site, gradient in zip(sites, gradients, strict=True)
    }
