"""Put a map into a model: hooks that edit the hidden states at a site while a `with` block lasts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.activations.massive import massive_tokens
from fa_lightning.activations.sites import Site, module_at, validate
from fa_lightning.backbones.attached import attached
from fa_lightning.backbones.decoder import decoder_of, text_config
from fa_lightning.backbones.optimization import evaluating
from fa_lightning.common.codec import decode
from fa_lightning.errors import UserError
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.linear import Identity, MeanShift
from fa_lightning.regressors.maps import build_regressor
from fa_lightning.steering.artefact import (
    GATE,
    SIDECAR_FILE,
    compare_fingerprints,
    config_of,
    fill,
    gate_of,
    read_artefact,
    write_artefact,
)
from fa_lightning.steering.hooks import CallRecord, Edit
from fa_lightning.steering.hub_files import local_folder

SIDECAR_KINDS: dict[str, Any] = {
    "regressor": dict[str, Any],
    "strength": float,
    "hidden_size": int,
    "fingerprint": dict[str, Any],
}
"""What the facts of an intervention's sidecar must be."""


class Intervention:
    """An edit of the hidden states at one site: h' = h + strength * (T(h) - h) on the tokens that the site names.

    With a gate, only those of them are edited whose state it says yes to.

    Attached with `on` (or `steering`, for several) it holds for plain forwards, training and `generate` with or
    without a cache; the edit is computed in float32 and cast to the states' dtype. The model is never changed.

    Example:
        >>> edit = Intervention(Site(layer=0), torch.tensor([1.0, 0.0]), strength=0.5)
        >>> edit.dose(torch.tensor([[0.0, 2.0]]))
        0.25

    Args:
        site: where; its `positions` say which tokens.
        regressor: the map T, or a vector (hidden,) to add.
        strength: factor on the edit; 0 leaves the model as it is, 1 puts T(h) in place of h.
        fingerprint: JSON-able facts about what the map was fitted on (backbone, adapters, data), kept when saved.
        seed: the seed it was fitted with, kept when saved.
        gate: from unedited states (n, hidden) in float32 to booleans (n,), True where a token is to be edited; a module
            of `fa_lightning.regressors.gates`, to be saved with its `config`. None edits every token.

    Raises:
        ValueError: if the vector is no vector.
        UserError: if a number in it or the strength is not finite.
    """

    def __init__(
        self,
        site: Site,
        regressor: Regressor | Tensor,
        strength: float = 1.0,
        fingerprint: Mapping[str, Any] | None = None,
        seed: int | None = None,
        gate: nn.Module | None = None,
    ) -> None:
        if isinstance(regressor, Tensor):
            if regressor.ndim != 1:
                raise ValueError(f"regressor is a tensor {tuple(regressor.shape)}, but a vector (hidden,) is needed")
            vector = regressor.detach()
            regressor = MeanShift(len(vector))
            regressor.shift.copy_(vector)
            _refuse_infinite(regressor, "regressor")
        _refuse_infinite_strength(strength)
        self.site = site
        self.regressor = regressor
        self.strength = float(strength)
        self.fingerprint = dict(fingerprint or {})
        self.seed = seed
        self.gate = gate

    def at(self, strength: float | None = None, positions: str | None = None) -> Intervention:
        """The same edit at another strength or on other tokens; None keeps what it is. Maps are shared, not copied.

        Example:
            >>> Intervention(Site(layer=0), torch.ones(2)).at(strength=2.0, positions="last").site.positions
            'last'

        Raises:
            UserError: if the strength is not finite or there is no such rule.
        """
        site = self.site if positions is None else replace(self.site, positions=positions)
        strength = self.strength if strength is None else strength
        return Intervention(site, self.regressor, strength, self.fingerprint, self.seed, self.gate)

    def on(self, model: nn.Module, prompt_tokens: Tensor | None = None) -> AbstractContextManager[None]:
        """Steer a model while the block lasts; see `steering`."""
        return steering(model, [self], prompt_tokens)

    @torch.no_grad()
    def dose(self, h: Tensor) -> float:
        """Mean norm of the edit over the mean norm of the states: what one strength means at this site.

        States of massive size have no part in it: a mean with them would be theirs (see `massive_tokens`).

        Args:
            h: unsteered states at the site, (..., hidden).

        Returns:
            A ratio, 0 for no edit.
        """
        h = h.detach().float().reshape(-1, h.shape[-1])
        h = h[~massive_tokens(h)]
        with ExitStack() as stack:
            edit = _edit_of(self)
            _evaluate(stack, edit)
            edited = edit.edited(h)
        return float((edited - h).norm(dim=-1).mean() / h.norm(dim=-1).mean())

    def validate(self, model: nn.Module) -> None:
        """Check that this intervention is whole and fits a model.

        Raises:
            UserError: if the layer is out of range, the hidden size differs, a number is not finite, or the gate
                lacks its probe.
        """
        self._check()
        validate(self.site, model)
        hidden_size = getattr(text_config(model), "hidden_size", self.regressor.hidden_size)
        if hidden_size != self.regressor.hidden_size:
            raise UserError(
                f"the regressor's hidden_size is {self.regressor.hidden_size}, but the model's hidden states have "
                f"{hidden_size} units: fit it on this model's states"
            )

    def save(self, folder: str | Path) -> Path:
        """Write `intervention.safetensors` and `intervention.json` into a folder, which is made if need be.

        A kill at any moment leaves either the old artefact, the new one or one that `load` refuses.

        Returns:
            The folder.

        Raises:
            UserError: if a number is not finite or the gate lacks its probe; nothing is written then.
        """
        self._check()
        folder = Path(folder)
        facts = {
            "site": {"layer": self.site.layer, "component": self.site.component, "positions": self.site.positions},
            "regressor": self.regressor.config(),
            "gate": None if self.gate is None else config_of(self.gate),
            "strength": self.strength,
            "hidden_size": self.regressor.hidden_size,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
        }
        gate = {} if self.gate is None else self.gate.state_dict()
        write_artefact(folder, {**self.regressor.state_dict(), **{f"{GATE}{name}": gate[name] for name in gate}}, facts)
        return folder

    @classmethod
    def load(
        cls, folder: str | Path, model: nn.Module | None = None, fingerprint: Mapping[str, Any] | None = None
    ) -> Intervention:
        """Read what `save` wrote.

        Args:
            folder: the folder; where there is none of that name, `user/repo` or `user/repo/subfolder` on the Hub.
            model: the model it is meant for, to be checked against; None checks nothing.
            fingerprint: what the saved fingerprint must say; fields that it does not name are not compared.

        Raises:
            MissingFileError: if one of the two files is missing.
            UserError: if a file is damaged, has another format version, lacks the gate's probe, or does not fit the
                model or fingerprint.
        """
        folder = local_folder(folder)
        needed = {"site", "seed", *SIDECAR_KINDS}
        tensors, sidecar = read_artefact(folder, needed)
        for name, kind in SIDECAR_KINDS.items():
            sidecar[name] = decode(kind, sidecar[name], f"{folder / SIDECAR_FILE}: {name}")
        saved = sidecar["fingerprint"]
        compare_fingerprints(saved, fingerprint or {}, folder)
        gate = gate_of(sidecar.get("gate"), sidecar["hidden_size"], tensors, folder)
        regressor = build_regressor(sidecar["regressor"], sidecar["hidden_size"])
        fill(regressor, tensors, folder, "regressor")
        site = decode(Site, sidecar["site"], f"{folder / SIDECAR_FILE}: site")
        intervention = cls(site, regressor, sidecar["strength"], saved, sidecar["seed"], gate)
        intervention._check()
        if model is not None:
            intervention.validate(model)
        return intervention

    def _check(self) -> None:
        """Refuse numbers that are not finite, and a gate that does not answer."""
        _refuse_infinite_strength(self.strength)
        _refuse_infinite(self.regressor, "regressor")
        if self.gate is None:
            return
        _refuse_infinite(self.gate, "gate")
        device = next((tensor.device for tensor in self.gate.state_dict().values()), None)
        try:
            answer = self.gate(torch.zeros(1, self.regressor.hidden_size, device=device))
        except RuntimeError as error:
            raise UserError(f"the gate of {self.site.name} does not work: {error}") from error
        if answer.shape != (1,) or answer.dtype != torch.bool:
            raise UserError(
                f"the gate of {self.site.name} answers {answer.dtype} of shape {tuple(answer.shape)} for 1 state, but "
                "must answer one boolean for each"
            )


