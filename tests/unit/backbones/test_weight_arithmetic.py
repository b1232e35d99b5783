"""Adapters on the line through two others: the same as adding whole weights, whatever the two are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_twins import adapters, alone, twins

from fa_lightning.backbones.adapters import backbone_of, save_adapter
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.targets import PREFIX
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError

__all__ = ["adapters", "alone", "twins"]

IDS = torch.arange(10, 34).reshape(2, 12)
KINDS: dict[str, dict[str, Any]] = {
    "another rank": {"r": 6, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]},
    "other layers": {"r": 4, "lora_alpha": 8, "target_modules": ["k_proj", "down_proj"]},
    "rsLoRA": {"r": 5, "lora_alpha": 8, "target_modules": ["q_proj"], "use_rslora": True},
    "whole weights of a layer": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "model.layers.1.mlp.up_proj"],
        "rank_pattern": {"model.layers.1.mlp.up_proj": 32},
        "alpha_pattern": {"model.layers.1.mlp.up_proj": 32},
    },
}


@torch.no_grad()
def logits(variants: Variants, name: str) -> torch.Tensor:
    with variants.using(name) as model:
        return model(input_ids=IDS, use_cache=False).logits


def made(kind: dict[str, Any], adapters: dict[str, str], folder: Path) -> str:
    """An adapter of another kind, far from zero, as plain PEFT writes it."""
    model = get_peft_model(load_backbone(backbone_of(adapters["faking"])), LoraConfig(task_type="CAUSAL_LM", **kind))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    model.save_pretrained(str(folder))
    return str(folder)


def dense(folder: str | None, backbone: str) -> dict[str, torch.Tensor]:
    """All weights of the backbone with an adapter merged by plain PEFT, in float64."""
    base: Any = load_backbone(backbone).double()
    if folder is not None:
        base = PeftModel.from_pretrained(base, folder).double().merge_and_unload()
    return {name: weight.detach() for name, weight in base.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, -1], ids=["away from the plain one", "toward it"])
@pytest.mark.parametrize("strength", [0.25, 1.5])
def test_it_is_the_sum_of_whole_weights(
    kind: str, order: int, strength: float, adapters: dict[str, str], tmp_path: Path
) -> None:
    folders = [adapters["faking"], made(KINDS[kind], adapters, tmp_path / "other")][::order]
    variants = Variants.load(dict(zip(("start", "end"), folders, strict=True)))
    variants.model.double()
    variants.add_interpolated("between", "start", "end", strength)
    backbone = backbone_of(adapters["faking"])
    start, end = (dense(folder, backbone) for folder in folders)
    expected = {name: start[name] + strength * (end[name] - start[name]) for name in start}
    save_adapter(variants.model, PREFIX + "between", tmp_path / "saved", {"fingerprint": {}})
    with variants.using("between") as model:
        found = {name: weight for name, weight in model.merge_and_unload().named_parameters() if ".lora_" not in name}
    saved = dense(str(tmp_path / "saved"), backbone)
    moved = 0
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(saved[name], weight, rtol=0, atol=1e-5)
        moved += not torch.allclose(weight, start[name])
    assert moved >= 2


def test_its_ends_are_the_two_and_nothing_else_has_moved(twins: Variants, alone: Callable[[str], Any]) -> None:
    with twins.using("faking"):
        for strength, name in ((0.0, "at 0"), (1.0, "at 1"), (2.0, "at 2")):
            twins.add_interpolated(name, "faking", "aligned", strength)
        assert twins.model.active_adapter == PREFIX + "faking"
    assert twins.names == ["faking", "aligned", "at 0", "at 1", "at 2"]
    for one, other in (("at 0", "faking"), ("at 1", "aligned")):
        torch.testing.assert_close(logits(twins, one), logits(twins, other), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(logits(twins, other), alone(other)(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)
    assert (logits(twins, "at 2") - logits(twins, "aligned")).abs().max() > 0.01
    assert not any(parameter.requires_grad for parameter in twins.model.parameters())
    assert not any(module.training for module in twins.model.modules())


def test_what_cannot_be_added_is_refused(twins: Variants, adapters: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no variant 'nobody'; there are faking, aligned"):
        twins.add_interpolated("between", "faking", "nobody", 0.5)
    with pytest.raises(ValueError, match="there is a variant 'aligned' already"):
        twins.add_interpolated("aligned", "faking", "aligned", 0.5)
    twins.add("dora", made({"r": 2, "target_modules": ["q_proj"], "use_dora": True}, adapters, tmp_path / "dora"))
    with pytest.raises(ValueError, match=r"is DoRA \(use_dora is True\), but weight arithmetic is on plain LoRA"):
        twins.add_interpolated("between", "faking", "dora", 0.5)
    twins.add("regex", made({"r": 2, "target_modules": r".*\.q_proj"}, adapters, tmp_path / "regex"))
    with pytest.raises(ValueError, match="can't be added: all adapter configs should follow the same target modules"):
        twins.add_interpolated("between", "faking", "regex", 0.5)
    chosen = {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [0]}
    twins.add("lower", made(chosen, adapters, tmp_path / "lower"))
    with pytest.raises(ValueError, match="one chooses its layers by more than target_modules"):
        twins.add_interpolated("between", "lower", "faking", 0.5)
    assert twins.names == ["faking", "aligned", "dora", "regex", "lower"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "whole weights of a layer"])
def test_a_difference_is_added_to_any_variant_s_weights_for_a_while(
    kind: str, adapters: dict[str, str], tmp_path: Path
) -> None:
    folders = {**adapters, "other": made(KINDS[kind], adapters, tmp_path / "other")}
    variants = Variants.load(folders)
    variants.model.double()
    before = {name: logits(variants, name) for name in folders}
    variants.add_difference("cure", "faking", "aligned")
    assert variants.names == list(folders), "a difference is no variant"
    backbone = backbone_of(adapters["faking"])
    whole = {name: dense(folder, backbone) for name, folder in folders.items()}
    for strength in (0.5, -2.0):
        model = load_backbone(backbone).double()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(whole["other"][name] + strength * (whole["aligned"][name] - whole["faking"][name]))
            expected = model(input_ids=IDS, use_cache=False).logits
        with variants.shifted("cure", strength):
            torch.testing.assert_close(logits(variants, "other"), expected, rtol=1e-6, atol=1e-6)
        assert (expected - before["other"]).abs().max() > 1e-3
    with pytest.raises(RuntimeError, match="stop"), variants.shifted("cure", 1.0):
        raise RuntimeError("stop")
    for name, values in before.items():
        torch.testing.assert_close(logits(variants, name), values, rtol=0, atol=0)
    with pytest.raises(UserError, match="there is no difference 'none'; there are cure"), variants.shifted("none", 1.0):
        pass
    with pytest.raises(UserError, match="there is a variant 'cure' already"):
        variants.add_difference("cure", "faking", "aligned")
