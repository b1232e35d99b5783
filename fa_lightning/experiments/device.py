"""What a device can't do, told in one message: memory that ran out, and numbers that it does not compute with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from fa_lightning.backbones.load import ran_out
from fa_lightning.common.activity import Activity, activity_of, batch_text
from fa_lightning.errors import UserError
from fa_lightning.experiments.precision import Precision
from fa_lightning.experiments.resume import ResumePoint

_OF_MODEL, _OF_DATA = ((f"{owner}.backbone.dtype", f"{owner}.backbone.load_in_4bit") for owner in ("model", "data"))
# By what was being done: settings to lower or to set, the cheapest first.
_TO_LOWER: dict[Activity, tuple[str, ...]] = {
    "training": (
        "data.batch_size",
        "model.gradient_checkpointing",
        "data.max_tokens",
        "model.backbone.dtype",
        "model.backbone.load_in_4bit",
    ),
    "validating": ("data.eval_batch_size", "data.max_tokens", *_OF_MODEL),
    "testing": ("data.eval_batch_size", "data.max_tokens", *_OF_MODEL),
    "capturing": (
        "data.shard_examples",
        "data.sites",
        "data.max_tokens",
        "data.backbone.dtype",
        "data.backbone.load_in_4bit",
    ),
    "steering": ("data.batch_size", "data.max_tokens", *_OF_DATA),
    "maps": ("data.sites", "model.regressors", "data.live_batch_size", "data.block_rows", _OF_DATA[1]),
    "loading": (
        "model.backbone.dtype",
        "model.backbone.load_in_4bit",
        "data.backbone.dtype",
        "data.backbone.load_in_4bit",
    ),
}
# Not numbers: which values can be bettered, and by what.
_BETTER: dict[str, tuple[tuple[Any, ...], str]] = {
    "gradient_checkpointing": ((False,), "true"),
    "backbone.dtype": (("float32",), "bfloat16"),
    "backbone.load_in_4bit": ((False,), "true"),
}
_FEWER = {"sites": "sites", "regressors": "fits"}


class DeviceReport(pl.Callback):
    """Refuses a precision that the device lacks, and explains memory that ran out; every stage gets one.

    When memory runs out the error keeps its class and its trace and gets another message: the stage, what it was doing,
    the batch at hand, the memory in use and which settings to lower, in order. What was on disk stays as it was: the
    stage's record says `running`, and the same command resumes.

    Attributes:
        chosen: the precision, where the config left it open (see `fast_precision`); told when the stage starts.
        batch: the Trainer's batch at hand, in words; empty between batches.
        ready: whether the model is built and on its device.
    """

    def __init__(self) -> None:
        self.chosen: Precision | None = None
        self.batch = ""
        self.ready = False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.batch, self.ready = "", False
        if self.chosen is not None:
            rank_zero_info(f"precision: {self.chosen}, the fastest on this device (--trainer.precision sets another)")
            self.chosen = None
        _, dtype = _value_of(pl_module, "backbone.dtype")
        refuse_precision(str(trainer.precision), trainer.strategy.root_device, dtype)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not ran_out(exception):
            return
        exception.args = (explanation(trainer, pl_module, exception, *self.activity(trainer, exception)),)
        exception.ran_out = True  # type: ignore[attr-defined]

    def activity(self, trainer: pl.Trainer, error: BaseException) -> tuple[Activity, str]:
        """What failed and the batch at hand: as the innermost block said, else as the Trainer's loop has it."""
        said = activity_of(error)
        if said is not None:
            return said[0], said[1] or self.batch
        if not self.ready:
            # The Trainer builds the model and moves it to the device.
            return "loading", ""
        if trainer.training:
            return "training", self.batch
        return "testing" if trainer.testing else "validating", self.batch

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ready = True

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ready = True

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ready = True

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
        self.batch = batch_text(batch)

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        self.batch = ""

    @override
    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any, **__: Any
    ) -> None:
        self.batch = batch_text(batch)

    @override
    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.batch = ""

    @override
    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any, **__: Any
    ) -> None:
        self.batch = batch_text(batch)

    @override
    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        self.batch = ""


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
            f"model.init_args.backbone.dtype is {dtype!r}, but trainer.precision is {precision!r}: every product would "
            f"go from one 16-bit format to the other and lose range or digits. Set dtype to {computed}, or the "
            f"precision to {'bf16-mixed' if dtype == 'bfloat16' else '16-mixed'}"
        )
    if computed != "bfloat16" or device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        return
    way = "set trainer.precision to 16-mixed in the stages that fit a twin, and every dtype to float16"
    name = torch.cuda.get_device_name(device)
    if not torch.cuda.is_bf16_supported():
        raise UserError(f"trainer.precision is {precision!r}, but {name} has no bfloat16: {way}")
    rank_zero_warn(f"{name} only emulates bfloat16 (trainer.precision is {precision!r}), which is slow: {way}")


