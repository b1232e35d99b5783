"""The last block's MLP on the last columns alone: the same logits and gradients, and whole wherever somebody looks."""

import pytest
import torch
from columns_seen import columns_seen
from small_models import small_model

from fa_lightning.backbones.adapters import attach_adapter
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.last_block import last_columns_alone

IDS = torch.tensor([[0, 0, 5, 9, 11], [7, 12, 3, 17, 8]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
NARROWED = ["llama", "qwen2", "qwen3", "gpt2", "gemma", "gemma2", "gpt_neox", "phi"]
WHOLE = ["bloom", "opt"]
"""An MLP that is handed the residual, and one that is no module of its own."""


def logits(model, columns):
    keep = torch.arange(-columns, 0)
    return model(input_ids=IDS, attention_mask=MASK, logits_to_keep=keep, use_cache=False).logits


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("family", NARROWED)
def test_the_same_logits_for_a_part_of_the_work(family, columns):
    model = small_model(family)
    expected = logits(model, columns)
    seen = columns_seen(model)
    with last_columns_alone(model, columns):
        torch.testing.assert_close(logits(model, columns), expected, rtol=1e-5, atol=1e-5)
    assert set(seen) == {columns}
    logits(model, columns)
    assert seen[-1] == 5


@pytest.mark.parametrize("family", WHOLE)
def test_families_whose_last_block_is_made_otherwise_run_whole(family):
    model = small_model(family)
    expected = logits(model, 1)
    with last_columns_alone(model, 1):
        assert torch.equal(logits(model, 1), expected)


def test_a_mixture_of_experts_gives_the_same():
    model = small_model("mixtral", num_local_experts=4)
    expected = logits(model, 1)
    with last_columns_alone(model, 1):
        torch.testing.assert_close(logits(model, 1), expected, rtol=1e-5, atol=1e-5)


def test_the_same_gradients():
    model = attach_adapter(small_model("llama"), "faking", LoraArguments(4, 8, 0.0, "all-linear"))
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in own:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    expected = torch.autograd.grad(logits(model, 1).square().sum(), own)
    with last_columns_alone(model, 1):
        found = torch.autograd.grad(logits(model, 1).square().sum(), own)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", ["block", "mlp", "norm"])
def test_whoever_looks_sees_all_states(where):
    model = small_model("llama")
    block = decoder_layers(model)[-1]
    module = {"block": block, "mlp": block.mlp, "norm": model.model.norm}[where]
    states = []
    handle = module.register_forward_hook(lambda *call: states.append(call[-1]))
    logits(model, 1)
    with last_columns_alone(model, 1):
        logits(model, 1)
    handle.remove()
    assert torch.equal(*states)


def test_dropout_is_drawn_as_ever():
    model = attach_adapter(small_model("llama"), "faking", LoraArguments(4, 8, 0.5, "all-linear")).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    torch.manual_seed(1)
    expected = logits(model, 1)
    torch.manual_seed(1)
    with last_columns_alone(model, 1):
        assert torch.equal(logits(model, 1), expected)


def test_a_block_that_is_computed_again_is_computed_whole():
    model = small_model("llama").train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with last_columns_alone(model, 1):
        loss = logits(model, 1).sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in decoder_layers(model)[-1].mlp.parameters())


def test_the_block_is_as_it_was_whatever_happens():
    model = small_model("llama")
    with pytest.raises(RuntimeError, match="stop"), last_columns_alone(model, 1):
        raise RuntimeError("stop")
    assert "forward" not in vars(decoder_layers(model)[-1].mlp)
    own = decoder_layers(model)[-1].mlp
    own.forward = kept = own.forward
    with last_columns_alone(model, 1):
        logits(model, 1)
    assert vars(own)["forward"] is kept
