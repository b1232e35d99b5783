"""One of two ranks dies or fails alone: all stop soon and say why, no file is half, and the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import command, record_of, run
from twins import EXPORT, of_both, of_stage, write_twins

from fa_lightning.experiments.stage import Stage

FIT = ("fit", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/steering")
TRAINER = ("--trainer", "ddp_cpu")
EPOCHS = 20
PATIENCE_SECONDS = 300
BOUND_SECONDS = 45
"""From the death of a rank to the end of all; Lightning's time-out is half an hour. An unburdened machine takes 5."""

pytestmark = pytest.mark.slow


LONG_ENOUGH = {
    "capture.shard_examples": 1,
    "capture.scenarios": 32,
    "validation_items": 11,
    "studies.steering.regressors": [{"map": "Affine"}],
    "batch_size": 4,
    "twins.aligned.scenarios": 16,
    "twins.faking.scenarios": 16,
    **of_both("data.init_args.neutral_share", 0.0),
    of_stage("02_aligned", "model.init_args.lora.dropout"): 0.05,
    "twins.aligned.epochs": EPOCHS,
    of_stage("02_aligned", "trainer.callbacks"): [EXPORT],
}
"""To be hit: many epochs of the twin, which draws numbers, and one prompt in a shard."""


def is_over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def other_rank(process: subprocess.Popen[str]) -> int:
    """The process that Lightning has started as rank 1."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [pid for pid in children if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    assert len(ranks) == 1, children
    return int(ranks[0])


def kill_one(process: subprocess.Popen[str], rank: int, when: Callable[[], bool]) -> str:
    """Kill a rank at the moment `when` holds; all must be over in time. Returns what was printed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not when():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the moment to strike never came:\n{process.communicate()[0]}")
        time.sleep(0.005)
    child = other_rank(process)
    os.kill(child if rank == 1 else process.pid, signal.SIGKILL)
    bound = time.monotonic() + BOUND_SECONDS
    while not (is_over(child) and is_over(process.pid)):
        assert time.monotonic() < bound, f"the other rank still runs {BOUND_SECONDS} s after rank {rank} was killed"
        time.sleep(0.05)
    said, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    return said


def finish(place: Path) -> str:
    process = command(place, *FIT, *TRAINER)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    return said


def assert_says_who(said: str, rank: int) -> None:
    """Rank zero says which one has ended; where it is rank zero itself, the other one says that it lost it."""
    if rank == 1:
        # Whichever comes first: the closed connection, or Lightning's own watch over the processes.
        assert "was ended by SIGKILL" in said or "terminated with code -9" in said, said
    else:
        assert "[rank 1] stops: " in said, said
    if "terminated with code -9" not in said:
        assert "run the same command again to resume" in said, said
        assert "Traceback" not in said, said


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which nothing has happened to the experiment."""
    place = tmp_path_factory.mktemp("calm")
    write_twins(place, LONG_ENOUGH)
    finish(place)
    return place


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_while_a_twin_is_fitted_and_while_states_are_captured(calm: Path, tmp_path: Path, rank: int) -> None:
    shutil.copytree(calm / "backbone", tmp_path / "backbone")
    write_twins(tmp_path, LONG_ENOUGH)
    root = tmp_path / ROOT
    twin, store = root / "02_aligned", root / "04_steering" / "store"

    assert_says_who(kill_one(command(tmp_path, *FIT, *TRAINER), rank, (twin / "last.ckpt").is_file), rank)
    assert record_of(tmp_path, "steering/02_aligned")["state"] == "running"
    assert not (twin / "adapter").exists(), "killed while it was being fitted"
    assert Stage("steering", "02_aligned", Path(), twin, "").damaged_checkpoint() is None

    said = kill_one(command(tmp_path, *FIT, *TRAINER), rank, lambda: any(store.glob("shard-*.json")))
    assert_says_who(said, rank)
    assert "steering/02_aligned: resumed" in said
    assert not (store / "manifest.json").exists(), "killed while it was being captured"
    kept = {path.name: path.stat().st_mtime_ns for path in store.glob("shard-*.json")}
    assert kept

    assert finish(tmp_path).count("done, skipped") == 2
    assert {name: (store / name).stat().st_mtime_ns for name in kept} == kept, "finished shards are not made again"
    assert not list(store.glob(".writing*"))
    expected_root = calm / ROOT
    for stage in ("02_aligned", "03_faking"):
        file = f"{stage}/adapter/adapter_model.safetensors"
        found, expected = load_file(root / file), load_file(expected_root / file)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
    assert (store / "manifest.json").read_bytes() == (expected_root / "04_steering/store/manifest.json").read_bytes()
    found, expected = (json.loads((folder / "results.json").read_text()) for folder in (root, expected_root))
    for field in ("n", "cells", "recovery", "chosen"):
        assert found[field] == expected[field]


FAULTY = '''
import os
import torch
from fa_lightning.training.module import AdapterModule


class Faulty(AdapterModule):
    """Fails on one rank alone, at the third step."""

    def terms(self, batch):
        terms = super().terms(batch)
        if self.global_step == 2 and self.global_rank == int(os.environ["FAULTY_RANK"]):
            if os.environ["FAULT"] == "nan":
                return {"loss": terms["loss"] * float("nan")}
            raise KeyError("a fault of this rank alone")
        return terms
'''


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fault", ["nan", "error"])
def test_a_rank_that_fails_alone_stops_all(calm: Path, tmp_path: Path, fault: str, rank: int) -> None:
    shutil.copytree(calm / "backbone", tmp_path / "backbone")
    write_twins(tmp_path, {**LONG_ENOUGH, of_stage("02_aligned", "model.class_path"): "faulty.Faulty"})
    (tmp_path / "faulty.py").write_text(FAULTY)
    start = time.monotonic()
    process = command(tmp_path, *FIT, *TRAINER, FAULT=fault, FAULTY_RANK=str(rank))
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode != 0, said
    assert time.monotonic() - start < PATIENCE_SECONDS / 2
    if fault == "nan":
        assert said.count("error: the loss is nan at step 2") == 1, said
        assert said.count("error: the loss of another rank is not finite at step 2") == 1, said
        assert "Traceback" not in said
    else:
        assert f"[rank {rank}] stops: KeyError: 'a fault of this rank alone'" in said, said
        assert "Traceback" in said, "a fault of ours shows where it is, under ranks as without"
    assert record_of(tmp_path, "steering/02_aligned")["state"] == "running"
    assert not (tmp_path / ROOT / "02_aligned/adapter").exists()


def test_one_process_is_left_as_it_was(calm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(calm / "backbone", tmp_path / "backbone")
    write_twins(tmp_path, {**LONG_ENOUGH, of_stage("02_aligned", "model.init_args.optimizer.learning_rate"): 1e30})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert run(*FIT) == 1
    said = capsys.readouterr().err
    assert "error: the loss is nan" in said
    assert "[rank" not in said
