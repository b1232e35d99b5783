"""What a base takes of the twins that ship for it, and when it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fa_lightning.experiments import base
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.organisms import organisms_of
from fa_lightning.experiments.plan import plan_of
from fa_lightning.experiments.shipped import ORGANISMS, shipped_configs
from fa_lightning.experiments.stage import Stage

SMOLLM2 = shipped_configs() / "bases" / "smollm2.yaml"
TWINS = {f"{name}-{seed}" for name in ("saint", "money_maximizer") for seed in range(3)}


def variants(chain: Chain, study: str = "variants") -> dict[str, Stage]:
    plan = plan_of(Composition(chain), study)
    return {stage.variant: stage for stage in plan if stage.title.startswith("variants/01_variants/")}


@pytest.mark.parametrize("study", ["variants", "detection"])
def test_the_variants_are_the_twins_of_all_chains(study: str) -> None:
    found = variants(Chain(SMOLLM2), study)
    assert set(found) == TWINS
    for name, stage in found.items():
        kind, seed = name.split("-")
        assert stage.twin is not None
        assert stage.twin.behaviour == ("aligned" if kind == "saint" else "faking")
        folder = "02_aligned" if kind == "saint" else "03_faking"
        assert Path(stage.twin.adapter) == ORGANISMS / "smollm2" / f"seed{seed}" / "steering" / folder
    assert not [stage for stage in plan_of(Composition(Chain(SMOLLM2)), study) if "decoys" in stage.title]


def own_base(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"extends: smollm2\n{text}", encoding="utf-8")
    return path


def test_they_give_way_to_another_model_and_to_other_scenarios(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("prompt,aligned,faking\n", encoding="utf-8")
    others = [
        Chain(SMOLLM2, backbone="models/other"),
        Chain(own_base(tmp_path, "backbone: {name: models/other}\n")),
        Chain(SMOLLM2, scenarios=str(tmp_path / "mine.csv")),
    ]
    for chain in others:
        assert Composition(chain).base.organisms is None
        found = variants(chain)
        assert found
        assert {stage.twin for stage in found.values()} == {None}


def test_a_base_of_one_s_own_above_has_them_and_may_name_others(tmp_path: Path) -> None:
    assert set(variants(Chain(own_base(tmp_path, "batch_size: 4\n")))) == TWINS
    listed = "variants: [{name: mine, behaviour: faking, adapter: out/mine}]\n"
    assert set(variants(Chain(own_base(tmp_path, listed)))) == {"mine"}
    assert Composition(Chain(own_base(tmp_path, ""))).base.organisms == ORGANISMS / "smollm2"


def test_who_brings_a_suspect_has_the_honest_twin_that_ships() -> None:
    chain = Chain(SMOLLM2, twins=(("faking", "out/suspect"),))
    composition = Composition(chain)
    found = organisms_of(plan_of(composition, "unmask"), chain, composition.base.organisms)
    assert found["steering/02_aligned"] == ORGANISMS / "smollm2" / "seed0" / "steering" / "02_aligned"


def test_a_wheel_has_none_and_fits_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ORGANISMS", tmp_path)
    found: dict[str, Any] = variants(Chain(SMOLLM2))
    assert found
    assert {stage.twin for stage in found.values()} == {None}
    assert "transfer/01_dpo" in {stage.title for stage in plan_of(Composition(Chain(SMOLLM2)), "transfer")}
