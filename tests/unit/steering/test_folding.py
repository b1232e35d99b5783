"""Shifts in a bias: equal to the hook on every family, gone without a trace, and refused where they would differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import HIDDEN, small_model
from tiny_twins import hooks_on
from torch import Tensor

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.regressors.linear import Affine
from fa_lightning.steering.folding import fold
from fa_lightning.steering.intervention import Intervention

FAMILIES = ("llama", "qwen2", "mistral", "gpt2", "opt", "gpt_neox")


def shift(layer: int = 0, component: Any = "residual", hidden: int = HIDDEN, strength: float = 0.7) -> Intervention:
    vector = 2 * torch.randn(hidden, generator=torch.Generator().manual_seed(3))
    return Intervention(Site(layer, component), vector, strength)


def logits(model: Any) -> Tensor:
    """Of a left-padded batch, the padded columns left out."""
    ids = torch.tensor([[0, 0, 5, 9, 11], [7, 3, 21, 40, 2]])
    mask = (ids != 0).long()
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    return found[mask.bool()]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("component", ["residual", "mlp", "attention"])
def test_a_folded_shift_is_the_hook_and_leaves_without_a_trace(family: str, component: str) -> None:
    model = small_model(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = {id(parameter) for parameter in model.parameters()}
    plain, hooks = logits(model), hooks_on(model)
    edit = shift(1, component)
    with edit.on(model):
        expected = logits(model)
    assert not torch.allclose(expected, plain, atol=0.1)
    with fold(model, edit):
        assert hooks_on(model) == hooks
        close(logits(model), expected)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {id(parameter) for parameter in model.parameters()} == parameters
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_holds_for_generation_with_a_cache(family: str) -> None:
    model = small_model(family)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    ids = torch.tensor([[5, 9, 11]])
    plain = model.generate(ids, **options)
    with shift().on(model):
        expected = model.generate(ids, **options)
    assert not torch.equal(plain, expected)
    with fold(model, shift()):
        assert torch.equal(model.generate(ids, **options), expected)
    folding = fold(model, shift())
    folding.unfold()
    folding.unfold()
    assert torch.equal(model.generate(ids, **options), plain)


def test_shifts_add_up_and_are_taken_out_last_first() -> None:
    model = small_model("llama")
    first, second = shift(0), shift(0, strength=-0.2)
    with first.on(model), second.on(model), shift(1).on(model):
        expected = logits(model)
    outer = fold(model, first)
    inner = fold(model, second)
    with fold(model, shift(1)):
        close(logits(model), expected)
    with pytest.raises(RuntimeError, match="unfold what was folded later first"):
        outer.unfold()
    inner.unfold()
    outer.unfold()
    assert model.model.layers[0].mlp.down_proj.bias is None


def test_a_shift_lies_under_the_adapters() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model: Any = get_peft_model(small_model("llama"), config, adapter_name="aligned")
    model.add_adapter("faking", config)
    model.eval()
    expected = {}
    with shift().on(model):
        for name in ("aligned", "faking"):
            model.set_adapter(name)
            expected[name] = logits(model)
    assert not torch.allclose(expected["aligned"], expected["faking"], atol=0.1)
    with fold(model, shift()):
        for name in ("aligned", "faking"):
            model.set_adapter(name)
            close(logits(model), expected[name])


def test_a_bfloat16_model_stays_bfloat16() -> None:
    model = small_model("qwen2").bfloat16()
    with shift().on(model):
        expected = logits(model)
    with fold(model, shift()):
        assert model.model.layers[0].mlp.down_proj.bias.dtype == torch.bfloat16
        found = logits(model)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.25)


# bitsandbytes packs blocks of 64 weights, so the model is that wide.
def test_a_four_bit_model_is_folded(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from fa_lightning.backbones.load import load_backbone

    small_model("llama", hidden=64).save_pretrained(tmp_path)
    model = load_backbone(BackboneArguments(str(tmp_path), load_in_4bit=True))
    edit = shift(hidden=64)
    plain = logits(model)
    with edit.on(model):
        expected = logits(model)
    assert not torch.allclose(expected, plain, atol=0.1)
    with fold(model, edit):
        close(logits(model), expected)
    assert model.model.layers[0].mlp.down_proj.bias is None
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gemma2", {}),
        ("olmo2", {}),
        ("granite", {"residual_multiplier": 0.3}),
        ("opt", {"do_layer_norm_before": False}),
    ],
    ids=["gemma2", "olmo2", "granite", "opt-350m"],
)
def test_blocks_that_normalise_or_scale_what_their_mlp_writes_are_refused(family: str, options: dict[str, Any]) -> None:
    model = small_model(family, **options)
    plain = logits(model)
    for strength in (0.7, 1e-6):  # a small shift must not hide in the rounding
        with pytest.raises(ValueError, match=r"layers.0.residual cannot be folded: .* normalises or scales"):
            fold(model, shift(strength=strength))
    assert torch.equal(logits(model), plain)
    # What the MLP itself writes can still be shifted.
    edit = shift(0, "mlp")
    with edit.on(model):
        expected = logits(model)
    with fold(model, edit):
        close(logits(model), expected)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Intervention(Site(0), Affine(HIDDEN)), "edit of affine depends on the state"),
        (shift().at(positions="last"), "positions are 'last'"),
        (shift(2), "layer is 2, but the backbone has 2 layers"),
        (shift(hidden=16), "hidden_size is 16"),
    ],
)
def test_what_no_bias_can_do_is_refused(edit: Intervention, message: str) -> None:
    model = small_model("llama")
    with pytest.raises(ValueError, match=message):
        fold(model, edit)
    assert model.model.layers[0].mlp.down_proj.bias is None


def test_gates_training_and_offloaded_weights_are_refused() -> None:
    class Open(torch.nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h[:, 0] > 0

    model = small_model("llama")
    with pytest.raises(ValueError, match="it has a gate"):
        fold(model, Intervention(Site(0), torch.ones(HIDDEN), gate=Open()))
    with pytest.raises(ValueError, match=r"training mode, .* call model.eval\(\)"):
        fold(model.train(), shift())
    model.eval().model.layers[0].mlp.down_proj.to("meta")
    with pytest.raises(ValueError, match="weights are offloaded"):
        fold(model, shift())


def test_a_model_spread_by_a_device_map_is_steered_and_folded_where_its_weights_are(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    whole = small_model("llama")
    whole.save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
    ).eval()
    assert model.model.layers[1].mlp.down_proj.weight.device.type == "meta"
    for edit in (shift(0), shift(1)):
        with edit.on(whole):
            expected = logits(whole)
        with edit.on(model):
            close(logits(model), expected)
    with shift(0).on(whole):
        expected = logits(whole)
    with fold(model, shift(0)):
        close(logits(model), expected)
    with pytest.raises(ValueError, match="weights are offloaded"):
        fold(model, shift(1))


def test_a_mixture_of_experts_is_refused() -> None:
    model = small_model("mixtral", num_local_experts=2)
    with pytest.raises(ValueError, match="cannot be folded"):
        fold(model, shift())
