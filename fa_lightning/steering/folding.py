"""A constant shift on all tokens, put into a bias of the model: steering that costs nothing at inference."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.sites import Site, module_at
from fa_lightning.errors import UserError
from fa_lightning.steering.constant import shift_of_every_token
from fa_lightning.steering.hooks import input_device
from fa_lightning.steering.intervention import Intervention


class Folding:
    """A shift that lies in a bias until `unfold`, or until the `with` block ends; made by `fold`.

    Args:
        linear: the linear map (nn.Linear, or GPT-2's Conv1D) whose bias takes the shift.
        shift: what to add, (hidden,) float32.
    """

    def __init__(self, linear: Any, shift: Tensor) -> None:
        self._linear = linear
        self._before: nn.Parameter | None = self._linear.bias
        weight: Tensor = self._linear.weight
        if self._before is not None:
            added = self._before.detach().float() + shift.to(weight.device)
            dtype = self._before.dtype
        else:
            added = shift.to(weight.device)
            # The weights of a quantised map are packed integers; it computes, and wants its bias, in another dtype.
            dtype = weight.dtype if weight.dtype.is_floating_point else _computing_dtype(linear)
        self._after = nn.Parameter(added.to(dtype, copy=True), requires_grad=False)
        self._linear.bias = self._after

    def unfold(self) -> None:
        """Put the old bias (or its absence) back, bit for bit; a second call does nothing.

        Raises:
            RuntimeError: if the bias was replaced since: unfold what was folded later first.
        """
        if self._linear.bias is self._before:
            return
        if self._linear.bias is not self._after:
            raise RuntimeError("the bias was replaced since this shift was folded: unfold what was folded later first")
        self._linear.bias = self._before

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unfold()


def fold(model: nn.Module, intervention: Intervention) -> Folding:
    """Add a constant shift to the bias of the last linear map that writes to the intervention's site.

    For a residual or MLP site that is the MLP's last linear map (a new bias where it has none), for an attention site
    the attention's. Nothing else runs: no hook, no module. That it does what the hook does is tried out on a few tokens
    before the model is touched, so blocks that normalise or scale what their parts write (Gemma 2, OLMo 2, Granite) are
    refused at residual sites. Equal to the hook up to the rounding of the model's dtype.

    The shift lies under any adapter and stays when adapters are swapped. A bias that the architecture does not have
    (Llama) is not read back by `from_pretrained`: save the intervention, not the folded model.

    Example:
        with fold(model, intervention):
            model.generate(**prompts)

    Args:
        model: a causal LM in evaluation mode; PEFT-wrapped or 4-bit is fine.
        intervention: a constant shift on all tokens, without a gate.

    Returns:
        What `unfold`s it; also a context manager.

    Raises:
        UserError: if the intervention does not fit the model or cannot be folded exactly; the reason is named and the
            model is as it was.
    """
    intervention.validate(model)
    site = intervention.site
    refusal = f"the intervention at {site.name} cannot be folded: "
    shift = shift_of_every_token(intervention, refusal, "a bias adds", "Use intervention.on(model).")
    if model.training:
        raise UserError(f"{refusal}the model is in training mode, where dropout follows the bias: call model.eval()")
    linear = _last_linear(model, site, refusal)
    if shift.any():
        _try_out(model, site, shift, linear, refusal)
    return Folding(linear, shift)


def _last_linear(model: nn.Module, site: Site, refusal: str) -> nn.Module:
    """The linear map that writes last to a site: of the MLP, or of the attention at an attention site."""
    part = module_at(model, site if site.component == "attention" else Site(site.layer, "mlp"))
    linears = _linears(part)
    if not linears:
        raise UserError(f"{refusal}{type(part).__name__} holds no linear map with a bias. Use intervention.on(model)")
    weight: Any = linears[-1].weight
    if weight.device.type == "meta":
        raise UserError(f"{refusal}its weights are offloaded. Use intervention.on(model)")
    return linears[-1]


def _linears(part: nn.Module) -> list[nn.Module]:
    """The linear maps in a part, in order, without those of adapters."""
    while isinstance(inner := getattr(part, "base_layer", None), nn.Module):
        part = inner
    # GPT-2's Conv1D is a linear map with its weight transposed.
    if isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D":
        return [part]
    return [linear for child in part.children() for linear in _linears(child)]


@torch.no_grad()
def _try_out(model: Any, site: Site, shift: Tensor, linear: nn.Module, refusal: str) -> None:
    """Refuse to fold where a bias does not do what the hook does, on a few tokens."""
    tokens = torch.arange(min(5, model.get_input_embeddings().num_embeddings), device=input_device(model))[None]
    plain = truncated_forward(model, [site], input_ids=tokens)[site.name]
    # As large as the states, so that rounding cannot hide a difference.
    probe = shift * (plain.abs().max().item() / shift.abs().max().item())
    with Intervention(site, probe).on(model):
        hooked = truncated_forward(model, [site], input_ids=tokens)[site.name].float()
    try:
        folding = Folding(linear, probe)
    except RuntimeError as error:
        raise UserError(f"{refusal}the last linear map does not write states of this width ({error})") from error
    with folding:
        try:
            folded = truncated_forward(model, [site], input_ids=tokens)[site.name].float()
        except RuntimeError as error:
            raise UserError(f"{refusal}the last linear map takes no bias of this width ({error})") from error
    bias: Any = folding._after
    rounding = max(torch.finfo(dtype).eps for dtype in (plain.dtype, bias.dtype))
    allowed = max(8 * rounding, 1e-4) * hooked.abs().max().item()
    difference = (folded - hooked).abs().max().item()
    if not difference <= allowed:
        raise UserError(
            f"{refusal}a bias in the last linear map gives states up to {difference:.2g} away from the hook's, as the "
            "block normalises or scales what that map writes. Use intervention.on(model)"
        )


def _computing_dtype(linear: nn.Module) -> torch.dtype:
    dtype = getattr(linear, "compute_dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
