"""The hooks behind a steering block: what the decoder's current call says about tokens, and the edit at a site."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fa_lightning.activations.forward_call import CACHE_ARGUMENTS, ForwardCall
from fa_lightning.activations.sites import Site, hidden_of, replaced
from fa_lightning.errors import NotFiniteError, UserError
from fa_lightning.regressors.base import Regressor

Part = TypeVar("Part", bound=nn.Module)


class CallRecord:
    """Forward pre-hook of the decoder: keeps what its current call says about tokens, for the layers' hooks."""

    def __init__(self, decoder: nn.Module, rules: set[str], prompt_tokens: Tensor | None) -> None:
        self.decoder = decoder
        self.rules = rules
        self.prompt_tokens = prompt_tokens
        self.call: ForwardCall | None = None
        self._sums: list[tuple[Edit, Tensor]] = []
        self._names = _argument_names(decoder)
        self._warned = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the arguments of the call that starts, after a look at what the last one made."""
        self.check()
        named = {**dict(zip(self._names, args, strict=False)), **kwargs}
        call = ForwardCall.of(named, self.prompt_tokens, None if self.call is None else self.call.passed)
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

    def note(self, edit: Edit, edited: Tensor) -> None:
        """Remember the sum of states that an edit has written: it is finite if all of them are."""
        self._sums.append((edit, edited.detach().sum(dtype=torch.float32)))

    def check(self) -> None:
        """Stop where an edit of the last call wrote NaN or infinity.

        One sum per edit costs well under 1 % of a call. It is read when the next call starts, or the block ends: read
        in the layer, it would make a GPU wait in the middle of its work.

        Raises:
            NotFiniteError: naming the site and the strength.
        """
        sums, self._sums = self._sums, []
        for edit, total in sums:
            if not math.isfinite(total.item()):
                raise NotFiniteError(
                    f"steering at {edit.site.name} with {edit.strength_in_words} made states that are not finite: "
                    "use a smaller strength, or a dtype with a wider range (bfloat16 in place of float16)"
                )


class Edit:
    """Forward hook of a site: the edit of one intervention, with its map and gate on every device that asked.

    Args:
        site: where.
        regressor: the map.
        strength: of all rows, or one for each row of the batch (rows,); rows that share one (beams) lie together.
        gate: which tokens are edited; None edits all.
    """

    def __init__(self, site: Site, regressor: Regressor, strength: float | Tensor, gate: nn.Module | None) -> None:
        self.site = site
        self.regressor = regressor
        self.strength = strength
        self.gate = gate
        self.record: CallRecord | None = None
        self._copies: dict[tuple[nn.Module, torch.device], nn.Module] = {}
        constant = self.regressor.constant_edit()
        self._shift = None if constant is None else constant.detach().float()
        if self._shift is not None and not isinstance(strength, Tensor):
            self._shift = strength * self._shift
        self._shifts: dict[torch.device, Tensor] = {}

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What the site's module returns, with its states edited; None leaves it as it is."""
        call = self.record.call if self.record is not None else None
        if self.record is None or call is None:
            raise RuntimeError(
                f"{self.site.name} ran outside a call of the whole decoder, so its tokens are unknown: call the model, "
                "or leave the steering block first"
            )
        selection = call.select(self.site.positions)
        if selection.is_empty:
            return None
        hidden = hidden_of(output, (call.batch, call.tokens))
        if hidden.shape[:2] != (call.batch, call.tokens):
            raise RuntimeError(
                f"{self.site.name} gave states {tuple(hidden.shape)}, but the decoder was called with {call.batch} "
                f"rows of {call.tokens} tokens: steering cannot tell which token is which"
            )
        strength = self._strength_of_tokens(call, hidden.device)
        if selection.everything:
            edited = self.edited(hidden, strength).to(hidden.dtype)
            self.record.note(self, edited)
            return replaced(output, edited)
        flat = hidden.reshape(-1, hidden.shape[-1])
        index = selection.on(hidden.device)
        if strength is not None:
            strength = strength.index_select(0, index)
        edited = self.edited(flat.index_select(0, index), strength).to(hidden.dtype)
        self.record.note(self, edited)
        return replaced(output, flat.index_copy(0, index, edited).view(hidden.shape))

    @property
    def strength_in_words(self) -> str:
        """As an error tells it."""
        if not isinstance(self.strength, Tensor):
            return f"strength {self.strength:g}"
        return f"strengths from {self.strength.min().item():g} to {self.strength.max().item():g}"

    def _strength_of_tokens(self, call: ForwardCall, device: torch.device) -> Tensor | None:
        """The strength of each token of a call (batch * tokens, 1); None where all rows have the same.

        Raises:
            ValueError: the call's rows are no multiple of the strengths.
        """
        if not isinstance(self.strength, Tensor):
            return None
        if call.batch % len(self.strength):
            raise ValueError(
                f"there are {len(self.strength)} strengths, one for each row, but the call has {call.batch} rows, "
                "which is no multiple of that"
            )
        tokens = call.batch // len(self.strength) * call.tokens
        return self.strength.to(device, torch.float32).repeat_interleave(tokens)[:, None]

    def edited(self, h: Tensor, strength: Tensor | None = None) -> Tensor:
        """The edited states in float32, (..., hidden) -> (..., hidden).

        Args:
            h: states.
            strength: of each of them, flattened (n, 1), where rows have strengths of their own.
        """
        if h.shape[-1] != self.regressor.hidden_size:
            raise UserError(
                f"the states at {self.site.name} have {h.shape[-1]} units, but the regressor's hidden_size is "
                f"{self.regressor.hidden_size}"
            )
        with torch.autocast(h.device.type, enabled=False):
            if self._shift is not None and self.gate is None and strength is None:
                return h + self._shift_on(h.device)
            flat = h.float().reshape(-1, h.shape[-1])
            if self._shift is not None:
                shift = self._shift_on(h.device)
                edited = flat + (shift if strength is None else strength * shift)
            else:
                predicted: Tensor = self._on(h.device, self.regressor)(flat)
                factor = self.strength if strength is None else strength
                whole = not isinstance(factor, Tensor) and factor == 1
                edited = predicted if whole else torch.lerp(flat, predicted, factor)
            if self.gate is not None:
                edited = torch.where(self._on(h.device, self.gate)(flat)[:, None], edited, flat)
            return edited.view(h.shape)

    def _shift_on(self, device: torch.device) -> Tensor:
        if device not in self._shifts and self._shift is not None:
            with torch.inference_mode(False):  # a copy made in inference mode would later refuse autograd
                self._shifts[device] = self._shift.to(device)
        return self._shifts[device]

    def _on(self, device: torch.device, part: Part) -> Part:
        if (part, device) not in self._copies:
            tensors = part.state_dict().values()
            if all(
                tensor.device == device and tensor.dtype in (torch.float32, torch.bool, torch.long)
                for tensor in tensors
            ):
                self._copies[part, device] = part
            else:
                with torch.inference_mode(False):
                    self._copies[part, device] = copy.deepcopy(part).to(device, torch.float32).eval()
        return self._copies[part, device]  # type: ignore[return-value]


def _argument_names(decoder: nn.Module) -> list[str]:
    """What the decoder's `forward` calls its arguments, in order.

    Raises:
        UserError: if it takes no cache under a name that is known: under another, every cached token would go unseen.
    """
    names = list(inspect.signature(decoder.forward).parameters)
    if not any(name in names for name in CACHE_ARGUMENTS):
        raise UserError(
            f"{type(decoder).__name__}.forward has no argument called {' or '.join(CACHE_ARGUMENTS)} (it has "
            f"{', '.join(names)}): steering reads there how many tokens came before. Use a decoder with a KV cache, "
            "and a release of transformers that pyproject.toml allows"
        )
    return names


def input_device(model: Any) -> torch.device:
    """Where a model takes its tokens; offloaded embeddings (`device_map`) fetch theirs from the CPU."""
    device: torch.device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device
