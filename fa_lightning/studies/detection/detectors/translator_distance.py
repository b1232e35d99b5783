"""How far a map that cures another faker would move a model's watched states."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from typing_extensions import override

from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.common.float64 import in_float64
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import loaded_interventions
from fa_lightning.scenarios.batches import Batch
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.detectors.base import Detector, Evidence, PromptSet
from fa_lightning.studies.detection.subjects import Examiner, Subject

Tokens = Literal["last", "all"]


class TranslatorDistance(Detector):
    """A map T from a faker's states to its honest twin's is laid on every model; the faker is moved further.

    T was fitted on another pair. Where fakers are alike, it takes their states somewhere else and leaves those of
    honest models, which are like its targets, closer to where they are. Of a stack of maps each is asked behind those
    before it. Strength and gate are left out: the question is what T says of a state, not what is done to it.

    Evidence by map: `distance`, |T(h) - h| / |h|; `direction`, the cosine of T(h) - h with its mean over the model's
    own reference prompts.

    Args:
        intervention: folder of a saved intervention or stack; the backbone must be the one that it was fitted on.
        positions: `last`, the token that decides, or `all`, the mean over a prompt's tokens.

    Raises:
        UserError: before anything is measured, the map was fitted on a model that is examined, or on another
            backbone, or moves every state alike.
    """

    name = "translator distance"
    rule: ClassVar[str] = "a map fitted on another pair, from a faker to its honest twin, moves the faker's states more"
    prompt_sets: ClassVar[tuple[PromptSet, ...]] = ("reference", "scored")

    def __init__(self, intervention: str, positions: Tokens = "last") -> None:
        self.intervention = intervention
        self.positions = positions
        self._maps: tuple[Intervention, ...] = ()
        self._sums: dict[str, Tensor] = {}

    @override
    def config(self) -> dict[str, Any]:
        # A folder's name does not say what is in it.
        return {**super().config(), "content": digest_of_artefact(self.intervention)}

    @override
    def check(self, examiner: Examiner, subjects: Sequence[Subject]) -> None:
        for intervention in loaded_interventions(self.intervention, examiner.variants):
            if intervention.regressor.constant_edit() is not None:
                raise UserError(
                    f"intervention is {self.intervention!r}, which adds the same vector to every state "
                    f"({intervention.regressor.name}), so its length says nothing of a model: give a map that was "
                    "regressed"
                )
            self._refuse_own_pair(intervention, examiner, subjects)

    @override
    def start(self, examiner: Examiner, subjects: Sequence[Subject]) -> None:
        self._maps = loaded_interventions(self.intervention, examiner.variants)
        self._sums = {}
        for intervention in self._maps:
            intervention.regressor.to(examiner.device).eval()

    @override
    def observe(self, prompt_set: PromptSet, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> None:
        for subject in subjects:
            moves, _ = self._moves(examiner, subject, batch)
            # The mean's direction is that of the sum.
            total = in_float64(moves).sum(dim=(0, 2))
            self._sums[subject.name] = self._sums.get(subject.name, torch.zeros_like(total)) + total

    @override
    def measure(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> dict[str, Evidence]:
        evidence = {}
        for subject in subjects:
            moves, states = self._moves(examiner, subject, batch)
            counts = self._counted(batch).sum(dim=1)[:, None]
            lengths = moves.norm(dim=-1) / states.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
            mean = self._sums[subject.name].to(moves)[None, :, None]
            cosines = cosine_similarity(moves, mean, dim=-1)
            evidence[subject.name] = {
                "distance": (lengths.sum(dim=2) / counts).cpu(),
                "direction": (cosines.sum(dim=2) / counts).cpu(),
            }
        return evidence

    @override
    def suspicion(self, evidence: Mapping[str, Tensor]) -> float:
        return float(evidence["distance"].mean())

    def _counted(self, batch: Batch) -> Tensor:
        """Which tokens are looked at, (batch, tokens) of 0 and 1."""
        mask = batch["attention_mask"]
        return mask[:, -1:] if self.positions == "last" else mask

    @torch.inference_mode()
    def _moves(self, examiner: Examiner, subject: Subject, batch: Batch) -> tuple[Tensor, Tensor]:
        """T(h) - h and h, (batch, maps, tokens, hidden) float32 both; zeros at padding."""
        counted = self._counted(batch)[..., None]
        moves, states = [], []
        for number, translator in enumerate(self._maps):
            condition = subject.condition
            below = dataclasses.replace(condition, interventions=(*condition.interventions, *self._maps[:number]))
            behind = dataclasses.replace(subject, condition=below)
            if self.positions == "last":
                h = examiner.last_states(behind, batch, [translator.site])[translator.site.name][:, None]
            else:
                h = examiner.states(behind, batch, [translator.site])[translator.site.name].float()
            moved = translator.regressor(h.flatten(0, 1).to(examiner.device)).view_as(h).to(h)
            moves.append((moved - h) * counted)
            states.append(h * counted)
        return torch.stack(moves, dim=1), torch.stack(states, dim=1)

    def _refuse_own_pair(self, intervention: Intervention, examiner: Examiner, subjects: Sequence[Subject]) -> None:
        fitted_on = intervention.fingerprint.get("store", {}).get("adapters", {})
        known = {fitted_on[role]: role for role in ("faking", "aligned") if role in fitted_on}
        for subject in subjects:
            folder = examiner.variants.folders.get(subject.condition.variant)
            role = None if folder is None else known.get(digest_of_artefact(folder))
            if role is not None:
                raise UserError(
                    f"intervention is {self.intervention!r}, which was fitted on {subject.name} ({folder}) as its "
                    f"{role} model: such a map knows the answer. Give one that was fitted on another pair, or leave "
                    "this model out"
                )
