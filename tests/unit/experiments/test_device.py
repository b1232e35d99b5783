"""What a device can't do: which errors are about memory, which settings are named, and precisions that do not go."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.common.activity import activity_of, doing
from fa_lightning.experiments.device import DeviceReport, explanation, ran_out, refuse_precision
from fa_lightning.experiments.resume import ResumePoint

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("the disk is full, out of memory"), False),
    ],
)
def test_errors_about_memory_are_told_from_others(error: Exception, expected: bool) -> None:
    assert ran_out(error) is expected


def gpu(monkeypatch: pytest.MonkeyPatch, native: bool, emulated: bool) -> None:
    answers = {True: native or emulated, False: native}
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: answers[including_emulation], raising=True
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")


@pytest.mark.parametrize(
    ("precision", "dtype", "way"),
    [
        ("bf16-mixed", "float16", "Set dtype to bfloat16, or the precision to 16-mixed"),
        ("16-mixed", "bfloat16", "Set dtype to float16, or the precision to bf16-mixed"),
        ("16-true", "bfloat16", "Set dtype to float16, or the precision to bf16-mixed"),
    ],
)
def test_two_16_bit_formats_are_not_mixed(precision: str, dtype: str, way: str) -> None:
    with pytest.raises(ValueError, match=rf"dtype is '{dtype}', but trainer.precision is '{precision}': .* {way}"):
        refuse_precision(precision, torch.device("cpu"), dtype)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("bf16-mixed", "bfloat16"),
        ("bf16-mixed", "float32"),
        ("16-mixed", "float16"),
        ("16-mixed", "float32"),
        ("32-true", "bfloat16"),
        ("32-true", "float16"),
        ("bf16-mixed", None),
    ],
)
def test_other_pairs_go(precision: str, dtype: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, native=True, emulated=True)
    for device in (torch.device("cpu"), CUDA):
        refuse_precision(precision, device, dtype)


def test_a_gpu_without_bfloat16_is_refused_and_one_that_emulates_it_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, native=False, emulated=False)
    with pytest.raises(
        ValueError, match=r"'bf16-mixed', but Tesla T4 has no bfloat16: set trainer.precision to 16-mixed"
    ):
        refuse_precision("bf16-mixed", CUDA, "bfloat16")
    refuse_precision("16-mixed", CUDA, "float16")
    refuse_precision("bf16-mixed", torch.device("cpu"), "bfloat16")
    gpu(monkeypatch, native=False, emulated=True)
    with pytest.warns(UserWarning, match="Tesla T4 only emulates bfloat16"):
        refuse_precision("bf16-mixed", CUDA, "bfloat16")


def trainer_stub(**given: Any) -> Any:
    plain = {"testing": False, "training": True, "callbacks": [], "checkpoint_callback": None, "datamodule": None}
    return SimpleNamespace(**{**plain, "accumulate_grad_batches": 4, **given})


def test_memory_in_use_is_told_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3 * gib // 2, 16 * gib))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 12 * gib)

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 896.00 MiB. GPU 0 has")
    module = SimpleNamespace(backbone=BackboneArguments("x"), gradient_checkpointing=False)
    data = SimpleNamespace(batch_size=8, max_tokens=1024)
    told = explained(trainer_stub(datamodule=data), error, {"input_ids": torch.zeros(8, 512)}, module)
    assert told == (
        "out of GPU memory in stage SimpleNamespace, while training on a batch of 8 prompts x 512 tokens "
        "(12.0 of 16.0 GiB in use by this process, 1.5 free; 896.00 MiB more were asked for). Lower in this order: "
        "data.init_args.batch_size (is 8) while raising trainer.accumulate_grad_batches as much (is 4), "
        "model.init_args.gradient_checkpointing: true (is false), data.init_args.max_tokens (is 1024), "
        "model.init_args.backbone.dtype: bfloat16 (is float32), "
        "model.init_args.backbone.load_in_4bit: true (is false), "
        "or take a smaller model. Nothing half-made was written"
    )


def explained(trainer: Any, error: BaseException, batch: Any = None, module: Any = None) -> str:
    """What is told of an error in a Trainer's loop over `batch`; before the loop where that is None."""
    report = DeviceReport()
    if batch is not None:
        report.on_fit_start(trainer, module)
        report.on_train_batch_start(trainer, module, batch, 0)
    return explanation(trainer, module or SimpleNamespace(), error, *report.activity(trainer, error))


