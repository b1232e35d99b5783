"""A stage's folder: what it was made from, whether it is whole, and what is left alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fa_lightning.errors import UserError
from fa_lightning.experiments.fingerprint import digest_of, refuse_change
from fa_lightning.experiments.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage("toy", "02_aligned", tmp_path / "02_aligned.yaml", tmp_path / "checkpoints" / "toy" / "02_aligned", "")


def test_a_record_is_read_back_as_it_was_written(stage: Stage) -> None:
    assert stage.record() is None
    stage.write("done", {"seed": 3, "weight": float("inf")}, seconds=1.5, metrics={"loss": float("nan")})
    expected = {
        "format": 2,
        "state": "done",
        "digest": digest_of({"seed": 3, "weight": float("inf")}),
        "fingerprint": {"seed": 3, "weight": "inf"},
        "metrics": {"loss": "nan"},
        "seconds": 1.5,
    }
    assert stage.record() == expected

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert json.loads((stage.folder / "stage.json").read_text(), parse_constant=refuse) == expected
    refuse_change(stage.name, expected["fingerprint"], {"seed": 3, "weight": float("inf")})
    assert [path.name for path in stage.folder.iterdir()] == ["stage.json"]


def test_a_folder_of_other_files_is_left_alone(stage: Stage) -> None:
    stage.folder.mkdir(parents=True)
    thesis = stage.folder / "thesis.tex"
    thesis.write_text("mine")
    for attempt in (stage.record, stage.forget):
        with pytest.raises(
            ValueError, match=r"02_aligned holds files but no stage\.json, so it is not a stage's folder"
        ):
            attempt()
    assert thesis.read_text() == "mine"


def test_a_record_that_another_rank_is_writing_makes_no_foreign_folder(stage: Stage) -> None:
    stage.folder.mkdir(parents=True)
    (stage.folder / ".stage.json.tmp").touch()
    assert stage.record() is None


def test_a_damaged_record_is_told_and_can_be_refitted(stage: Stage) -> None:
    stage.write("done", {"seed": 0})
    path = stage.folder / "stage.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(ValueError, match=r"stage\.json is not whole JSON .*--refit toy/02_aligned"):
        stage.record()
    stage.forget()
    assert not stage.folder.exists()
    assert stage.record() is None


def test_forgetting_deletes_the_stage_and_nothing_beside_it(stage: Stage) -> None:
    stage.forget()
    stage.write("running", {})
    (stage.folder / "store").mkdir()
    (stage.folder / "store" / "shard").touch()
    other = stage.folder.with_name("03_faking")
    other.mkdir()
    stage.forget()
    assert [path.name for path in stage.folder.parent.iterdir()] == [other.name]


def test_a_record_of_an_earlier_version_is_not_trusted(stage: Stage) -> None:
    stage.write("done", {"seed": 0})
    path = stage.folder / "stage.json"
    path.write_text(json.dumps({key: one for key, one in json.loads(path.read_text()).items() if key != "format"}))
    with pytest.raises(UserError, match=r"was written by an earlier version.*--refit toy/02_aligned"):
        stage.record()


@pytest.mark.parametrize(
    ("need", "needed"),
    [
        ("toy/02_aligned", True),
        ("toy/02", False),
        ("other/02_aligned", False),
        ("toy/02_aligned/saint-0", False),
    ],
)
def test_a_stage_needs_what_it_says(stage: Stage, need: str, needed: bool) -> None:
    other = replace(stage, name="03_more", needs=(need,))
    assert other.needs_one(stage) is needed
    assert not stage.needs_one(other)
    variant = replace(stage, name="02_aligned/saint-0")
    assert other.needs_one(variant) is (need in ("toy/02_aligned", "toy/02_aligned/saint-0"))


def test_a_linked_stage_folder_is_emptied_and_stays_a_link(stage: Stage, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    stage.folder.parent.mkdir(parents=True)
    stage.folder.symlink_to(disk)
    for _ in range(2):
        stage.write("done", {"seed": 0})
        assert (disk / "stage.json").is_file()
        stage.forget()
        assert stage.record() is None
        assert stage.folder.is_symlink()
        assert list(disk.iterdir()) == []
    # A link that leads nowhere yet, as to a folder that was cleared away.
    disk.rmdir()
    stage.write("running", {})
    assert (disk / "stage.json").is_file()


def test_what_is_done_must_still_be_there_but_its_store_and_checkpoints_need_not(stage: Stage) -> None:
    stage.write("running", {})
    for name in ("adapter", "store"):
        (stage.folder / name).mkdir()
        (stage.folder / name / "adapter_config.json").write_text("{}")
        (stage.folder / name / "adapter_model.safetensors").write_bytes(b"weights")
    (stage.folder / "last.ckpt").touch()
    stage.write("done", {}, artefacts=stage.artefacts())
    record = stage.record()
    assert record is not None
    assert list(record["artefacts"]) == ["adapter"]
    shutil.rmtree(stage.folder / "store")
    (stage.folder / "last.ckpt").unlink()
    stage.refuse_loss(record)
    weights = stage.folder / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"other weights")
    with pytest.raises(UserError, match=r"adapter is not what the stage made.*--refit toy/02_aligned"):
        stage.refuse_loss(record)
    weights.write_bytes(b"weights")
    stage.refuse_loss(record)
    shutil.rmtree(stage.folder / "adapter")
    with pytest.raises(ValueError, match=r"02_aligned is done, but .*adapter is gone.*--refit toy/02_aligned"):
        stage.refuse_loss(record)


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty"])
def test_a_harmed_checkpoint_is_found(stage: Stage, harm: str) -> None:
    stage.write("running", {})
    assert stage.damaged_checkpoint() is None, "there is none to resume from"
    keeper = {"best_model_path": "checkpoints/moved/02_aligned/best.ckpt"}
    content = {"state_dict": {"weight": torch.arange(4096.0)}, "callbacks": {"keeper": keeper, "other": {}}}
    torch.save(content, stage.checkpoint)
    torch.save(content, stage.folder / "best.ckpt")
    assert stage.damaged_checkpoint() is None
    # A twin that nothing is resumed from.
    (stage.folder / "last-v1.ckpt").write_bytes(b"half")
    assert stage.damaged_checkpoint() is None
    best = (stage.folder / "best.ckpt").rename(stage.folder / "elsewhere.ckpt")
    assert stage.damaged_checkpoint() == stage.folder / "best.ckpt"
    best.rename(stage.folder / "best.ckpt")
    content = bytearray(stage.checkpoint.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    stage.checkpoint.write_bytes({"cut": content[:middle], "flipped": content, "empty": b""}[harm])
    assert stage.damaged_checkpoint() == stage.checkpoint
    stage.drop_checkpoints()
    assert [path.name for path in stage.folder.iterdir()] == ["stage.json"]