@contextmanager
def steering(
    model: nn.Module,
    interventions: Sequence[Intervention],
    prompt_tokens: Tensor | None = None,
    strengths: Tensor | None = None,
) -> Iterator[None]:
    """Run a model with interventions attached, in their order, for as long as the block lasts.

    Whatever happens inside, the hooks are gone afterwards. Blocks may be nested: the inner one's edits come after the
    outer one's at the same site. A hook registered inside the block sees the steered states. Maps are in evaluation
    mode inside the block, and are copied once to each device where states live. A compiled model runs eagerly
    meanwhile, since its graphs know no hooks.

    Args:
        model: a causal LM, PEFT-wrapped or not.
        interventions: what to attach; none leaves the model as it is.
        prompt_tokens: number of real tokens in each row's prompt (prompts,), needed only by the rules `last` and
            `generated` and only where a call cannot show where the prompt ends: without a KV cache, or when the
            prompt comes in several calls.
        strengths: in the place of the interventions' own, one for each row of the batch (interventions, rows); rows
            that share one (beams) lie together.

    Raises:
        ValueError: if `strengths` has not a line for each intervention.
        UserError: if an intervention does not fit the model, holds numbers that are not finite, or has a gate
            without its probe.
        NotFiniteError: from the call after the one, or at the end of the block, if edited states are not finite.
    """
    for intervention in interventions:
        intervention.validate(model)
    edits = [
        _edit_of(intervention, strength)
        for intervention, strength in zip(interventions, _strengths(interventions, strengths), strict=True)
        if not _changes_nothing(intervention, strength)
    ]
    if not edits:
        yield
        return
    record = CallRecord(decoder_of(model), {edit.site.positions for edit in edits}, prompt_tokens)
    with ExitStack() as stack:
        for edit in edits:
            _evaluate(stack, edit)
            edit.record = record
        sites = [(module_at(model, edit.site), edit) for edit in edits]
        stack.enter_context(attached(sites, before=[(record.decoder, record)]))
        try:
            yield
        except FloatingPointError:
            # Numbers went wrong further up: name the edit, if it is the cause.
            record.check()
            raise
        record.check()


