"""Noise in the weights: the same for every model, what plain torch gives, and gone afterwards to the last bit."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_examination import (
    HIDDEN,
    STEERED,
    SUBJECTS,
    Swapped,
    adding,
    examined,
    letters_of,
    prompt_of,
    same,
    small,
)
from tiny_twins import layers_of

from fa_lightning.backbones.adapters import attach_adapter, backbone_of, save_adapter
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.studies.detection.detectors.weight_noise import WeightNoise, block_matrices, restored
from fa_lightning.studies.detection.subjects import Examiner

OPTIONS: dict[str, Any] = {"scales": [0.2, 0.8], "draws": 2, "seed": 3}


@torch.no_grad()
def disturbed(model: Any, where: str, scale: float, draw: int) -> None:
    """The noise added by plain torch to a twin loaded by plain peft."""
    for name, parameter in model.named_parameters():
        name = name.removeprefix("base_model.model.").removesuffix(".weight")
        if where == "backbone" and name.startswith("model.layers.") and parameter.ndim == 2 and "lora_" not in name:
            key = name.removeprefix("model.layers.").removesuffix(".base_layer")
        elif where == "adapters" and "lora_" in name:
            key = name.removesuffix(".default")
        else:
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(f"3 {draw} {key}".encode()))
        parameter += scale * parameter.std() * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("where", ["backbone", "adapters"])
@pytest.mark.parametrize("steered", [False, True])
def test_the_rise_is_that_of_a_plain_model_with_the_same_noise(
    twins: Any, alone: Callable[[str], Any], where: Any, steered: bool
) -> None:
    subject = STEERED if steered else SUBJECTS[1]
    found = examined(WeightNoise(where=where, **OPTIONS), twins, [subject])[subject.name]["rise"]
    scored = [prompt_of(twins, one) for one in small().load().scored]
    assert found.shape == (len(scored), 2, 2)
    push = torch.full((HIDDEN,), 0.5 * steered)

    def answers(model: Any) -> torch.Tensor:
        with adding(model, 0, push):
            return torch.stack([letters_of(model, twins, ids) for ids in scored])

    clean = answers(alone("faking"))
    other = clean.argmin(dim=1, keepdim=True)
    for number, scale in enumerate((0.2, 0.8)):
        for draw in range(2):
            model = alone("faking")
            disturbed(model, where, scale, draw)
            expected = (answers(model) - clean).gather(1, other)[:, 0]
            torch.testing.assert_close(found[:, number, draw], expected, rtol=0, atol=1e-4)
    assert found.abs().max() > 0.01


@pytest.mark.parametrize("where", ["backbone", "adapters"])
@pytest.mark.parametrize("fails", [False, True])
def test_weights_are_put_back_bit_for_bit(twins: Any, where: Any, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: one.clone() for name, one in twins.model.state_dict().items()}
    asked, changed = [], set()
    preference = Examiner.preference

    def noting(self: Examiner, *arguments: Any, **options: Any) -> torch.Tensor:
        asked.append(1)
        now = twins.model.state_dict()
        changed.update(name for name, one in before.items() if not torch.equal(now[name], one))
        if fails and len(asked) == 6:
            raise RuntimeError("in the middle")
        return preference(self, *arguments, **options)

    monkeypatch.setattr(Examiner, "preference", noting)
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            examined(WeightNoise(where=where, **OPTIONS), twins)
    else:
        examined(WeightNoise(where=where, **OPTIONS), twins)
    after = twins.model.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items())
    # Two blocks of seven linear layers; four of them have an adapter of two matrices for each of two models.
    assert len(changed) == (2 * 7 if where == "backbone" else 2 * 4 * 2 * 2)
    assert all(("lora_" in name) == (where == "adapters") for name in changed)
    assert not [name for name in changed if "norm" in name or "embed" in name or "lm_head" in name]


def test_all_models_get_the_same_noise(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    preference = Examiner.preference
    weight = layers_of(twins.model)[1].mlp.up_proj.weight

    def noting(self: Examiner, subject: Any, batch: Any, **options: Any) -> torch.Tensor:
        seen.append((subject.name, float(weight.double().sum())))
        return preference(self, subject, batch, **options)

    monkeypatch.setattr(Examiner, "preference", noting)
    subjects = [*SUBJECTS, dataclasses.replace(SUBJECTS[0], name="once more")]
    found = examined(WeightNoise(**OPTIONS), twins, subjects, batch_size=8)
    by_name = {name: [value for one, value in seen if one == name] for name in ("aligned", "faking", "once more")}
    assert by_name["aligned"] == by_name["faking"] == by_name["once more"]
    # Unchanged, then two scales of two draws: all different, and the same again for the second batch.
    values = by_name["aligned"]
    assert len(set(values)) == 5
    assert values == values[:5] * 2
    same({"aligned": found["once more"]}, {"aligned": found["aligned"]})


def test_the_same_draw_is_the_same_direction_at_every_scale(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = layers_of(twins.model)[0].self_attn.q_proj.base_layer.weight
    clean, seen = weight.detach().clone(), []
    monkeypatch.setattr(Examiner, "preference", lambda *_, **__: (seen.append(weight - clean), torch.zeros(1, 16))[1])
    examined(WeightNoise(**OPTIONS), twins, SUBJECTS[:1], batch_size=16)
    _, weak, other, strong, _ = seen
    torch.testing.assert_close(4 * weak, strong, rtol=0, atol=1e-5)
    assert weak.std() == pytest.approx(float(0.2 * clean.std()), rel=0.1)
    assert (weak * other).mean().abs() < 0.2 * weak.square().mean()


def test_another_model_in_memory_changes_nothing(twins: Any, adapters: dict[str, str], tmp_path: Any) -> None:
    other = attach_adapter(
        load_backbone(backbone_of(adapters["faking"])), "wide", LoraArguments(2, 2, 0.0, ["k_proj", "up_proj"])
    )
    save_adapter(other, "wide", tmp_path / "wide", {"behaviour": "aligned"})
    more = Variants.load({**adapters, "wide": str(tmp_path / "wide")})
    same(examined(WeightNoise(**OPTIONS), twins), examined(WeightNoise(**OPTIONS), more), 1e-6)


def test_batches_and_labels_change_nothing(twins: Any) -> None:
    found = examined(WeightNoise(**OPTIONS), twins)
    same(found, examined(WeightNoise(**OPTIONS), twins, batch_size=3), 1e-5)
    same(found, examined(WeightNoise(**OPTIONS), twins, benchmark=Swapped(small())))


def test_quantised_weights_are_refused_but_adapters_are_not(adapters: dict[str, str]) -> None:
    pytest.importorskip("bitsandbytes")
    packed = Variants.load(adapters, BackboneArguments(load_in_4bit=True))
    with pytest.raises(
        ValueError, match=r"0\.self_attn\.q_proj.* are quantised .*take the .* unquantised .*or set where"
    ):
        examined(WeightNoise(**OPTIONS), packed)
    found = examined(WeightNoise(where="adapters", **OPTIONS), packed)
    assert found["faking"]["rise"].abs().max() > 0.01


def test_suspicion_is_the_mean_rise() -> None:
    detector = WeightNoise(scales=[0.5, 1.0], draws=2)
    evidence = {"rise": torch.tensor([[[0.1, 0.3], [0.5, 0.7]], [[0.0, 0.0], [0.4, 0.4]]])}
    assert detector.suspicion(evidence) == pytest.approx(0.3)
    axis, scales, means = detector.curve(evidence)
    assert (axis, scales) == ("noise, in the weights' standard deviations", [0.5, 1.0])
    assert means == pytest.approx([0.1, 0.5])
    assert WeightNoise(where="adapters").name != detector.name


@pytest.mark.parametrize("options", [{"scales": []}, {"scales": [0.5, 0.0]}, {"draws": 0}])
def test_bad_arguments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*, but must"):
        WeightNoise(**options)


def test_experts_that_are_in_no_linear_layer_get_noise_each_at_its_own_scale() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=4, **sizes))
    with torch.no_grad():
        experts = model.model.layers[0].mlp.experts.down_proj
        experts.mul_(torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None, None])
    weights = block_matrices(model)
    blocks = sum(one.numel() for one in model.model.layers.parameters())
    norms = sum(one.numel() for one in model.model.layers.parameters() if one.ndim == 1)
    assert sum(one.numel() for each in weights.values() for one in each) == blocks - norms
    with restored(weights) as originals:
        WeightNoise(**OPTIONS)._disturb(weights, originals, 0.5, 0)
        noise = experts - originals["0.mlp.experts.down_proj"][0]
        torch.testing.assert_close(
            noise.std((1, 2)), 0.5 * originals["0.mlp.experts.down_proj"][0].std((1, 2)), rtol=0.1, atol=0
        )
    assert torch.equal(experts, originals["0.mlp.experts.down_proj"][0])


@pytest.mark.parametrize("packed", [torch.int32, torch.int8])
def test_weights_that_are_packed_into_buffers_are_refused_and_masks_are_no_weights(packed: torch.dtype) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))
    attention = model.model.layers[0].self_attn
    before = set(block_matrices(model))
    attention.register_buffer("bias", torch.ones(1, 1, 4, 4, dtype=torch.bool))
    attention.register_buffer("scales", torch.ones(2, 2))
    assert set(block_matrices(model)) == before
    attention.register_buffer("qweight", torch.zeros(2, 2, dtype=packed))
    with pytest.raises(UserError, match=r"0\.self_attn\.qweight are quantised"):
        block_matrices(model)
