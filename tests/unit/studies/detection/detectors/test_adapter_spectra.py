"""What is said of an adapter from its thin matrices is what the full update says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_examination import STEERED, SUBJECTS, examined, examiner_of
from torch import nn

from fa_lightning.backbones.adapters import backbone_of
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.lora_layers import Factors, lora_factors
from fa_lightning.backbones.lora_spectra import spectrum
from fa_lightning.backbones.variants import Variants
from fa_lightning.studies.detection.detectors.adapter_spectra import AdapterSpectra


def random_factors(rank: int, outputs: int, inputs: int, base: nn.Module, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    down = nn.Parameter(torch.randn(rank, inputs, generator=generator))
    up = nn.Parameter(torch.randn(outputs, rank, generator=generator))
    return Factors(down, up, 0.75, base)


@pytest.mark.parametrize(("outputs", "inputs"), [(40, 24), (24, 40)])
def test_singular_values_and_directions_are_the_full_updates(outputs: int, inputs: int) -> None:
    one = random_factors(5, outputs, inputs, nn.Identity())
    full = 0.75 * one.up.detach().double() @ one.down.detach().double()
    values, right = spectrum(one)
    torch.testing.assert_close(values, torch.linalg.svdvals(full)[:5], rtol=1e-9, atol=0)
    # The update maps each direction to a vector as long as its singular value.
    torch.testing.assert_close((full @ right).norm(dim=0), values, rtol=1e-9, atol=0)
    torch.testing.assert_close(right.T @ right, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-9)


def test_evidence_is_that_of_merged_weights(twins: Any, adapters: dict[str, str], alone: Callable[[str], Any]) -> None:
    found = examined(AdapterSpectra(), twins, [*SUBJECTS, STEERED])
    base = load_backbone(backbone_of(adapters["faking"]))
    for name in ("faking", "aligned"):
        merged = alone(name).merge_and_unload()
        updates = []
        for place, path in enumerate(lora_factors(twins, name)):
            weight = base.get_submodule(path).weight.detach().double()
            update = merged.get_submodule(path).weight.detach().double() - weight
            updates.append(update)
            singular = torch.linalg.svdvals(update)
            row = {key: values[0, place].item() for key, values in found[name].items()}
            assert row["stable_rank"] == pytest.approx(float(update.square().sum() / singular[0] ** 2), rel=1e-4)
            assert row["norm"] == pytest.approx(float(update.norm() / weight.norm()), rel=1e-4)
            assert row["spectral_norm"] == pytest.approx(float(singular[0] / weight.norm()), rel=1e-4)
            assert 1 <= row["stable_rank"] <= 4
        # What an update reads, as a density over directions: the trace of a product is their overlap.
        densities = [update.T @ update / update.square().sum() for update in updates]
        for place, one in enumerate(densities):
            others = [
                float((one * other).sum())
                for number, other in enumerate(densities)
                if number != place and len(other) == len(one)
            ]
            assert found[name]["overlap"][0, place].item() == pytest.approx(sum(others) / len(others), rel=1e-4)
    assert not torch.allclose(found["faking"]["norm"], found["aligned"]["norm"], rtol=1e-3)
    # Every scenario says the same, and what is attached to a model is no weight.
    assert all((values == values[:1]).all() and len(values) == 16 for values in found["faking"].values())
    assert all(torch.equal(values, found["faking"][key]) for key, values in found["faking steered"].items())


def test_no_prompt_is_run(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    examiner = examiner_of(twins)
    monkeypatch.setattr("tiny_examination.examiner_of", lambda _: examiner)
    examined(AdapterSpectra(), twins)
    assert examiner.passes == 0


def test_an_adapter_that_changes_nothing_has_rank_and_norm_0(twins: Any) -> None:
    with torch.no_grad():
        for one in lora_factors(twins, "faking").values():
            one.up.zero_()
    found = examined(AdapterSpectra(), twins)["faking"]
    assert not any(values.any() for values in found.values())


def test_quantised_base_weights_are_compared_with_too(adapters: dict[str, str], twins: Any) -> None:
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit

    packed = Variants.load(adapters, BackboneArguments(load_in_4bit=True))
    found, full = (examined(AdapterSpectra(), variants)["faking"] for variants in (packed, twins))
    torch.testing.assert_close(found["stable_rank"], full["stable_rank"])
    for place, one in enumerate(lora_factors(packed, "faking").values()):
        update = one.scale * one.up.detach() @ one.down.detach()
        restored = dequantize_4bit(one.base.weight, one.base.weight.quant_state)
        assert found["norm"][0, place].item() == pytest.approx(float(update.norm() / restored.norm()), rel=1e-4)


def test_ranks_do_not_move_the_stable_rank_of_the_same_update() -> None:
    narrow = random_factors(2, 20, 30, nn.Identity())
    wide = Factors(
        nn.Parameter(torch.cat([narrow.down.detach(), torch.zeros(6, 30)])),
        nn.Parameter(torch.cat([narrow.up.detach(), torch.zeros(20, 6)], dim=1) * 3),
        0.75,
        narrow.base,
    )
    ranks = [float(values.square().sum() / values[0].square()) for values, _ in map(spectrum, (narrow, wide))]
    assert ranks[0] == pytest.approx(ranks[1])


def test_suspicion_is_the_mean_over_layers() -> None:
    evidence = {"stable_rank": torch.tensor([[1.0, 2.0], [1.0, 2.0]]), "norm": torch.tensor([[0.1, 0.4], [0.1, 0.4]])}
    assert AdapterSpectra().suspicion(evidence) == pytest.approx(1.5)
    assert AdapterSpectra(by="norm").suspicion(evidence) == pytest.approx(0.25)
    assert AdapterSpectra().suspicion({"stable_rank": evidence["stable_rank"][:1]}) == pytest.approx(1.5)
    assert AdapterSpectra(by="norm").name != AdapterSpectra().name