def explanation(trainer: pl.Trainer, module: Any, error: BaseException, activity: Activity, batch: str) -> str:
    """The message: where, what, with which batch, how much memory, and what to do.

    Args:
        trainer: of the stage.
        module: that it runs.
        error: that says that memory ran out.
        activity: what was being done.
        batch: with what, in words.
    """
    judged = "testing" if trainer.testing else "validating"
    doing = {
        "loading": "loading the backbone",
        "capturing": "capturing activations",
        "maps": "fitting the maps",
        "steering": f"{judged} steering",
    }.get(activity, activity)
    stage = _stage_name(trainer, module)
    gpu = isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error) or "CUBLAS" in str(error)
    lower = _settings(activity, trainer, module)
    resumed = any(isinstance(callback, ResumePoint) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    after = (
        "Nothing that was done is lost: if other programs held the memory, the same command goes on from the last "
        f"checkpoint. Where it refuses a changed setting, add --refit {stage}"
        if resumed
        else "Nothing half-made was written"
    )
    return (
        f"out of {'GPU' if gpu else 'host'} memory in stage {stage}, while {doing}{batch}{_amounts(error)}. "
        f"Lower in this order: {lower}. {after}"
    )


def _amounts(error: BaseException) -> str:
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", str(error))
    amounts = [f"{wanted[1]} more were asked for"] if wanted else []
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        own = torch.cuda.memory_allocated()
        amounts.insert(0, f"{_gib(own)} of {_gib(total)} GiB in use by this process, {_gib(free)} free")
    return f" ({'; '.join(amounts)})" if amounts else ""


def _settings(activity: Activity, trainer: pl.Trainer, module: Any) -> str:
    """The settings that can still be lowered, with their values."""
    owners = {"model": module, "data": trainer.datamodule}  # type: ignore[attr-defined]
    lines = []
    for name in _TO_LOWER[activity]:
        owner, _, setting = name.partition(".")
        known, value = _value_of(owners[owner], setting)
        argument = f"{owner}.init_args.{setting}"
        if not known:
            continue
        if setting in _FEWER:
            lines.append(f"{argument} (fewer of them)")
        elif setting in _BETTER:
            if value in _BETTER[setting][0]:
                lines.append(f"{argument}: {_BETTER[setting][1]} (is {str(value).lower()})")
        elif value is not None and value > 1:
            lines.append(f"{argument} (is {value})")
            if activity == "training" and setting == "batch_size":
                lines[-1] += " while raising trainer.accumulate_grad_batches as much"
                lines[-1] += f" (is {trainer.accumulate_grad_batches})"
    return ", ".join([*lines, "or take a smaller model"])


def _value_of(owner: Any, setting: str) -> tuple[bool, Any]:
    """Whether a module or DataModule has a setting, dotted within a group of arguments, and its value."""
    *groups, name = _FEWER.get(setting, setting).split(".")
    for group in groups:
        owner = getattr(owner, group, None)
    return hasattr(owner, name), getattr(owner, name, None)


def _stage_name(trainer: pl.Trainer, module: Any) -> str:
    """The stage with its study, as commands know it; of a plain fit its folder's name, or the module's class."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ResumePoint):
            folder = callback.path.parent
            # Behind checkpoints, the base and the seed, which a trial has another folder around.
            in_chain = re.search(r"/seed\d+/(.+)", folder.as_posix())
            return in_chain[1] if in_chain is not None else folder.name
    written = getattr(trainer.checkpoint_callback, "dirpath", None)
    return Path(written).name if written else type(module).__name__


def _gib(number: int) -> str:
    return f"{number / 2**30:.1f}"
