"""The sharded path (FSDP2, two processes, gloo) gives what one process gives, and what either began the other ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy import CONFIGS, change_base, command, record_of, run, write_stage
from twins import AFFINE, EXPORT, of_both, of_stage, write_twins

RANKS = 2
BATCH = 4
SECONDS = 420
EPOCHS = 20
TOLERANCE = 1e-4
"""Absolute, on weights of order 0.1."""
SHARDED = ("--trainer", "fsdp_cpu")
FIT = ("fit", "--base", "embedded.yaml")
ALIGNED = (*FIT, "--only", "02_aligned")
ROOT = Path("checkpoints/embedded/seed0/steering")
TWINS = ("02_aligned", "03_faking")

pytestmark = pytest.mark.slow


def sizes(per_device: int) -> dict[str, Any]:
    """Every global batch is full, so that no rank repeats an item in training; the rest comes out uneven."""
    return {
        "batch_size": per_device,
        "twins.aligned.scenarios": 16,
        "twins.faking.scenarios": 16,
        **of_both("data.init_args.neutral_share", 0.0),
        "validation_items": 11,
        "capture.batch_size": per_device,
        "studies.steering.regressors": AFFINE,
    }


def finish(place: Path, *words: str) -> str:
    process = command(place, *words)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    return said


def alone_in(place: Path, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*words) == 0


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the experiment has run in two processes, the twins sharded."""
    place = tmp_path_factory.mktemp("sharded")
    write_twins(place, sizes(BATCH))
    (place / "said.txt").write_text(finish(place, *FIT, *SHARDED))
    return place


