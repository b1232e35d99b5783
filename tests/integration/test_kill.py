"""Killed at the worst moments, the same command finishes, and with the same numbers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy import change, change_base, command, record_of, write_toy
from twins import EXPORT

FIT = ("fit", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/steering")
EPOCHS = 20
PATIENCE_SECONDS = 240

pytestmark = pytest.mark.slow


def write_slower(place: Path) -> None:
    """Long enough to be hit: many epochs of the twin, which draws numbers, and one prompt in a shard."""
    write_toy(place)
    change(place, "steering/02_aligned", "model.init_args.lora.dropout", 0.05)
    change(place, "steering/02_aligned", "trainer.callbacks", [EXPORT])
    for field, value in {"twins.aligned.epochs": EPOCHS, "capture.scenarios": 32, "capture.shard_examples": 1}.items():
        change_base(place, field, value)


def strike(process: subprocess.Popen[str], when: Callable[[], bool], how: signal.Signals) -> tuple[int, str]:
    """Send a signal as soon as `when` holds; returns the exit status and what was printed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not when():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the moment to strike never came:\n{process.communicate()[0]}")
        time.sleep(0.005)
    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def finish(place: Path) -> str:
    process = command(place, *FIT)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    return said


def test_a_killed_experiment_finishes_with_the_numbers_of_one_that_was_not(tmp_path: Path) -> None:
    place = tmp_path / "killed"
    place.mkdir()
    write_slower(place)
    root = place / ROOT

    twin = root / "02_aligned"
    status, _ = strike(command(place, *FIT), (twin / "last.ckpt").is_file, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert record_of(place, "steering/02_aligned")["state"] == "running"
    assert not (twin / "adapter").exists(), "killed while it was being fitted"

    store = root / "04_steering" / "store"
    status, _ = strike(command(place, *FIT), lambda: any(store.glob("shard-*.json")), signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert record_of(place, "steering/02_aligned")["resumed"] is True
    assert torch.load(twin / "last.ckpt", weights_only=True)["epoch"] >= EPOCHS - 1
    assert not (store / "manifest.json").exists(), "killed while it was being captured"
    kept = {path.name: path.stat().st_mtime_ns for path in store.glob("shard-*.json")}
    assert 0 < len(kept) < 40

    said = finish(place)
    assert said.count("done, skipped") == 3
    assert {name: (store / name).stat().st_mtime_ns for name in kept} == kept
    assert not list(store.glob(".writing*"))

    calm = tmp_path / "calm"
    calm.mkdir()
    write_slower(calm)
    shutil.copytree(root / "01_backbone", calm / ROOT / "01_backbone")
    finish(calm)
    reference = calm / ROOT
    for file in (
        "02_aligned/adapter/adapter_model.safetensors",
        "03_faking/adapter/adapter_model.safetensors",
        "04_steering/store/manifest.json",
        "04_steering/intervention/intervention.safetensors",
    ):
        assert (root / file).read_bytes() == (reference / file).read_bytes(), file
    found, expected = (json.loads((folder / "results.json").read_text()) for folder in (root, reference))
    for field in ("cells", "n", "recovery", "side_effects", "baselines", "chosen", "candidates"):
        assert found[field] == expected[field]


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path: Path) -> None:
    write_slower(tmp_path)
    checkpoint = tmp_path / ROOT / "02_aligned" / "last.ckpt"
    status, said = strike(command(tmp_path, *FIT), checkpoint.is_file, signal.SIGINT)
    assert status == 130, said
    assert "interrupted: run the same command again to resume" in said
    assert "Traceback" not in said
    assert "2/4 steering/02_aligned: resumed" in finish(tmp_path)
