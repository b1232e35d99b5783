"""LoRA's matrices as the adapters hold them, and a fresh adapter that comes, learns and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_twins import adapters, alone, twins

from fa_lightning.backbones.adapters import backbone_of
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.lora_layers import FRESH, fresh_adapter, lora_factors, put, restart
from fa_lightning.backbones.variants import Variants

__all__ = ["adapters", "alone", "twins"]

IDS = torch.arange(10, 34).reshape(2, 12)
LAYERS = 2 * 4


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


def state_of(variants: Variants) -> Any:
    """All that a block must leave as it was."""
    model = variants.model
    return (
        [(name, type(module)) for name, module in model.named_modules()],
        [(name, parameter.requires_grad) for name, parameter in model.named_parameters()],
        [module.training for module in model.modules()],
        variants.names,
        list(model.peft_config),
        (model.active_adapter, model.base_model.active_adapter),
        [layer._active_adapter for layer in model.modules() if hasattr(layer, "_active_adapter")],
        variants.beside,
    )


def randomised(fresh: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = {name: 0.3 * torch.randn(one.shape, generator=generator) for name, one in fresh.items()}
    put(fresh, values)
    return values


def test_factors_are_the_difference_that_an_adapter_makes_to_the_weights(
    twins: Variants, adapters: dict[str, str], alone: Callable[[str], Any]
) -> None:
    base = load_backbone(backbone_of(adapters["faking"]))
    merged = alone("faking").merge_and_unload()
    factors = lora_factors(twins, "faking")
    assert len(factors) == LAYERS
    for path, one in factors.items():
        before, after = (model.get_submodule(path).weight for model in (base, merged))
        torch.testing.assert_close(one.scale * one.up @ one.down, after - before, rtol=0, atol=1e-5)
        assert torch.equal(one.base.weight, before)
    with pytest.raises(ValueError, match="adapter 'nobody' is in no linear layer"):
        lora_factors(twins, "nobody")


def test_a_fresh_adapter_acts_together_with_each_variant(
    twins: Variants, adapters: dict[str, str], alone: Callable[[str], Any]
) -> None:
    with fresh_adapter(twins, rank=3, alpha=6) as fresh:
        values = randomised(fresh)
        found = {}
        for name in ("faking", "aligned", "faking"):
            with twins.using(name) as model:
                found[name] = logits(model)
    for name in ("faking", "aligned"):
        merged = alone(name).merge_and_unload()
        with torch.no_grad():
            for path in lora_factors(twins, name):
                merged.get_submodule(path).weight += 2 * values[f"{path}.lora_B"] @ values[f"{path}.lora_A"]
        torch.testing.assert_close(found[name], logits(merged), rtol=0, atol=1e-3)
        assert not torch.allclose(found[name], logits(alone(name)), atol=0.1)


def test_it_starts_as_no_change_and_the_same_for_the_same_seed(twins: Variants, alone: Callable[[str], Any]) -> None:
    with fresh_adapter(twins, rank=3, alpha=6) as fresh:
        assert len(fresh) == 2 * LAYERS
        starts = []
        for seed in (0, 1, 0):
            randomised(fresh)
            restart(fresh, seed)
            starts.append({name: one.detach().clone() for name, one in fresh.items()})
            for name in ("faking", "aligned"):
                with twins.using(name) as model:
                    assert torch.equal(logits(model), logits(alone(name)))
    for name, one in starts[0].items():
        assert torch.equal(one, starts[2][name])
        if name.endswith("lora_B"):
            assert not one.any()
        else:
            assert not torch.equal(one, starts[1][name])
            # LoRA's own range: uniform up to one over the root of the inputs.
            assert one.abs().max() <= one.shape[1] ** -0.5
            assert one.abs().mean() == pytest.approx(0.5 * one.shape[1] ** -0.5, rel=0.25)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("inference", [False, True])
def test_it_leaves_no_trace(twins: Variants, fails: bool, inference: bool) -> None:
    with twins.using("aligned"):
        pass
    before = state_of(twins)
    answers = {name: logits_of(twins, name) for name in ("faking", "aligned")}
    with twins.using("aligned"):
        pass
    stops = pytest.raises(RuntimeError, match="in the middle") if fails else nullcontext()
    with stops, torch.inference_mode(inference), fresh_adapter(twins, rank=2, alpha=2) as fresh:
        randomised(fresh)
        assert twins.names == before[3]
        with twins.using("faking"):
            pass
        trainable = {name for name, one in twins.model.named_parameters() if one.requires_grad}
        assert trainable == {f"base_model.model.{name}.{FRESH}.weight" for name in fresh}
        if fails:
            raise RuntimeError("in the middle")
    assert state_of(twins) == before
    assert all(torch.equal(logits_of(twins, name), found) for name, found in answers.items())


def logits_of(variants: Variants, name: str) -> torch.Tensor:
    with variants.using(name) as model:
        return logits(model)


def test_it_can_be_trained_though_it_was_made_in_inference_mode(twins: Variants) -> None:
    with torch.inference_mode(), fresh_adapter(twins, rank=2, alpha=2) as fresh:
        restart(fresh, 0)
        with torch.inference_mode(False), torch.enable_grad(), twins.using("faking") as model:
            model(input_ids=IDS.clone(), use_cache=False).logits.square().mean().backward()
        assert all(one.grad is not None and one.grad.isfinite().all() for one in fresh.values())
        assert any(one.grad.any() for one in fresh.values() if one.grad is not None)
    assert not [name for name, one in twins.model.named_parameters() if one.grad is not None]


def test_variants_that_replace_whole_layers_are_refused(backbone: str, tmp_path: Any) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    get_peft_model(load_backbone(backbone), config).save_pretrained(str(tmp_path / "whole"))
    variants = Variants.load({"whole": str(tmp_path / "whole")})
    with pytest.raises(ValueError, match="the variants whole hold more than LoRA"), fresh_adapter(variants, 2, 2):
        pass
    assert variants.names == ["whole"]


def test_variants_remember_their_folders(adapters: dict[str, str]) -> None:
    variants = Variants.load({"faking": adapters["faking"]})
    assert variants.folders == {"faking": adapters["faking"]}
    variants.add("again", adapters["aligned"])
    assert variants.folders == {"faking": adapters["faking"], "again": adapters["aligned"]}


def kind_of(kind: dict[str, Any], adapters: dict[str, str], folder: Path) -> str:
    """A twin with another kind of LoRA, as plain PEFT writes it."""
    base = load_backbone(backbone_of(adapters["faking"]))
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **kind)
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    model.save_pretrained(str(folder))
    return str(folder)


def test_rslora_is_scaled_by_the_ranks_root(adapters: dict[str, str], tmp_path: Path) -> None:
    folder = kind_of({"use_rslora": True}, adapters, tmp_path)
    base = load_backbone(backbone_of(folder))
    merged: Any = PeftModel.from_pretrained(load_backbone(backbone_of(folder)), folder).merge_and_unload()
    factors = lora_factors(Variants.load({"one": folder}), "one")
    assert len(factors) == 4
    for path, one in factors.items():
        before, after = (model.get_submodule(path).weight for model in (base, merged))
        assert one.scale == 8 / 4**0.5
        torch.testing.assert_close(one.scale * one.up @ one.down, after - before, rtol=0, atol=1e-5)


def test_dora_is_refused_where_two_matrices_are_not_its_update_and_runs_elsewhere(
    adapters: dict[str, str], tmp_path: Path
) -> None:
    folder = kind_of({"use_dora": True}, adapters, tmp_path)
    variants = Variants.load({"one": folder})
    plain: Any = PeftModel.from_pretrained(load_backbone(backbone_of(folder)), folder)
    with variants.using("one") as model:
        assert torch.equal(logits(model), logits(plain.eval()))
    with pytest.raises(ValueError, match=r"'one' is DoRA \(use_dora is True\), but its update is read off plain"):
        lora_factors(variants, "one")