def test_a_backbone_that_does_not_fit_at_all_is_told_as_such() -> None:
    # On its way to the device, which Lightning does.
    error = torch.OutOfMemoryError("CUDA out of memory.")
    module = SimpleNamespace(backbone=BackboneArguments("x", "bfloat16"))
    told = explained(trainer_stub(), error, module=module)
    assert (
        "while loading the backbone. Lower in this order: model.init_args.backbone.load_in_4bit: true (is false), or"
        in told
    )


@pytest.mark.parametrize(
    ("folder", "stage"),
    [
        ("checkpoints/embedded/seed0/steering/02_aligned", "steering/02_aligned"),
        ("/disk/checkpoints/embedded/seed10/variants/01_variants/saint-0", "variants/01_variants/saint-0"),
        ("checkpoints/.embedded.trial/embedded/seed0/lab/03_lab", "lab/03_lab"),
        ("elsewhere/folder", "folder"),
    ],
)
def test_a_stage_is_named_with_its_study_as_commands_know_it(folder: str, stage: str) -> None:
    trainer = trainer_stub()
    trainer.callbacks = [ResumePoint(Path(folder) / "last.ckpt")]
    message = explained(trainer, MemoryError(), {"input_ids": torch.zeros(8, 112)})
    assert message.startswith(f"out of host memory in stage {stage}, while training on a batch of 8 prompts")
    assert message.endswith(f"add --refit {stage}")


def test_a_block_of_states_is_a_batch_too() -> None:
    states = {"layers.0.residual": None, "decision": torch.zeros(4096)}
    for batch in (states, {"states": states}):
        told = explained(trainer_stub(), MemoryError(), batch)
        assert told.startswith("out of host memory in stage SimpleNamespace, while training on a block of 4096 states.")


def test_a_batch_that_is_over_is_no_longer_at_hand() -> None:
    report, trainer = DeviceReport(), trainer_stub(training=False, testing=True)
    report.on_test_start(trainer, SimpleNamespace())  # type: ignore[arg-type]
    report.on_test_batch_start(trainer, SimpleNamespace(), {"input_ids": torch.zeros(2, 3)}, 0, 0)  # type: ignore[arg-type]
    assert report.activity(trainer, MemoryError()) == ("testing", " on a batch of 2 prompts x 3 tokens")
    report.on_test_batch_end(trainer, SimpleNamespace(), None, None, 0, 0)
    assert report.activity(trainer, MemoryError()) == ("testing", "")


@doing("maps")
def fit_maps(error: BaseException) -> None:
    with doing("steering", {"input_ids": torch.zeros(2, 7)}), doing("capturing", {"input_ids": torch.zeros(4, 5)}):
        raise error


def test_the_innermost_block_says_what_was_being_done() -> None:
    error = MemoryError()
    with pytest.raises(MemoryError), doing("training"):
        fit_maps(error)
    told = explained(trainer_stub(), error, {"input_ids": torch.zeros(8, 512)})
    assert "while capturing activations on a batch of 4 prompts x 5 tokens" in told


def test_a_block_that_is_left_in_peace_says_nothing_about_a_later_error() -> None:
    with doing("capturing"), contextlib.suppress(MemoryError), doing("loading"):
        raise MemoryError
    later = MemoryError()
    with pytest.raises(MemoryError), doing("maps"):
        raise later
    assert activity_of(later) == ("maps", "")
    assert activity_of(MemoryError()) is None


def test_an_error_that_another_library_wraps_keeps_what_was_being_done() -> None:
    def load() -> None:
        try:
            with doing("loading"):
                raise MemoryError
        except MemoryError as error:
            raise RuntimeError("out of memory while reading shards") from error

    with pytest.raises(RuntimeError) as raised, doing("training"):
        load()
    assert activity_of(raised.value) == ("loading", "")
