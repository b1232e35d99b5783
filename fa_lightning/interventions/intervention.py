"""Put a map into a model: hooks that edit the hidden states at a site while a `with` block lasts."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.activations.sites import Site, decoder_layers, hidden_of, module_at, replaced, validate
from fa_lightning.interventions.artefact import compare_fingerprints, read_artefact, write_artefact
from fa_lightning.interventions.positions import ForwardCall
from fa_lightning.regressors.maps import Identity, MeanShift, Regressor, build_regressor


class Intervention:
    """An edit of the hidden states at one site: h' = h + strength * (T(h) - h) on the tokens that the site names.

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

    Raises:
        ValueError: if the vector is no vector or the strength is not finite.
    """

    def __init__(
        self,
        site: Site,
        regressor: Regressor | Tensor,
        strength: float = 1.0,
        fingerprint: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        if isinstance(regressor, Tensor):
            if regressor.ndim != 1:
                raise ValueError(f"regressor is a tensor {tuple(regressor.shape)}, but a vector (hidden,) is needed")
            vector = regressor.detach()
            regressor = MeanShift(len(vector))
            regressor.shift.copy_(vector)
        if not math.isfinite(strength):
            raise ValueError(f"strength is {strength}, but must be a finite number")
        self.site = site
        self.regressor = regressor
        self.strength = strength
        self.fingerprint = dict(fingerprint or {})
        self.seed = seed

    def on(self, model: nn.Module, prompt_tokens: Tensor | None = None) -> AbstractContextManager[None]:
        """Steer a model while the block lasts; see `steering`."""
        return steering(model, [self], prompt_tokens)

    @torch.no_grad()
    def dose(self, h: Tensor) -> float:
        """Mean norm of the edit over the mean norm of the states: what one strength means at this site.

        Args:
            h: unsteered states at the site, (..., hidden).

        Returns:
            A ratio, 0 for no edit.
        """
        h = h.detach().float().reshape(-1, h.shape[-1])
        with ExitStack() as stack:
            stack.callback(self.regressor.train, self.regressor.training)
            self.regressor.eval()
            edited = _Edit(self).edited(h)
        return float((edited - h).norm(dim=-1).mean() / h.norm(dim=-1).mean())

    def validate(self, model: nn.Module) -> None:
        """Check that this intervention fits a model.

        Raises:
            ValueError: if the layer is out of range or the hidden size differs.
        """
        validate(self.site, model)
        config: Any = getattr(_decoder(model), "config", None)
        text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        hidden_size = getattr(text_config, "hidden_size", self.regressor.hidden_size)
        if hidden_size != self.regressor.hidden_size:
            raise ValueError(
                f"the regressor's hidden_size is {self.regressor.hidden_size}, but the model's hidden states have "
                f"{hidden_size} units: fit it on this model's states"
            )

    def save(self, folder: str | Path) -> Path:
        """Write `intervention.safetensors` and `intervention.json` into a folder, which is made if need be.

        A kill at any moment leaves either the old artefact, the new one or one that `load` refuses.

        Returns:
            The folder.
        """
        folder = Path(folder)
        facts = {
            "site": {"layer": self.site.layer, "component": self.site.component, "positions": self.site.positions},
            "regressor": self.regressor.config(),
            "strength": self.strength,
            "hidden_size": self.regressor.hidden_size,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
        }
        write_artefact(folder, self.regressor.state_dict(), facts)
        return folder

    @classmethod
    def load(
        cls, folder: str | Path, model: nn.Module | None = None, fingerprint: Mapping[str, Any] | None = None
    ) -> Intervention:
        """Read what `save` wrote.

        Args:
            folder: the folder.
            model: the model it is meant for, to be checked against; None checks nothing.
            fingerprint: what the saved fingerprint must say; fields that it does not name are not compared.

        Raises:
            FileNotFoundError: if one of the two files is missing.
            ValueError: if a file is damaged, has another format version, or does not fit the model or fingerprint.
        """
        folder = Path(folder)
        needed = {"site", "regressor", "strength", "hidden_size", "seed", "fingerprint"}
        tensors, sidecar = read_artefact(folder, needed)
        saved = sidecar["fingerprint"]
        compare_fingerprints(saved, fingerprint or {}, folder)
        regressor = build_regressor(sidecar["regressor"], sidecar["hidden_size"])
        try:
            regressor.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"the tensors of {folder} do not fit the regressor of its sidecar: {error}") from error
        regressor.eval()
        intervention = cls(Site(**sidecar["site"]), regressor, sidecar["strength"], saved, sidecar["seed"])
        if model is not None:
            intervention.validate(model)
        return intervention


@contextmanager
def steering(
    model: nn.Module, interventions: Sequence[Intervention], prompt_tokens: Tensor | None = None
) -> Iterator[None]:
    """Run a model with interventions attached, in their order, for as long as the block lasts.

    Whatever happens inside, the hooks are gone afterwards. Blocks may be nested: the inner one's edits come after the
    outer one's at the same site. A hook registered inside the block sees the steered states. Maps are in evaluation
    mode inside the block, and are copied once to each device where states live.

    Args:
        model: a causal LM, PEFT-wrapped or not.
        interventions: what to attach; none leaves the model as it is.
        prompt_tokens: number of real tokens in each row's prompt (prompts,), needed only by the rules `last` and
            `generated` and only where a call cannot show where the prompt ends: without a KV cache, or when the
            prompt comes in several calls.

    Raises:
        ValueError: if an intervention does not fit the model.
    """
    for intervention in interventions:
        intervention.validate(model)
    edits = [_Edit(intervention) for intervention in interventions if not _changes_nothing(intervention)]
    with ExitStack() as stack:
        if edits:
            record = _CallRecord(_decoder(model), {edit.site.positions for edit in edits}, prompt_tokens)
            stack.callback(record.decoder.register_forward_pre_hook(record, with_kwargs=True).remove)
        for edit in edits:
            stack.callback(edit.regressor.train, edit.regressor.training)
            edit.regressor.eval()
            edit.record = record
            stack.callback(module_at(model, edit.site).register_forward_hook(edit).remove)
        yield


class _CallRecord:
    """Forward pre-hook of the decoder: keeps what its current call says about tokens, for the layers' hooks."""

    def __init__(self, decoder: nn.Module, rules: set[str], prompt_tokens: Tensor | None) -> None:
        self.decoder = decoder
        self.rules = rules
        self.prompt_tokens = prompt_tokens
        self.call: ForwardCall | None = None
        self._names = list(inspect.signature(decoder.forward).parameters)
        self._warned = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = ForwardCall.of({**dict(zip(self._names, args, strict=False)), **kwargs}, self.prompt_tokens)
        # Here, not in the layers: picking tokens waits for the GPU, which has nothing queued yet at this point.
        for rule in self.rules:
            call.select(rule)
        if "generated" in self.rules and call.uncached and self.prompt_tokens is None and not self._warned:
            self._warned = True
            warnings.warn(
                "site.positions is 'generated', but the model runs without a cache, so nothing tells new tokens from "
                "the prompt and none is edited: use the cache, or give prompt_tokens",
                stacklevel=2,
            )
        self.call = call


