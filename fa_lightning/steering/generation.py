"""Greedy generation that is the model's alone: no setting that came with it has a say."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fa_lightning.backbones.decoder import context_of, has_position_table
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import last_token


def generated(
    model: Any,
    inputs: Mapping[str, Any],
    pad_token: int,
    new_tokens: int,
    exactly: bool = False,
    ends: Collection[int] = (),
    processors: Sequence[Any] = (),
    streamer: Any = None,
    stopping: Sequence[Any] = (),
) -> Tensor:
    """The prompts and what a model writes greedily behind each, (prompts, tokens + new tokens).

    Args:
        model: a causal LM, PEFT-wrapped or not; its own settings say nothing but which tokens end a text, too.
        inputs: left-padded prompts; `position_ids` are left out, since every new token has its own.
        pad_token: fills up a text that has ended.
        new_tokens: where a text ends that does not end itself.
        exactly: no text ends earlier.
        ends: tokens that end a text (see `end_tokens`), besides those that the model's own settings name.
        processors: called with (tokens, logits) before the largest logit is taken; what they return is taken for it.
        streamer: is shown each token as it comes.
        stopping: called with (tokens, scores) behind every new token; each says which rows end there (prompts,).

    Raises:
        UserError: prompts and new tokens are more than a table of the model has positions for.
    """
    from transformers import GenerationConfig

    prompt: Tensor = inputs["attention_mask"] if "attention_mask" in inputs else inputs["input_ids"]
    # The last new token is written and not read. Rotary positions go on beyond the context, if badly.
    if has_position_table(model) and prompt.shape[1] + new_tokens - 1 > context_of(model):
        raise UserError(
            f"the longest prompt has {prompt.shape[1]} tokens, and {new_tokens} are to be written (max_new_tokens), "
            f"but the model has positions for {context_of(model)}: write fewer, or shorten the prompt"
        )
    own = model.generation_config
    named = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ended_by = sorted({*ends, *(token for token in named if token is not None)})
    settings = GenerationConfig(
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens if exactly else None,
        do_sample=False,
        num_beams=1,
        bos_token_id=own.bos_token_id,
        eos_token_id=ended_by or None,
        pad_token_id=pad_token,
        disable_compile=True,
    )
    inputs = {name: value for name, value in inputs.items() if name != "position_ids"}
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    is_known = type(bare).__module__.startswith("transformers.models.")
    # For the pass over the prompts: with the number that transformers would give, the head gets a slice.
    if is_known and "logits_to_keep" in inspect.signature(bare.forward).parameters:
        inputs["logits_to_keep"] = last_token()
    with _settings_of(model, settings):
        written: Tensor = model.generate(
            **inputs,
            generation_config=settings,
            logits_processor=list(processors),
            stopping_criteria=list(stopping),
            streamer=streamer,
        )
    return written


@contextmanager
def _settings_of(model: torch.nn.Module, settings: Any) -> Iterator[None]:
    """Settings in the place of the model's own, which `generate` would fill up those that it is given from."""
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    before = [module.generation_config for module in owners]
    try:
        for module in owners:
            module.generation_config = settings
        yield
    finally:
        for module, own in zip(owners, before, strict=True):
            module.generation_config = own
