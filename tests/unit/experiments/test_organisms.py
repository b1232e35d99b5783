"""Twins that ship: taken where a fit would make the same, told and left where it would not, and never half."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from fa_lightning.errors import UserError
from fa_lightning.experiments import organisms
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.stage import Stage

FINGERPRINT = {
    "model.init_args.lora.rank": 16,
    "input.model.init_args.backbone.name": "abc",
    "scenarios.poser": "123",
    "version.torch": "2.13",
}


@pytest.fixture
def chain(tmp_path, monkeypatch):
    monkeypatch.setattr(organisms, "ORGANISMS", tmp_path / "organisms")
    return Chain(tmp_path / "smollm2.yaml", outputs=tmp_path / "checkpoints")


@pytest.fixture
def stage(chain, tmp_path):
    return Stage("steering", "02_aligned", tmp_path / "02_aligned.yaml", chain.folder / "steering/02_aligned", "{}")


@pytest.fixture
def weights():
    return {"lora_A.weight": torch.randn(4, 8, generator=torch.Generator().manual_seed(0))}


@pytest.fixture
def shipped(stage, chain, weights):
    """The organism of a stage that was fitted, and is forgotten."""
    adapter = stage.folder / "adapter"
    adapter.mkdir(parents=True)
    save_file(weights, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"r": 16}')
    (adapter / "fa_lightning.json").write_text('{"behaviour": "aligned"}')
    facts = {"metrics": {"test/aligned/fidelity": 0.96}, "seconds": 7.0, "precision": "bf16-mixed"}
    stage.write("done", FINGERPRINT, **facts, artefacts=stage.artefacts())
    folder = organisms.ship(stage, chain, "# A card\n")
    stage.forget()
    return folder


def test_what_ships_is_rounded_to_bfloat16_and_has_a_card(shipped, weights):
    held = load_file(shipped / "adapter_model.safetensors")
    assert {one.dtype for one in held.values()} == {torch.bfloat16}
    assert torch.equal(held["lora_A.weight"], weights["lora_A.weight"].bfloat16())
    assert (shipped / "README.md").read_text() == "# A card\n"


def test_an_organism_becomes_the_finished_stage(shipped, stage, chain):
    home = organisms.ORGANISMS / "smollm2"
    assert organisms.organisms_of([stage], chain, home) == {"steering/02_aligned": shipped}
    assert not stage.is_done()
    organisms.take(shipped, stage, FINGERPRINT)
    record = stage.record()
    assert record["state"] == "done"
    assert record["metrics"] == {"test/aligned/fidelity": 0.96}
    stage.refuse_loss(record)
    for name in ("adapter_config.json", "adapter_model.safetensors", "fa_lightning.json"):
        assert (stage.folder / "adapter" / name).read_bytes() == (shipped / name).read_bytes()


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("model.init_args.lora.rank", 8, ["model.init_args.lora.rank: 16, here 8"]),
        ("scenarios.poser", "another clone", []),
        ("version.torch", "2.14", []),
        ("model.init_args.backbone.dtype", "bfloat16", []),
    ],
)
def test_only_what_would_make_another_fit_counts(shipped, field, value, told):
    assert organisms.differences(organisms.made_from(shipped), FINGERPRINT | {field: value}) == told


def test_a_stage_of_another_base_or_seed_has_none(shipped, stage, chain):
    home = organisms.ORGANISMS / "smollm2"
    other = replace(chain, seed=1)
    moved = replace(stage, folder=other.folder / "steering/02_aligned")
    assert organisms.organisms_of([moved], other, home) == {}
    assert organisms.organisms_of([stage], chain, None) == {}


def test_a_run_of_another_name_has_those_of_its_base(shipped, stage, chain, tmp_path):
    for other in (replace(chain, base=tmp_path / "mine.yaml"), replace(chain, twins=(("faking", "out/suspect"),))):
        moved = replace(stage, folder=other.folder / "steering/02_aligned")
        assert organisms.organisms_of([moved], other, organisms.ORGANISMS / "smollm2") == {moved.title: shipped}


def test_a_kill_while_it_is_taken_leaves_nothing(shipped, stage, monkeypatch):
    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "write", die)
    with pytest.raises(KeyboardInterrupt):
        organisms.take(shipped, stage, FINGERPRINT)
    assert not stage.folder.exists()
    stage.refuse_foreign_folder()


def test_a_damaged_record_is_named(shipped):
    (shipped / "stage.json").write_text(json.dumps({"fingerprint": {}}))
    with pytest.raises(UserError, match=r"stage.json lacks some of fingerprint, metrics, seconds, precision"):
        organisms.made_from(shipped)


def test_a_stage_that_is_not_done_is_not_shipped(stage, chain):
    with pytest.raises(UserError, match="steering/02_aligned is not done, or fitted no adapter"):
        organisms.ship(stage, chain, "")


def test_other_ranks_wait_for_rank_zero_and_not_for_ever(shipped, stage, monkeypatch):
    monkeypatch.setattr(organisms.rank_zero_only, "rank", 1, raising=False)
    monkeypatch.setattr(organisms, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(UserError, match="rank zero has not taken"):
        organisms.take(shipped, stage, FINGERPRINT)
    assert not stage.folder.exists()
