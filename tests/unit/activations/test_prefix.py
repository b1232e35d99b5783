"""Last tokens behind a kept prefix are what they are in the whole prompt, whatever the family."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from fa_lightning.activations.prefix import Prefix
from tests.conformance.models import FAMILIES, PROMPTS, batch_of, make_model


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_last_token_again_is_as_it_was(family: str) -> None:
    model = make_model(family)
    # A window is longer than some prompts and shorter than others.
    batch = batch_of(PROMPTS, extra=2)
    whole = model(**batch, use_cache=False).logits
    prefix = Prefix.for_model(model)
    assert prefix is not None
    filled = model(**batch, **prefix.arguments()).logits
    torch.testing.assert_close(filled[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, -1] = 13
    for inputs in (changed, batch):  # the first call leaves nothing behind for the second
        last = {**inputs, **{name: inputs[name][:, -1:] for name in ("input_ids", "position_ids") if name in inputs}}
        again = model(**last, **prefix.without_last()).logits
        expected = model(**inputs, use_cache=False).logits[:, -1:]
        torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)


def test_models_that_remember_otherwise_have_none() -> None:
    torch.manual_seed(0)
    state_space = MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, state_size=4))
    assert Prefix.for_model(state_space) is None
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    llama = LlamaForCausalLM(config)
    assert Prefix.for_model(llama) is not None
    config.num_kv_shared_layers = 1
    assert Prefix.for_model(llama) is None

    class OfSomebody(nn.Module):
        config: Any = SimpleNamespace(num_hidden_layers=1)

        def forward(self, input_ids: Any, cache: DynamicCache | None = None) -> None: ...

    assert Prefix.for_model(OfSomebody()) is None
