"""A step without its idle casts gives the same gradients, and one with attention in float32 gives truer ones."""

from contextlib import nullcontext

import pytest
import torch

from fa_lightning.backbones.adapters import attach_adapter
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.lean_steps import AttentionInFloat32, lean_steps
from fa_lightning.backbones.load import load_backbone

CPU = torch.device("cpu")


@pytest.fixture
def model(backbone):
    model = attach_adapter(
        load_backbone(backbone).bfloat16(), "one", LoraArguments(rank=4, target_modules="all-linear")
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def gradients(model, around, autocast=True):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), around:
        model(input_ids=torch.arange(2, 26).reshape(2, 12)).logits[:, -1].float().logsumexp(-1).sum().backward()
    return torch.cat([parameter.grad.flatten().double() for parameter in model.parameters() if parameter.requires_grad])


def test_gradients_are_as_near_to_those_in_float32_as_without_it(model):
    plain, lean = gradients(model, nullcontext()), gradients(model, lean_steps(model, CPU))
    exact = gradients(model.float(), nullcontext(), autocast=False)
    assert exact.norm() > 0.1
    assert (lean - exact).norm() < 1.05 * (plain - exact).norm()


def test_the_casts_that_are_left_out_change_no_bit(model, monkeypatch):
    monkeypatch.setattr("fa_lightning.backbones.lean_steps.AttentionInFloat32", nullcontext)
    widened = []
    for module in model.modules():
        if hasattr(module, "lora_A"):
            inner = module.lora_A["one"]
            inner.register_forward_pre_hook(lambda module, inputs: widened.append(inputs[0].dtype))
    plain = gradients(model, nullcontext())
    assert set(widened) == {torch.float32}
    widened.clear()
    assert torch.equal(gradients(model, lean_steps(model, CPU)), plain)
    assert set(widened) == {torch.bfloat16}


def test_without_autocast_nothing_is_left_out(model):
    model.float()
    with lean_steps(model, CPU):
        assert all(getattr(module, "cast_input_dtype_enabled", True) for module in model.modules())


def test_attention_is_computed_in_float32_and_given_back_in_bfloat16():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 8, generator=generator).bfloat16() for _ in range(3))
    exact = torch.nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    with AttentionInFloat32(), torch.autocast("cpu", torch.bfloat16):
        ours = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        wide = torch.nn.functional.scaled_dot_product_attention(query.double(), key.double(), value.double())
    assert torch.equal(ours, exact.bfloat16())
    assert wide.dtype == torch.float64