@pytest.fixture(scope="module")
def alone(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in one process, with batches twice as large, on the same backbone."""
    place = tmp_path_factory.mktemp("alone")
    shutil.copytree(sharded / "backbone", place / "backbone")
    write_twins(place, sizes(RANKS * BATCH))
    alone_in(place, *FIT)
    return place


def artefact(place: Path, name: str) -> Path:
    return place / ROOT / name


def adapter(place: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(artefact(place, f"{stage}/adapter/adapter_model.safetensors"))


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance)
    moved = max(tensor.abs().max() for name, tensor in expected.items() if "lora_B" in name)
    assert moved > 10 * tolerance, "the adapters have learned something, or this would prove nothing"


@pytest.mark.parametrize("stage", TWINS)
def test_the_twins_are_the_same(sharded: Path, alone: Path, stage: str) -> None:
    assert_same(adapter(sharded, stage), adapter(alone, stage), TOLERANCE)
    one, two = (
        json.loads(artefact(place, f"{stage}/adapter/fa_lightning.json").read_text()) for place in (alone, sharded)
    )
    assert one == two, "the fingerprint is that of the whole backbone"


@pytest.mark.parametrize("stage", TWINS)
def test_the_twins_are_judged_the_same_and_no_item_counts_twice(sharded: Path, alone: Path, stage: str) -> None:
    one, two = (record_of(place, f"steering/{stage}")["metrics"] for place in (alone, sharded))
    tested = {name: value for name, value in one.items() if name.startswith(("test/", "unseen_wordings/"))}
    assert len(tested) == 6
    assert {name: two[name] for name in tested} == tested
    assert any(0 < value < 1 for value in tested.values())


def test_a_checkpoint_holds_the_adapter_and_its_optimizer_whole(sharded: Path, alone: Path) -> None:
    one, two = (torch.load(artefact(place, "03_faking/last.ckpt"), weights_only=True) for place in (alone, sharded))
    assert_same(two["state_dict"], one["state_dict"], TOLERANCE)
    assert two["global_step"] == one["global_step"]
    assert two["loops"]["fit_loop"]["epoch_progress"] == one["loops"]["fit_loop"]["epoch_progress"]
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (one, two)]
    assert moments[0].keys() == moments[1].keys()
    for number, expected in moments[0].items():
        assert moments[1][number].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(moments[1][number][name], value, rtol=1e-3, atol=1e-5)


def test_the_other_stages_work_as_under_ddp(sharded: Path, alone: Path) -> None:
    said = (sharded / "said.txt").read_text()
    assert said.count("3/3 steering/04_steering: started") == 1
    one, two = (json.loads(artefact(place, "results.json").read_text()) for place in (alone, sharded))
    assert two["n"] == one["n"]
    assert sum(two["n"].values()) == 15
    assert two["cells"] == one["cells"]
    assert {0.0, 1.0} != {cell["accuracy"] for pair in two["cells"].values() for cell in pair.values()}
    assert sorted(path.name for path in artefact(sharded, "04_steering/store").iterdir()) == sorted(
        path.name for path in artefact(alone, "04_steering/store").iterdir()
    )


def to_the_end() -> dict[str, Any]:
    """Train for all epochs and hand on the last: the best one may be the first, which has made a single step."""
    return {**sizes(BATCH), **of_both("trainer.callbacks", [EXPORT]), **of_both("checkpoint.monitor", None)}


def one_fit(sharded: Path, place: Path, trainer: str | None, *flags: str) -> tuple[dict[str, torch.Tensor], int]:
    """Fit stage 3 by the plain command; its adapter and the number of optimizer steps."""
    shutil.copytree(sharded / "backbone", place / "backbone")
    write_twins(place, to_the_end())
    laid_over = () if trainer is None else ("--config", str(CONFIGS / f"trainer/{trainer}.yaml"))
    finish(place, "fit", "--config", write_stage(place, "steering/03_faking"), *laid_over, *flags)
    checkpoint = torch.load(artefact(place, "03_faking/last.ckpt"), weights_only=True)
    return adapter(place, "03_faking"), checkpoint["global_step"]


@pytest.fixture(scope="module")
def one_big_batch(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], int]:
    """All 32 prompts in each step of one process."""
    return one_fit(
        sharded, tmp_path_factory.mktemp("big"), None, "--data.batch_size", "32", "--trainer.gradient_clip_val", "0.5"
    )


@pytest.mark.parametrize("trainer", ["ddp_cpu", "fsdp_cpu"])
def test_accumulated_halves_checkpointed_and_clipped_are_one_big_batch(
    sharded: Path, one_big_batch: tuple[dict[str, torch.Tensor], int], tmp_path: Path, trainer: str
) -> None:
    # Two ranks, four batches of four prompts: 32. The first forward pass is one without gradients.
    flags = ("--data.batch_size", "4", "--trainer.accumulate_grad_batches", "4", "--trainer.gradient_clip_val", "0.5")
    more = ("--model.gradient_checkpointing", "true", "--trainer.num_sanity_val_steps", "1")
    found, steps = one_fit(sharded, tmp_path, trainer, *flags, *more)
    expected, expected_steps = one_big_batch
    assert steps == expected_steps == 3
    assert_same(found, expected, TOLERANCE)


@pytest.mark.parametrize("trainer", ["ddp_cpu", "fsdp_cpu"])
def test_bf16_mixed_keeps_the_adapter_in_float32(
    sharded: Path, one_big_batch: tuple[dict[str, torch.Tensor], int], tmp_path: Path, trainer: str
) -> None:
    flags = ("--data.batch_size", "16", "--trainer.gradient_clip_val", "0.5", "--trainer.precision", "bf16-mixed")
    found, steps = one_fit(sharded, tmp_path, trainer, *flags, "--model.backbone.dtype", "bfloat16")
    expected, expected_steps = one_big_batch
    assert steps == expected_steps
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    learned = {name: tensor for name, tensor in found.items() if "lora_B" in name}
    # bfloat16 has 8 bits; Adam's first steps turn the sign of a small gradient into a whole step.
    alike = [torch.sign(tensor) == torch.sign(expected[name]) for name, tensor in learned.items()]
    assert torch.cat([one.flatten() for one in alike]).float().mean() > 0.9


def only_the_aligned_twin(place: Path, batch: int, backbone: Path) -> None:
    """The one twin, long enough to be hit."""
    shutil.copytree(backbone, place / "backbone")
    slow = {"twins.aligned.epochs": EPOCHS, of_stage("02_aligned", "trainer.callbacks"): [EXPORT]}
    write_twins(place, {**sizes(batch), **slow})


def test_what_either_began_the_other_ends(sharded: Path, tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    only_the_aligned_twin(calm, 16, sharded / "backbone")
    alone_in(calm, *ALIGNED)
    expected = adapter(calm, "02_aligned")
    for first, then in (((), SHARDED), (SHARDED, ())):
        place = tmp_path / ("sharded_first" if first else "alone_first")
        only_the_aligned_twin(place, 8 if first else 16, sharded / "backbone")
        process = command(place, *ALIGNED, *first)
        checkpoint = artefact(place, "02_aligned/last.ckpt")
        deadline = time.monotonic() + SECONDS
        while not checkpoint.is_file():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        epoch = torch.load(checkpoint, weights_only=True)["epoch"]
        assert epoch < EPOCHS - 1, "killed before the end"
        # The global batch stays 16: with another one the fit would be another.
        said = resume(place, then, 8 if then else 16)
        assert "resumed" in said
        assert_same(adapter(place, "02_aligned"), expected, 10 * TOLERANCE)


def resume(place: Path, trainer: tuple[str, ...], batch: int) -> str:
    """Run the same command with another batch for each device."""
    change_base(place, "batch_size", batch)
    return finish(place, *ALIGNED, *trainer)


def test_four_bits_are_refused_on_all_ranks(sharded: Path, tmp_path: Path) -> None:
    shutil.copytree(sharded / "backbone", tmp_path / "backbone")
    write_twins(tmp_path, sizes(BATCH))
    stage, trainer = write_stage(tmp_path, "steering/03_faking"), str(CONFIGS / "trainer/fsdp_cpu.yaml")
    process = command(tmp_path, "fit", "--config", stage, "--config", trainer, "--model.backbone.load_in_4bit", "true")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert said.count("error: load_in_4bit is true, but weights in few bits can't be cut over ranks") == RANKS
    assert "Traceback" not in said
    assert not os.path.exists(artefact(tmp_path, "03_faking/adapter"))