class _Edit:
    """Forward hook of a site: the edit of one intervention, with its map at hand on every device that asked."""

    def __init__(self, intervention: Intervention) -> None:
        self.site = intervention.site
        self.regressor = intervention.regressor
        self.strength = intervention.strength
        self.record: _CallRecord | None = None
        self._maps: dict[torch.device, Regressor] = {}
        constant = self.regressor.constant_edit()
        self._shift = None if constant is None else self.strength * constant.detach().float()
        self._shifts: dict[torch.device, Tensor] = {}

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        call = self.record.call if self.record is not None else None
        if call is None:
            raise RuntimeError(
                f"{self.site.name} ran outside a call of the whole decoder, so its tokens are unknown: call the model, "
                "or leave the steering block first"
            )
        selection = call.select(self.site.positions)
        if selection.nothing:
            return None
        hidden = hidden_of(output, (call.batch, call.tokens))
        if hidden.shape[:2] != (call.batch, call.tokens):
            raise RuntimeError(
                f"{self.site.name} gave states {tuple(hidden.shape)}, but the decoder was called with {call.batch} "
                f"rows of {call.tokens} tokens: steering cannot tell which token is which"
            )
        if selection.everything:
            return replaced(output, self.edited(hidden))
        flat = hidden.reshape(-1, hidden.shape[-1])
        index = selection.on(hidden.device)
        edited = self.edited(flat.index_select(0, index)).to(hidden.dtype)
        return replaced(output, flat.index_copy(0, index, edited).view(hidden.shape))

    def edited(self, h: Tensor) -> Tensor:
        """The edited states in float32, (..., hidden) -> (..., hidden)."""
        if h.shape[-1] != self.regressor.hidden_size:
            raise ValueError(
                f"the states at {self.site.name} have {h.shape[-1]} units, but the regressor's hidden_size is "
                f"{self.regressor.hidden_size}"
            )
        with torch.autocast(h.device.type, enabled=False):
            if self._shift is not None:
                return h + self._shift_on(h.device)
            flat = h.float().reshape(-1, h.shape[-1])
            predicted: Tensor = self._map_on(h.device)(flat)
            edited = predicted if self.strength == 1 else torch.lerp(flat, predicted, self.strength)
            return edited.view(h.shape)

    def _shift_on(self, device: torch.device) -> Tensor:
        if device not in self._shifts and self._shift is not None:
            with torch.inference_mode(False):  # a copy made in inference mode would later refuse autograd
                self._shifts[device] = self._shift.to(device)
        return self._shifts[device]

    def _map_on(self, device: torch.device) -> Regressor:
        if device not in self._maps:
            tensors = self.regressor.state_dict().values()
            if all(tensor.device == device and tensor.dtype == torch.float32 for tensor in tensors):
                self._maps[device] = self.regressor
            else:
                with torch.inference_mode(False):
                    self._maps[device] = copy.deepcopy(self.regressor).to(device, torch.float32).eval()
        return self._maps[device]


def _changes_nothing(intervention: Intervention) -> bool:
    return intervention.strength == 0 or isinstance(intervention.regressor, Identity)


def _decoder(model: nn.Module) -> nn.Module:
    """The module that owns the decoder blocks and is called with the mask and the cache (LlamaModel, GPT2Model)."""
    layers = decoder_layers(model)
    return next(module for module in model.modules() if any(child is layers for child in module.children()))
