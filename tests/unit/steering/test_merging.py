"""Models that leave with all of it in their weights: the same answers, by plain transformers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import HIDDEN, small_model

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.steering.intervention import Intervention
from fa_lightning.steering.merging import logits_of, merged, saved_agreement

PROMPTS = [[5, 9, 11], [7, 3, 21, 40, 2]]


def shift(layer: int = 0, component: Any = "residual", seed: int = 3) -> Intervention:
    return Intervention(Site(layer, component), torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed)), 1.5)


def with_adapter(model: Any, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    return get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **options)).eval()


def plain(folder: Path) -> list[torch.Tensor]:
    """What plain transformers answers, one prompt at a time."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0] for ids in PROMPTS]


HOLDING = ("llama", "smollm3", "seed_oss", "helium", "arcee", "gpt2", "gpt_neox", "opt", "phi", "starcoder2")


@pytest.mark.parametrize("family", HOLDING)
def test_a_shift_is_read_back_by_plain_transformers(family: str, tmp_path: Path) -> None:
    model = small_model(family)
    bare = logits_of(model, PROMPTS)
    expected = logits_of(model, PROMPTS, [shift(), shift(1, seed=4)])
    assert max((a - b).abs().max().item() for a, b in zip(bare, expected, strict=True)) > 0.1
    merged(model, [shift(), shift(1, seed=4)]).save_pretrained(tmp_path)
    for found, wanted in zip(plain(tmp_path), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    agreement = saved_agreement(tmp_path, expected, PROMPTS, torch.float32)
    assert (agreement.same, agreement.tokens) == (8, 8)
    with pytest.raises(UserError, match="does not answer as before: the worst of 8 tokens is"):
        saved_agreement(tmp_path, bare, PROMPTS, torch.float32)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_and_a_shift_go_in_together(family: str, tmp_path: Path) -> None:
    targets = ["c_attn", "c_proj"] if family == "gpt2" else ["q_proj", "down_proj"]
    model = with_adapter(small_model(family), target_modules=targets)
    expected = logits_of(model, PROMPTS, [shift()])
    result = merged(model, [shift()])
    assert not any("lora" in name for name, _ in result.named_parameters())
    result.save_pretrained(tmp_path)
    for found, wanted in zip(plain(tmp_path), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_an_attention_shift_needs_the_attentions_biases(tmp_path: Path) -> None:
    model = small_model("qwen3")
    expected = logits_of(model, PROMPTS, [shift(1, "attention")])
    result = merged(model, [shift(1, "attention")])
    assert result.config.attention_bias
    result.save_pretrained(tmp_path)
    assert saved_agreement(tmp_path, expected, PROMPTS, torch.float32).largest < 1e-6


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma"])
def test_a_family_without_a_place_is_refused_with_those_that_have_one(family: str) -> None:
    message = rf"a {family} model has no place for model\.layers\.0\.mlp\.down_proj\.bias, .* These hold it: llama"
    with pytest.raises(UserError, match=message):
        merged(small_model(family), [shift()])
    merged(with_adapter(small_model(family), target_modules=["q_proj"]), [])


def test_packed_weights_and_what_depends_on_the_state_are_refused() -> None:
    from fa_lightning.regressors.linear import Affine

    with pytest.raises(UserError, match="cannot be folded: the edit of affine depends on the state"):
        merged(small_model("llama"), [Intervention(Site(0), Affine(HIDDEN))])
    model = small_model("llama")
    model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), False)
    with pytest.raises(UserError, match="weights are packed"):
        merged(model, [])
