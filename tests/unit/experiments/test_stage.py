"""A stage's folder: what it was made from, whether it is whole, and what is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fa_lightning.experiments.stage import Stage, digest_of, find_stages, fingerprint_of, flat, refuse_change


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage("02_aligned", tmp_path / "02_aligned.yaml", tmp_path / "checkpoints" / "toy" / "02_aligned")


def test_stages_come_in_the_order_of_their_numbers_and_other_files_are_none(tmp_path: Path) -> None:
    experiment = tmp_path / "toy"
    experiment.mkdir()
    for name in ("10_d.yaml", "03_c.yaml", "1_a.yaml", "02_b.yaml", "notes.yaml", "04_d.txt"):
        (experiment / name).write_text("trainer: {}")
    stages = find_stages(experiment, Path("out"))
    assert [stage.name for stage in stages] == ["1_a", "02_b", "03_c", "10_d"]
    assert stages[0].folder == Path("out/toy/1_a")


@pytest.mark.parametrize("made", [True, False])
def test_an_experiment_without_stages_is_refused_with_an_example(tmp_path: Path, made: bool) -> None:
    experiment = tmp_path / "empty"
    if made:
        experiment.mkdir()
    with pytest.raises(FileNotFoundError, match=r"--experiment .*empty: no numbered stage files.*configs/embedded"):
        find_stages(experiment, tmp_path)


def test_a_record_is_read_back_as_it_was_written(stage: Stage) -> None:
    assert stage.record() is None
    stage.write("done", {"seed": 3, "weight": float("inf")}, seconds=1.5, metrics={"loss": float("nan")})
    expected = {
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
    refuse_change(stage, expected["fingerprint"], {"seed": 3, "weight": float("inf")})
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
    with pytest.raises(ValueError, match=r"stage\.json is not whole JSON .*--refit 02_aligned"):
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
    (stage.folder / "last.ckpt").touch()
    stage.write("done", {}, artefacts=stage.artefacts())
    record = stage.record()
    assert record is not None
    assert record["artefacts"] == ["adapter"]
    (stage.folder / "store").rmdir()
    (stage.folder / "last.ckpt").unlink()
    stage.refuse_loss(record)
    (stage.folder / "adapter").rmdir()
    with pytest.raises(ValueError, match=r"02_aligned is done, but .*adapter is gone.*--refit 02_aligned"):
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


def test_the_fingerprint_holds_what_is_made_and_not_where_it_is_made() -> None:
    config = {
        "config": ["a.yaml"],
        "seed_everything": 0,
        "trainer": {"max_epochs": 3, "devices": 1, "accelerator": "cpu", "logger": {"class_path": "TensorBoardLogger"}},
        "model": {"init_args": {"rank": 4}},
    }
    elsewhere = json.loads(json.dumps(config))
    elsewhere["trainer"] |= {"devices": 8, "strategy": "ddp", "accelerator": "cuda", "logger": None}
    elsewhere["config"] = ["a.yaml", "ddp.yaml"]
    made = fingerprint_of(config, {"seed": "0"}, {"01_backbone": "abc"})
    assert made == fingerprint_of(elsewhere, {"seed": "0"}, {"01_backbone": "abc"})
    assert made["model.init_args.rank"] == 4
    assert made["trainer.max_epochs"] == 3
    assert made["scenarios.seed"] == "0"
    assert made["input.01_backbone"] == "abc"
    assert not any(key.startswith(("config", "trainer.devices")) for key in made)
    for other in (
        fingerprint_of(config, {"seed": "1"}, {"01_backbone": "abc"}),
        fingerprint_of(config, {"seed": "0"}, {"01_backbone": "abd"}),
        fingerprint_of({**config, "seed_everything": 1}, {"seed": "0"}, {"01_backbone": "abc"}),
    ):
        assert digest_of(other) != digest_of(made)


def test_a_change_is_refused_by_name_with_both_values_and_the_way_out(stage: Stage) -> None:
    refuse_change(stage, {"rank": 4, "weight": float("inf")}, {"rank": 4, "weight": float("inf")})
    with pytest.raises(ValueError, match=r"stage 02_aligned") as refused:
        refuse_change(stage, {"rank": 4, "gone": 1}, {"rank": 8, "new": "x", "same": None})
    message = str(refused.value)
    assert "rank: was 4, is 8" in message
    assert "gone: was 1, is None" in message
    assert "new: was None, is 'x'" in message
    assert "same" not in message
    assert "--refit 02_aligned" in message


def test_of_many_changes_the_first_eight_are_shown_and_the_rest_counted(stage: Stage) -> None:
    with pytest.raises(ValueError, match="and 4 more"):
        refuse_change(stage, {}, {f"field{number:02}": number for number in range(12)})


def test_empty_lists_and_mappings_flatten_to_nothing() -> None:
    assert flat({"a": [], "b": {}, "c": [[1], 2]}) == {"c.0.0": 1, "c.1": 2}
