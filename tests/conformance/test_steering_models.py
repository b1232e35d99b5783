"""Steering in training, in half precision and on models with adapters; and the random baseline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fa_lightning.activations.capture import capture
from fa_lightning.activations.sites import Site
from fa_lightning.regressors.wrappers import NormMatchedRandom
from tests.conformance.measures import final_logits, generate
from tests.conformance.models import PROMPTS, batch_of, make_model
from tests.conformance.reference import NEW_TOKENS, Edit, edited_columns
from tests.conformance.steerers import FaLightning, affine_map, make_edit, mlp_map, shift_map, vector_for


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("rule", ["all", "last"])
def test_gradients_flow_through_the_edit(rule: str) -> None:
    model, batch = make_model("llama"), batch_of(PROMPTS)
    edit = make_edit(rule, affine_map(), strength=0.7)
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    inputs = {"attention_mask": batch["attention_mask"], "position_ids": batch["position_ids"]}

    def loss(embedded: Tensor) -> Tensor:
        return model(inputs_embeds=embedded, **inputs).logits[:, -1].square().mean()

    with edit.on(model):
        loss(embeddings).backward()
        direction = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
        with torch.no_grad():
            rise = loss(embeddings + direction) - loss(embeddings - direction)
    assert embeddings.grad is not None
    torch.testing.assert_close((embeddings.grad * direction).sum() * 2, rise, rtol=2e-2, atol=1e-5)
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        model, batch = make_model("llama").train(), batch_of(PROMPTS)
        if checkpointing:
            model.gradient_checkpointing_enable()
        with make_edit("last").on(model):
            model(**batch, use_cache=False).logits[:, -1].square().mean().backward()
        gradients.append(model.model.embed_tokens.weight.grad)
    close(gradients[1], gradients[0])


@pytest.mark.parametrize("rule", ["all", "last"])
@pytest.mark.parametrize("make_map", [mlp_map, lambda: shift_map(vector_for())], ids=["mlp", "shift"])
def test_a_bfloat16_model_stays_bfloat16(rule: str, make_map: Any) -> None:
    model, edit, batch = make_model("llama").bfloat16(), make_edit(rule, make_map()), batch_of(PROMPTS)
    with torch.no_grad(), capture(model, [Site(0)]) as plain:
        model(**batch)
    with torch.no_grad(), edit.on(model), capture(model, [Site(0), Site(1)], stop=False) as steered:
        assert model(**batch).logits.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in steered.values()} == {torch.bfloat16}
    hidden = plain["layers.0.residual"][:, -1].float()
    edit.regressor.eval()
    expected = (hidden + 0.7 * (edit.regressor(hidden) - hidden)).bfloat16()
    torch.testing.assert_close(steered["layers.0.residual"][:, -1], expected, rtol=1e-2, atol=1e-2)
    with edit.on(model):
        assert generate(model, batch)[0].shape == (len(PROMPTS), NEW_TOKENS)


def test_adapters_are_steered_alike_and_can_be_swapped_inside_the_block() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model: Any = get_peft_model(make_model("llama"), config, adapter_name="aligned")
    model.add_adapter("faking", config)
    model.eval()
    steerer, words = FaLightning("mlp"), Edit(0, vector_for())
    edit, batch = make_edit("all"), batch_of(PROMPTS)
    columns = batch["attention_mask"].bool()
    expected = {}
    for adapter in ("aligned", "faking"):
        model.set_adapter(adapter)
        with edited_columns(model.get_base_model(), words, lambda hidden: steerer.edited(words, hidden), columns):
            expected[adapter] = final_logits(model, batch)
    assert not torch.allclose(expected["aligned"], expected["faking"], atol=1e-2)
    with edit.on(model):
        for adapter in ("faking", "aligned"):
            model.set_adapter(adapter)
            close(final_logits(model, batch), expected[adapter])
        tokens, _ = generate(model, batch)
        single, _ = generate(model, batch_of(PROMPTS[1:2]))
    assert torch.equal(tokens[1], single[0])


def test_the_random_baseline_moves_the_model_as_far_at_the_site(llama: Any) -> None:
    batch, site = batch_of(PROMPTS), Site(0)
    with torch.no_grad(), capture(llama, [site]) as plain:
        llama(**batch)
    edits = []
    for regressor in (mlp_map(), NormMatchedRandom(mlp_map(), seed=4)):
        with torch.no_grad(), make_edit("all", regressor).on(llama), capture(llama, [site]) as steered:
            llama(**batch)
        edits.append(steered[site.name] - plain[site.name])
    close(edits[0].norm(dim=-1), edits[1].norm(dim=-1))
    assert not torch.allclose(edits[0], edits[1], atol=1e-2)
