"""An adapter and shifts of every token put into a model's own weights: it needs no package but transformers then."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.activations.sites import Component
from fa_lightning.backbones.quantised import is_packed
from fa_lightning.errors import UserError
from fa_lightning.metrics.divergences import kl_divergence
from fa_lightning.steering.folding import fold
from fa_lightning.steering.hooks import input_device
from fa_lightning.steering.intervention import Intervention, steering

SWITCHES: dict[Component, str] = {"residual": "mlp_bias", "mlp": "mlp_bias", "attention": "attention_bias"}
"""Field of a model's config that gives the linear maps a bias which the shift of a site goes into."""

HOLDING = (
    "llama (also SmolLM2, Vicuna), smollm3, seed_oss, helium, arcee; and gpt2, gpt_neox, opt, phi, starcoder2, whose "
    "maps have biases anyway"
)
"""Families whose saved weights hold a shift of the residual stream."""

ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest divergence at a token, in nats, that rounding to a dtype explains."""


@dataclass(frozen=True)
class Agreement:
    """How a saved model answers beside the one that it was made from.

    Attributes:
        largest: divergence KL(before || saved) at the worst token, nats.
        same: tokens of the prompts behind which the likeliest next token is the same.
        tokens: of the prompts.
    """

    largest: float
    same: int
    tokens: int


def merged(model: Any, interventions: Sequence[Intervention]) -> Any:
    """The model with its adapter, if it has one, and the interventions in its own weights; it is used up.

    Args:
        model: a causal LM in evaluation mode, or a PEFT model with one active adapter.
        interventions: constant shifts on all tokens, without a gate (see `fold`).

    Returns:
        A plain causal LM, whose `save_pretrained` writes all of it.

    Raises:
        UserError: weights are packed (4-bit and the like), a shift can't be folded, or the architecture has no place
            for its bias; the reason is named.
    """
    from peft import PeftModel

    if is_packed(model) or not all(parameter.is_floating_point() for parameter in model.parameters()):
        raise UserError("the backbone's weights are packed (quantised), so nothing can be added to them: load it whole")
    if isinstance(model, PeftModel):
        try:
            model = model.merge_and_unload(safe_merge=True)
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"the adapter can't be merged: {str(error).rstrip('.')}") from error
    for intervention in interventions:
        fold(model, intervention)
    if interventions:
        _make_room(model, interventions)
    return model


def logits_of(model: Any, prompts: Sequence[Sequence[int]], interventions: Sequence[Intervention] = ()) -> list[Tensor]:
    """Logits behind every token of each prompt, (tokens, vocabulary) float32 on the CPU; each prompt by itself."""
    found = []
    with torch.inference_mode(), ExitStack() as stack:
        stack.enter_context(steering(model, interventions))
        for ids in prompts:
            tokens = torch.tensor([list(ids)], device=input_device(model))
            found.append(model(input_ids=tokens, use_cache=False).logits[0].float().cpu())
    return found


def saved_agreement(
    folder: Path, expected: Sequence[Tensor], prompts: Sequence[Sequence[int]], dtype: Any
) -> Agreement:
    """Load a saved model as plain transformers does, and compare what it says.

    Args:
        folder: of the model.
        expected: logits before, see `logits_of`.
        prompts: token ids of each.
        dtype: that it was saved in.

    Raises:
        UserError: weights are missing or left over, or it says something else.
    """
    from transformers import AutoModelForCausalLM

    # What is not needed any more is freed before it is loaded a second time.
    gc.collect()
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if wrong:
        raise UserError(f"transformers does not read {wrong[0]} of the merged model back ({len(wrong)} weights in all)")
    found = logits_of(model.eval(), prompts)
    divergences = torch.cat([kl_divergence(before, after) for before, after in zip(expected, found, strict=True)])
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(expected, found, strict=True)])
    agreement = Agreement(float(divergences.max()), int(same.sum()), len(same))
    if not agreement.largest <= ALLOWED[dtype]:
        raise UserError(
            f"the merged model does not answer as before: the worst of {agreement.tokens} tokens is "
            f"{agreement.largest:.2g} nats away, and rounding explains {ALLOWED[dtype]:g}. Nothing was written; "
            "merge in float32 (--dtype float32)"
        )
    return agreement


def _make_room(model: Any, interventions: Sequence[Intervention]) -> None:
    """Let a model's config know of biases that folding has added, with zeros for all others that come with them.

    Raises:
        UserError: the architecture has no such biases.
    """
    unknown = _names(model) - _names(_empty(model.config))
    if not unknown:
        return
    for component in dict.fromkeys(intervention.site.component for intervention in interventions):
        if hasattr(model.config, SWITCHES[component]):
            setattr(model.config, SWITCHES[component], True)
    known = _names(_empty(model.config))
    left_over, added = sorted(_names(model) - known), known - _names(model)
    if left_over or any(not name.endswith(".bias") for name in added):
        raise UserError(
            f"a {model.config.model_type} model has no place for {left_over[0] if left_over else sorted(added)[0]}, so "
            f"plain transformers would not read the shift back. These hold it: {HOLDING}. Otherwise write it for "
            "llama.cpp (export --gguf), or attach the intervention at inference"
        )
    for name in added:
        module = model.get_submodule(name.removesuffix(".bias"))
        module.bias = nn.Parameter(module.weight.new_zeros(module.weight.shape[0]), requires_grad=False)


def _names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


def _empty(config: Any) -> nn.Module:
    """The model that transformers would make of a config, without weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    return model
