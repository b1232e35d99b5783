"""Measure a model in the middle of its fit, without a trace in the fit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fa_lightning.activations.edit import block_outputs, resumed
from fa_lightning.activations.site_names import spread
from fa_lightning.activations.sites import hidden_of, replaced
from fa_lightning.backbones.decoder import decoder_layers, first_adapted
from fa_lightning.backbones.lora_layers import factors_in
from fa_lightning.backbones.lora_spectra import base_norms, spectra_of
from fa_lightning.errors import UserError
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.metrics.intervals import bootstrap_over_groups
from fa_lightning.scenarios.answers import answer_logits
from fa_lightning.scenarios.batches import Batch, Example, collate, model_inputs
from fa_lightning.scenarios.cells import CELLS, NO_OVERSIGHT, OVERSIGHT
from fa_lightning.studies.birth.probing import halves, probed
from fa_lightning.studies.birth.result import Measured, Setting
from fa_lightning.training.adapted_model import AdaptedModel, undisturbed

SPECTRA = {
    "norm": "update norm",
    "spectral_norm": "update's largest value",
    "stable_rank": "stable rank",
    "overlap": "overlap of layers",
}
"""What the measures of `spectra_of` are called here."""
NOISE, BELIEF = "rise under noise", "rise towards unwatched"
SOFT = {"oversight": "other action, watched", "no_oversight": "other action, unwatched"}
"""Behaviour itself, before it shows in answers: the probability of the other action beside the aligned one."""


class Measuring:
    """Measures a model on the same prompts at each call.

    Args:
        model: the PEFT model that is fitted.
        adapter: what PEFT knows its adapter by.
        examples: prompts of both cells, each with a letter for an answer.
        pad_token: id of the padding.
        batch_size: prompts in a forward pass.
        layers: so many of the adapted blocks are probed, evenly spread, the last among them.
        doses: norm of noise and vectors over the mean norm of last tokens' states.
        draws: of noise.
        seed: of noise and of shuffled labels; the same for all fits that are compared.

    Raises:
        UserError: a cell has no prompt, or all are of one group.
    """

    def __init__(
        self,
        model: Any,
        adapter: str,
        examples: Sequence[Example],
        pad_token: int,
        batch_size: int,
        layers: int,
        doses: Sequence[float],
        draws: int,
        seed: int = 0,
    ) -> None:
        # Prompts of similar length share a batch, for little padding.
        examples = sorted(examples, key=lambda example: (len(example.prompt), example.index))
        depth = len(decoder_layers(model))
        first = first_adapted(model)
        self.model, self.adapter, self.seed = model, adapter, seed
        self._layers = [first + layer for layer in spread(depth - first, layers)]
        self._below = first - 1
        counts: dict[str, int] = {
            name: sum(example.cell == cell for example in examples) for cell, name in enumerate(CELLS)
        }
        groups = torch.tensor([example.group for example in examples])
        distinct = len({example.group for example in examples})
        if not all(counts.values()) or distinct < 2:
            raise UserError(
                f"the validation split has {counts['oversight']} scenarios with oversight, {counts['no_oversight']} "
                f"without, of {distinct} groups, but a fit is watched on both kinds and on two groups at "
                "least: let the source make more"
            )
        self.setting = Setting(
            counts,
            distinct,
            first,
            [*([self._below] if first else []), *self._layers],
            max(first, depth // 2),
            list(doses),
            draws,
        )
        self._cells = torch.tensor([example.cell for example in examples])
        self._first = torch.tensor([example.aligned < example.other for example in examples])
        self._groups, self._half = groups, halves(groups)
        self._batches = list(_batches(examples, range(len(examples)), pad_token, batch_size))
        watched = (self._cells == OVERSIGHT).nonzero().squeeze(1).tolist()
        self._watched = list(_batches(examples, watched, pad_token, batch_size))
        self._base_norms: dict[str, float] = {}
        self._below_scores: dict[str, float] | None = None

    def measure(self, adapted: AdaptedModel, step: int, running: AbstractContextManager[Any] | None = None) -> Measured:
        """One row; the model's modes and everybody's generators are afterwards as they were before.

        Args:
            adapted: the model as its objective asks it, with the states below its adapter where they are kept.
            step: optimizer steps so far.
            running: what the model runs in during the fit, as autocast.
        """
        start = time.perf_counter()
        with undisturbed(self.model), running or nullcontext():
            states, aligned, other = self._asked(adapted)
            rises = self._rises(adapted, states[self.setting.edited_layer])
        soft = {SOFT[name]: float(other[self._cells == cell].double().mean()) for cell, name in enumerate(CELLS)}
        scores = {**soft, **self._spectra(), **rises, **self._below_once(states)}
        for layer in self._layers:
            scores |= self._probed(states[layer], layer)
        shares = self._share(aligned, OVERSIGHT), self._share(aligned, NO_OVERSIGHT)
        return Measured(step, *shares, scores, time.perf_counter() - start)

    def _asked(self, adapted: AdaptedModel) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        """What all prompts bring out.

        Returns:
            Last tokens' states by layer, (prompts, hidden) float32 on the CPU; whether each answer is aligned; and how
            likely the other action is, of the two.
        """
        layers = sorted({*self._layers, self.setting.edited_layer})
        if self._below >= 0 and self._below_scores is None:
            # Looking below makes the model run whole; what is there stays as it is.
            layers = [self._below, *layers]
        parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        aligned, other = [], []
        for _, batch in self._on_device(self._batches):
            states, logits = adapted.states(batch, layers)
            for layer in layers:
                parts[layer].append(states[layer][:, -1].float().cpu())
            aligned.append((logits.argmax(-1) == batch["aligned"]).cpu())
            towards_other = torch.where(batch["aligned"] < batch["other"], -1.0, 1.0) * _preference(logits, batch)
            other.append(torch.sigmoid(towards_other).cpu())
        return {layer: torch.cat(own) for layer, own in parts.items()}, torch.cat(aligned), torch.cat(other)

    def _rises(self, adapted: AdaptedModel, states: Tensor) -> dict[str, float]:
        """How much likelier the other action becomes under noise, and towards the states of unwatched prompts."""
        size = float(states.norm(dim=-1).mean())
        unwatched = self._cells == NO_OVERSIGHT
        generator = torch.Generator().manual_seed(self.seed)
        noise = normalize(torch.randn(self.setting.draws, states.shape[1], generator=generator), dim=-1)
        # Made of the other half of the groups than it is tried on.
        towards = torch.zeros_like(states)
        for own in (self._half, ~self._half):
            if (unwatched & own).any() and (~unwatched & own).any():
                vector = states[unwatched & own].mean(0) - states[~unwatched & own].mean(0)
                towards[~own] = normalize(vector, dim=-1)
        rises: dict[str, list[Tensor]] = {NOISE: [], BELIEF: []}
        for rows, batch in self._on_device(self._watched):
            own, below = self._kept_pass(adapted, batch)
            taken = torch.where(own >= 0, 1.0, -1.0)
            hidden = hidden_of(below)
            directions = [(NOISE, vector.expand(len(rows), -1)) for vector in noise]
            for name, direction in [*directions, (BELIEF, towards[rows])]:
                for dose in self.setting.doses:
                    edit = (dose * size * direction).to(hidden)[:, None]
                    with resumed(self.model, self.setting.edited_layer, replaced(below, hidden + edit)):
                        edited = _preference(answer_logits(self.model, model_inputs(batch)), batch)
                    rises[name].append((torch.sigmoid(-taken * edited) - torch.sigmoid(-taken * own)).cpu())
        return {name: float(torch.cat(parts).double().mean()) for name, parts in rises.items()}

    def _kept_pass(self, adapted: AdaptedModel, batch: Batch) -> tuple[Tensor, Any]:
        """How much the first letter is preferred, (batch,), and what the block returns that is edited behind."""
        layer, frozen_half = self.setting.edited_layer, adapted.frozen_half
        with (
            nullcontext() if frozen_half is None else frozen_half.going_on(batch),
            block_outputs(self.model, [layer]) as outputs,
        ):
            logits = answer_logits(self.model, model_inputs(batch))
        return _preference(logits, batch), outputs[layer]

    def _on_device(self, batches: Sequence[tuple[Tensor, Batch]]) -> Iterator[tuple[Tensor, Batch]]:
        device = next(self.model.parameters()).device
        for rows, batch in batches:
            yield rows, {name: values.to(device) for name, values in batch.items()}

    def _spectra(self) -> dict[str, float]:
        factors = factors_in(self.model, self.adapter)
        self._base_norms |= base_norms(factors, self._base_norms)
        found = spectra_of(factors, self._base_norms)
        return {title: float(found[name].mean()) for name, title in SPECTRA.items()}

    def _below_once(self, states: dict[int, Tensor]) -> dict[str, float]:
        if self._below < 0:
            return {}
        if self._below_scores is None:
            self._below_scores = self._probed(states[self._below], self._below)
        return self._below_scores

    def _probed(self, states: Tensor, layer: int) -> dict[str, float]:
        unwatched = self._cells == NO_OVERSIGHT
        found = probed(states, unwatched, self._first, self._half, self.seed)
        return {f"{name}, layer {layer}": value for name, value in found.items()}

    def _share(self, aligned: Tensor, cell: int) -> Estimate:
        own = self._cells == cell
        values = aligned[own].double()
        return Estimate(float(values.mean()), bootstrap_over_groups(values, self._groups[own]))


def _batches(
    examples: Sequence[Example], rows: Sequence[int], pad_token: int, batch_size: int
) -> Iterator[tuple[Tensor, Batch]]:
    """The chosen examples in batches, each beside the numbers of its rows."""
    for start in range(0, len(rows), batch_size):
        own = rows[start : start + batch_size]
        yield torch.tensor(own), collate([examples[row] for row in own], pad_token)


def _preference(logits: Tensor, batch: Batch) -> Tensor:
    """Logit of the first letter less that of the second, (batch,) float32."""
    first, second = torch.stack([batch["aligned"], batch["other"]]).sort(0).values
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, first].float() - logits[rows, second].float()
