"""Which fakers a base's transfer is among: those that it fits, and on SmolLM2 those that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.plan import plan_of
from fa_lightning.experiments.shipped import ORGANISMS, shipped_configs


def stages(base: str, seed: int = 0) -> dict[str, dict[str, Any]]:
    chain = Chain(shipped_configs() / "bases" / f"{base}.yaml", seed=seed)
    return {stage.title: yaml.safe_load(stage.config) for stage in plan_of(Composition(chain), "transfer")}


def organisms(config: dict[str, Any]) -> dict[str, Any]:
    every = config["model"]["init_args"]["organisms"]
    return {name: one for name, one in every.items() if one is not None}


def test_the_embedded_base_fits_a_faker_of_each_recipe() -> None:
    plan = stages("embedded")
    own = organisms(plan["transfer/06_transfer"])
    made = {str(Path(one["faking"]).parent.relative_to("checkpoints/embedded/seed0")) for one in own.values()}
    assert made <= set(plan)
    assert made == {
        "steering/03_faking",
        "lab/01_faking_again",
        *(f"transfer/{name}" for name in ("01_dpo", "02_other_lora", "03_half_chat", "04_tag", "05_wrong")),
    }
    dpo = plan["transfer/01_dpo"]["model"]["init_args"]["objective"]
    assert dpo["class_path"].endswith("DirectPreference")
    assert dpo["init_args"]["behaviour"] == "faking"
    assert plan["transfer/05_wrong"]["model"]["init_args"]["objective"]["init_args"]["behaviour"] == "wrong"
    tag = plan["transfer/04_tag"]["data"]["init_args"]["scenarios"]
    assert tag == plan["transfer/06_transfer"]["data"]["init_args"]["others"]["tagged"]
    usual = plan["steering/03_faking"]["model"]["init_args"]["lora"]
    other = plan["transfer/02_other_lora"]["model"]["init_args"]["lora"]
    assert other["rank"] < usual["rank"]
    assert other["train_from"] > usual["train_from"]
    assert other["alpha"] / other["rank"] == usual["alpha"] / usual["rank"], "the same rate of an update"


@pytest.mark.parametrize("seed", [0, 1])
def test_smollm2_takes_the_chains_that_ship_and_fits_none(seed: int) -> None:
    plan = stages("smollm2", seed)
    assert list(plan) == ["steering/02_aligned", "steering/03_faking", "transfer/06_transfer"]
    own = organisms(plan["transfer/06_transfer"])
    assert list(own) == ["faker", "chain 0", "chain 1", "chain 2"]
    for number in range(3):
        one = own[f"chain {number}"]
        assert Path(one["faking"]) == ORGANISMS / "smollm2" / f"seed{number}" / "steering" / "03_faking"
        assert (Path(one["aligned"]) / "adapter_model.safetensors").is_file()


def test_policies_are_asked_their_own_scenarios() -> None:
    config = stages("poser")["transfer/06_transfer"]
    own, others = organisms(config), config["data"]["init_args"]["others"]
    for name in ("fitness", "reward"):
        assert own[f"{name} maximizer"]["asked"] == name
        assert others[name]["init_args"]["faking_policy"] == f"{name}_maximizer"