def _strengths(interventions: Sequence[Intervention], strengths: Tensor | None) -> Sequence[float | Tensor]:
    """What each intervention is multiplied by: its own strength, or one for each row."""
    if strengths is None:
        return [intervention.strength for intervention in interventions]
    if strengths.ndim != 2 or len(strengths) != len(interventions):
        raise ValueError(
            f"strengths is {tuple(strengths.shape)}, but must be ({len(interventions)}, rows), a line for each "
            "intervention"
        )
    if not torch.isfinite(strengths).all():
        raise UserError("a row's strength is not finite, but must be a finite number")
    return list(strengths)


def _edit_of(intervention: Intervention, strength: float | Tensor | None = None) -> Edit:
    strength = intervention.strength if strength is None else strength
    return Edit(intervention.site, intervention.regressor, strength, intervention.gate)


def _changes_nothing(intervention: Intervention, strength: float | Tensor) -> bool:
    idle = not strength.any() if isinstance(strength, Tensor) else strength == 0
    return bool(idle) or isinstance(intervention.regressor, Identity)


def _evaluate(stack: ExitStack, edit: Edit) -> None:
    """Put an edit's parts into evaluation mode until the stack closes."""
    for part in (edit.regressor, edit.gate):
        if part is not None:
            stack.enter_context(evaluating(part))


def _refuse_infinite_strength(strength: float) -> None:
    if not math.isfinite(strength):
        raise UserError(f"strength is {strength}, but must be a finite number")


def _refuse_infinite(part: nn.Module, what: str) -> None:
    for name, tensor in part.state_dict().items():
        # A sum needs no copy, and is finite if every number is.
        if not math.isfinite(tensor.sum(dtype=torch.float32).item()):
            raise UserError(f"{what}.{name} holds numbers that are not finite: fit it again")
