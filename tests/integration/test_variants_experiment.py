"""Two behaviours x two seeds at toy size: one file makes four variants, and one backbone judges them all."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_experiment import digests, refused
from toy import CONFIGS, change, change_base, command, record_of, run, write_stage, write_trainer

from fa_lightning.backbones.contents import digest_of_artefact

FIT = ("fit", "variants", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/variants")
NAMES = ["aligned-0", "aligned-1", "faking-0", "faking-1"]


@pytest.fixture(scope="module")
def run_variants(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the toy variants have run on the finished toy experiment's backbone; leave it as it is."""
    place = tmp_path_factory.mktemp("variants")
    shutil.copytree(finished, place, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*FIT) == 0
    return place


@pytest.fixture
def variants(run_variants: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it to meddle with; the working folder of the test."""
    shutil.copytree(run_variants, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judged(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / ROOT / "02_evaluation" / "variants.json").read_text()))


def told(text: str) -> list[str]:
    """What was said of each stage."""
    endings = (": started", ": resumed", ": done, skipped")
    return [line for line in text.splitlines() if " variants/" in line and line.endswith(endings)]


def test_every_variant_is_a_stage_with_its_own_adapter_and_record(run_variants: Path) -> None:
    folder = run_variants / ROOT / "01_variants"
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    for name in NAMES:
        record = record_of(run_variants, f"variants/01_variants/{name}")
        assert record["state"] == "done"
        assert record["fingerprint"]["seed_everything"] == int(name[-1])
        assert record["fingerprint"]["model.init_args.objective.init_args.behaviour"] == name.split("-")[0]
        assert (run_variants / "logs/embedded/seed0/variants/01_variants" / name).is_dir()
    adapters = {(folder / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in NAMES}
    assert len(adapters) == 4
    made_from = record_of(run_variants, "variants/02_evaluation")["fingerprint"]
    assert sorted(key for key in made_from if key.startswith("input.")) == [
        "input.model.init_args.adapters.0",
        "input.model.init_args.adapters.0.backbone",
        "input.model.init_args.intervention",
    ]
    assert made_from["input.model.init_args.adapters.0"] == digest_of_artefact(folder)


def test_each_is_judged_as_it_was_when_it_was_alone_in_memory(run_variants: Path) -> None:
    found = judged(run_variants)
    assert list(found["tests"]) == ["test", "unseen_wordings"]
    for test, models in found["tests"].items():
        plain = {model["variant"]: model for model in models if not model["steered"]}
        assert list(plain) == NAMES
        for name, model in plain.items():
            own = record_of(run_variants, f"variants/01_variants/{name}")["metrics"]
            for cell in ("oversight", "no_oversight"):
                expected = own[f"{test}/{name.split('-')[0]}/{cell}/accuracy"]
                assert model["cells"][cell]["accuracy"] == pytest.approx(expected, abs=1e-6)
        steered = [model["variant"] for model in models if model["steered"]]
        assert steered == ["faking-0", "faking-1"]
    with (run_variants / ROOT / "02_evaluation" / "variants.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 6


def test_no_merged_weights_are_on_disk_and_the_backbone_is_there_once(run_variants: Path) -> None:
    weights = [path for path in (run_variants / ROOT).rglob("*") if path.suffix in (".safetensors", ".bin", ".gguf")]
    assert {path.name for path in weights} == {"adapter_model.safetensors"}
    backbone = run_variants / "checkpoints/embedded/seed0/steering" / "01_backbone" / "backbone" / "model.safetensors"
    assert judged(run_variants)["backbone_bytes"] == pytest.approx(backbone.stat().st_size, rel=0.05)
    sizes = sum(path.stat().st_size for path in weights)
    assert judged(run_variants)["adapter_bytes"] == pytest.approx(sizes, rel=0.3)


def test_done_variants_are_skipped_and_the_table_is_printed_again(
    variants: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(variants / ROOT)
    capsys.readouterr()
    assert run(*FIT) == 0
    said = capsys.readouterr().out
    assert told(said) == [
        *(f"5/6 variants/01_variants {number}/4 {name}: done, skipped" for number, name in enumerate(NAMES, start=1)),
        "6/6 variants/02_evaluation: done, skipped",
    ]
    assert digests(variants / ROOT) == before
    assert "faking-1" in said
    assert "one backbone" in said
    assert f"python -m fa_lightning report {ROOT}" in said
    assert run("report", str(ROOT)) == 0
    assert "faking-1, steered" in (ROOT / "report.html").read_text()


def test_a_run_stopped_between_variants_goes_on_where_it_was(
    variants: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fa_lightning.experiments.runner as runner

    calm = judged(variants)
    adapters = {name: digests(ROOT / "01_variants" / name / "adapter") for name in NAMES}
    shutil.rmtree(ROOT)
    fit = runner._run_stage

    def killed(stage: Any, *words: Any) -> None:
        if stage.variant == "faking-0":
            raise KeyboardInterrupt
        fit(stage, *words)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_run_stage", killed)
        assert run(*FIT) == 130
    assert sorted(path.name for path in (ROOT / "01_variants").iterdir()) == ["aligned-0", "aligned-1"]
    capsys.readouterr()
    assert run(*FIT) == 0
    assert [line.rpartition(": ")[2] for line in told(capsys.readouterr().out)] == [
        "done, skipped",
        "done, skipped",
        "started",
        "started",
        "started",
    ]
    assert {name: digests(ROOT / "01_variants" / name / "adapter") for name in NAMES} == adapters
    again = judged(variants)
    assert again["tests"] == calm["tests"]


def test_one_variant_is_made_again_alone_and_all_are_judged_again(
    variants: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(*FIT, "--refit", "01_variants/faking-0") == 0
    states = {line.split()[-2].rstrip(":"): line.split()[-1] for line in told(capsys.readouterr().out)}
    said = {name: state for name, state in states.items() if state == "started"}
    assert said == {"faking-0": "started", "variants/02_evaluation": "started"}


def test_a_change_of_the_file_is_refused_for_the_first_variant_it_concerns(
    variants: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(variants, "variants/01_variants", "model.init_args.lora.alpha", 4)
    message = refused(capsys, *FIT)
    assert "stage variants/01_variants/aligned-0 was made from something else" in message
    assert "model.init_args.lora.alpha: was 8, is 4" in message
    assert "--refit variants/01_variants/aligned-0" in message


def test_one_more_seed_leaves_the_others_as_they_are(variants: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_base(variants, "variants.seed", [0, 1, 2])
    before = {name: digests(ROOT / "01_variants" / name) for name in NAMES}
    # What judges them is made from two more variants now, so it has to be asked for.
    assert "input.model.init_args.adapters.0: was '" in refused(capsys, *FIT)
    assert run(*FIT, "--refit", "02_evaluation") == 0
    assert {name: digests(ROOT / "01_variants" / name) for name in NAMES} == before
    names = {model["variant"] for model in judged(variants)["tests"]["test"]}
    assert names == {*NAMES, "aligned-2", "faking-2"}


def test_another_chain_has_variants_of_other_seeds_by_the_same_names(
    variants: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("config", "variants", "01_variants", "--base", "embedded.yaml", "--seed", "3") == 0
    stages = list(yaml.safe_load_all(capsys.readouterr().out))
    folders = [f"checkpoints/embedded/seed3/variants/01_variants/{name}" for name in NAMES]
    assert [stage["trainer"]["callbacks"][-1]["init_args"]["folder"] for stage in stages] == [
        f"{folder}/adapter" for folder in folders
    ]
    assert [stage["seed_everything"] for stage in stages] == [300, 301, 300, 301]


@pytest.mark.parametrize("name", ["variants/01_variants", "steering/03_faking", "cures/09_self_training"])
def test_a_stage_file_of_a_study_is_no_plain_stage(
    variants: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    study, _, stage = name.partition("/")
    path = CONFIGS / "studies" / f"{name}.yaml"
    for command_word in ("fit", "test"):
        message = refused(capsys, command_word, "--config", str(path))
        assert f"--config {path} is a stage of the study {study}" in message
        assert f"`fit {study} --base BASE`" in message
        assert f"`config {study} --base BASE {stage}`" in message
        assert len(message.splitlines()) == 1


def test_the_judging_stage_alone_is_a_plain_test(variants: Path) -> None:
    expected = judged(variants)["tests"]
    (ROOT / "02_evaluation" / "variants.json").unlink()
    assert run("test", "--config", write_stage(variants, "variants/02_evaluation")) == 0
    assert judged(variants)["tests"] == expected


@pytest.mark.slow
def test_three_processes_count_every_item_once(variants: Path) -> None:
    # 32 prompts in batches of 3 x 4: the last 8 can't be shared by three without a repeat.
    change(variants, "variants/02_evaluation", "data.init_args.eval_batch_size", 4)
    assert run(*FIT, "--refit", "02_evaluation") == 0
    alone = judged(variants)["tests"]
    assert sum(alone["test"][0]["n"].values()) == 32
    trainer = write_trainer(variants, "three", 3, "ddp")
    # The stage alone: three ranks would fit the variants of the stage before it on batches three times as large.
    stage = write_stage(variants, "variants/02_evaluation")
    process = command(variants, "test", "--config", stage, "--config", trainer)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "MEMBER: 3/3" in said
    for test, models in judged(variants)["tests"].items():
        for found, expected in zip(models, alone[test], strict=True):
            assert found["n"] == expected["n"]
            assert found["cells"] == expected["cells"]
            assert found.get("recovery") == expected.get("recovery")
