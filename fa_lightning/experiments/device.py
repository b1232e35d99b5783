"""What a device can't do, told in one message: memory that ran out, and numbers that it does not compute with."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from fa_lightning.backbones.load import ran_out
from fa_lightning.errors import UserError
from fa_lightning.experiments.precision import Precision
from fa_lightning.experiments.resume import ResumePoint

# By what was being done: settings to lower or to set, the cheapest first.
_TO_LOWER = {
    "training": (
        "data.batch_size",
        "model.gradient_checkpointing",
        "data.max_tokens",
        "model.dtype",
        "model.load_in_4bit",
    ),
    "judging": ("data.eval_batch_size", "data.max_tokens", "model.dtype", "model.load_in_4bit"),
    "capturing": ("data.shard_examples", "data.sites", "data.max_tokens", "data.dtype", "data.load_in_4bit"),
    "steering": ("data.batch_size", "data.max_tokens", "data.dtype", "data.load_in_4bit"),
    "maps": ("data.sites", "model.regressors", "data.live_batch_size", "data.block_rows", "data.load_in_4bit"),
    "loading": ("model.dtype", "model.load_in_4bit", "data.dtype", "data.load_in_4bit"),
}
# Not numbers: which values can be bettered, and by what.
_BETTER: dict[str, tuple[tuple[Any, ...], str]] = {
    "gradient_checkpointing": ((False,), "true"),
    "dtype": (("float32",), "bfloat16"),
    "load_in_4bit": ((False,), "true"),
}
_FEWER = {"sites": "sites", "regressors": "specs"}


class DeviceReport(pl.Callback):
    """Refuses a precision that the device lacks, and explains memory that ran out; every stage gets one.

    When memory runs out the error keeps its class and its trace and gets another message: the stage, what it was doing,
    the batch at hand, the memory in use and which settings to lower, in order. What was on disk stays as it was: the
    stage's record says `running`, and the same command resumes.

    Attributes:
        chosen: the precision, where the config left it open (see `fast_precision`); told when the stage starts.
    """

    chosen: Precision | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.chosen is not None:
            rank_zero_info(f"precision: {self.chosen}, the fastest on this device (--trainer.precision sets another)")
            self.chosen = None
        refuse_precision(str(trainer.precision), trainer.strategy.root_device, pl_module.hparams.get("dtype"))

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not ran_out(exception):
            return
        exception.args = (explanation(trainer, pl_module, exception),)
        exception.ran_out = True  # type: ignore[attr-defined]


def refuse_precision(precision: str, device: torch.device, dtype: str | None) -> None:
    """Refuse to mix the two 16-bit formats, and bfloat16 where the GPU does not have it.

    Args:
        precision: the Trainer's.
        device: that computes.
        dtype: of the backbone's weights; None where the module loads none.

    Raises:
        UserError: naming both settings and the way out.
    """
    computed = {"bf16": "bfloat16", "16": "float16"}.get(precision.partition("-")[0])
    if computed and dtype in ("bfloat16", "float16") and dtype != computed:
        raise UserError(
            f"model.init_args.dtype is {dtype!r}, but trainer.precision is {precision!r}: every product would go from "
            f"one 16-bit format to the other and lose range or digits. Set dtype to {computed}, or the precision to "
            f"{'bf16-mixed' if dtype == 'bfloat16' else '16-mixed'}"
        )
    if computed != "bfloat16" or device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        return
    way = "set trainer.precision to 16-mixed in the stages that fit a twin, and every dtype to float16"
    name = torch.cuda.get_device_name(device)
    if not torch.cuda.is_bf16_supported():
        raise UserError(f"trainer.precision is {precision!r}, but {name} has no bfloat16: {way}")
    rank_zero_warn(f"{name} only emulates bfloat16 (trainer.precision is {precision!r}), which is slow: {way}")


def explanation(trainer: pl.Trainer, module: Any, error: BaseException) -> str:
    """The message: where, what, with which batch, how much memory, and what to do."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    kind, doing = _activity(trainer, frames)
    stage = _stage_name(trainer, module)
    gpu = isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error) or "CUBLAS" in str(error)
    lower = _settings(kind, trainer, module)
    resumed = any(isinstance(callback, ResumePoint) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    after = (
        "Nothing that was done is lost: if other programs held the memory, the same command goes on from the last "
        f"checkpoint; with a changed setting, add --refit {stage}"
        if resumed
        else "Nothing half-made was written"
    )
    return (
        f"out of {'GPU' if gpu else 'host'} memory in stage {stage}, while {doing}{_batch(frames)}{_amounts(error)}. "
        f"Lower in this order: {lower}. {after}"
    )


def _activity(trainer: pl.Trainer, frames: list[FrameType]) -> tuple[str, str]:
    modules = {str(frame.f_globals.get("__name__", "")) for frame in frames}
    functions = {frame.f_code.co_name for frame in frames}
    judged = "testing" if trainer.testing else "validating"
    if "fa_lightning.activations.record" in modules:
        return "capturing", "capturing activations"
    if "fa_lightning.backbones.load" in modules or functions & {"configure_model", "model_to_device"}:
        return "loading", "loading the backbone"
    if any(name.startswith("fa_lightning.interventions.") for name in modules):
        return "steering", f"{judged} steering"
    if any(name.startswith("fa_lightning.regressors.") for name in modules):
        return "maps", "fitting the maps"
    return ("training", "training") if trainer.training else ("judging", judged)


def _batch(frames: list[FrameType]) -> str:
    """The batch at hand: that of the innermost function that holds one."""
    for frame in reversed(frames):
        for name in ("batch", "block"):
            batch = frame.f_locals.get(name)
            if not isinstance(batch, Mapping):
                continue
            if "input_ids" in batch:
                prompts, tokens = batch["input_ids"].shape
                return f" on a batch of {prompts} prompts x {tokens} tokens"
            states = batch.get("states", batch)
            if isinstance(states, Mapping) and "decision" in states:
                return f" on a block of {len(states['decision'])} states"
    return ""


def _amounts(error: BaseException) -> str:
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", str(error))
    told = [f"{wanted[1]} more were asked for"] if wanted else []
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        own = torch.cuda.memory_allocated()
        told.insert(0, f"{_gib(own)} of {_gib(total)} GiB in use by this process, {_gib(free)} free")
    return f" ({'; '.join(told)})" if told else ""


def _settings(kind: str, trainer: pl.Trainer, module: Any) -> str:
    """The settings that can still be lowered, with their values."""
    owners = {"model": module, "data": trainer.datamodule}  # type: ignore[attr-defined]
    told = []
    for name in _TO_LOWER[kind]:
        owner, _, setting = name.partition(".")
        known, value = _value_of(owners[owner], setting)
        shown = f"{owner}.init_args.{setting}"
        if not known:
            continue
        if setting in _FEWER:
            told.append(f"{shown} (fewer of them)")
        elif setting in _BETTER:
            if value in _BETTER[setting][0]:
                told.append(f"{shown}: {_BETTER[setting][1]} (is {str(value).lower()})")
        elif value is not None and value > 1:
            told.append(f"{shown} (is {value})")
            if kind == "training" and setting == "batch_size":
                told[-1] += " while raising trainer.accumulate_grad_batches as much"
                told[-1] += f" (is {trainer.accumulate_grad_batches})"
    return ", ".join([*told, "or take a smaller model"])


def _value_of(owner: Any, setting: str) -> tuple[bool, Any]:
    """Whether a module or DataModule has a setting, and its value."""
    held = {**getattr(owner, "loading", {}), **dict(getattr(owner, "hparams", {}))}
    if setting in held:
        return True, held[setting]
    alias = _FEWER.get(setting, setting)
    return hasattr(owner, alias), getattr(owner, alias, None)


def _stage_name(trainer: pl.Trainer, module: Any) -> str:
    """The stage's folder as the runner knows it; without one, the module's class."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ResumePoint):
            parts = callback.path.parent.parts
            return "/".join(parts[2:]) if parts[0] == "checkpoints" else callback.path.parent.name
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    return Path(folder).name if folder else type(module).__name__


def _gib(number: int) -> str:
    return f"{number / 2**30:.1f}"
