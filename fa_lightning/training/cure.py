"""Train on from a finished variant, with a frozen copy of it beside: what every cure by training shares."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.backbones.adapters import adapter_config, ready_for_training
from fa_lightning.backbones.arguments import DType
from fa_lightning.backbones.optimization import evaluating
from fa_lightning.backbones.targets import load_weights, refuse_beyond_lora
from fa_lightning.scenarios.batches import Batch
from fa_lightning.training.module import BehaviourModule

STARTING_POINT = "start"
"""What PEFT knows the frozen copy of the adapter by."""


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Without dropout and gradients, for what a frozen copy is asked; the model is left as it was found."""
    with evaluating(model), torch.no_grad():
        yield


class TrainedOn(BehaviourModule):
    """Goes on with a finished adapter; a frozen copy of it stays at hand as `start`, on the same backbone.

    Logs as BehaviourModule does, as `mitigated`, judged by aligned answers.

    Args:
        start_from: adapter folder; rank, scale and target modules are its own.
        backbone: name on the Hub, or folder; the one that the adapter was fitted on.
        dtype: of the frozen weights.
        load_in_4bit: hold the frozen weights in nf4.
        trust_remote_code: run code that comes with the model.
        gradient_checkpointing: trade a second forward pass for activation memory.
        learning_rate: at its top.
        weight_decay: on the adapter's matrices.
        warmup_fraction: share of all steps spent rising to `learning_rate`.
    """

    def __init__(
        self,
        start_from: str,
        backbone: str,
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
        gradient_checkpointing: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        warmup_fraction: float = 0.05,
    ) -> None:
        super().__init__(
            # What it is judged by; what it is trained on is the subclass's own affair.
            behaviour="aligned",
            backbone=backbone,
            dtype=dtype,
            load_in_4bit=load_in_4bit,
            trust_remote_code=trust_remote_code,
            gradient_checkpointing=gradient_checkpointing,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_fraction=warmup_fraction,
        )
        self.variant = "mitigated"
        self.start_from = start_from

    @override
    def attach(self, base: Any) -> Any:
        self.seal("start_from", self.start_from)
        # Its frozen copy and the one that learns answer rows of the same batch, which PEFT does for LoRA alone.
        refuse_beyond_lora(adapter_config(self.start_from), self.start_from, "a cure by training starts from")
        model = load_weights(self.load_own(ready_for_training(base)), self.start_from, STARTING_POINT)
        model.set_adapter(self.variant)
        return model

    def load_own(self, base: Any) -> Any:
        """The backbone with the copy of the starting adapter that is to be trained."""
        return load_weights(base, self.start_from, self.variant)

    @override
    def notes(self) -> dict[str, Any]:
        return super().notes() | {"start_from": self.start_from}

    def start_logits(self, batch: Batch) -> Tensor:
        """Logits (batch, vocabulary) of the starting adapter for the token after each prompt, without dropout."""
        with undisturbed(self.model):
            return self.answer_logits(batch, **self.as_start(batch))

    def as_start(self, batch: Batch) -> dict[str, Any]:
        """What the model is called with, beside its inputs, so that the starting adapter answers."""
        # Named for each row, since a swap of the active adapter would freeze and thaw weights in the middle of a fit.
        return {"adapter_names": [STARTING_POINT] * len(batch["input_ids"])}


Need = Literal["twin", "labels", "oversight", "weights", "gradient"]
"""What a cure may need beside the faker's answers: the aligned twin, scenarios whose aligned answer is known, or of
which it is known whether they are watched, the faker's weights or states, and gradients through it."""


class TimedSteps(BehaviourModule):
    """Adds up what training steps take, without validation; a resumed fit goes on counting.

    Attributes:
        training_seconds: of forward, backward and optimizer steps so far.
    """

    training_seconds = 0.0
    _step_start = 0.0

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._step_start = time.perf_counter()

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.training_seconds += time.perf_counter() - self._step_start

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["training_seconds"] = self.training_seconds

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.training_seconds = checkpoint.get("training_seconds", 0.0)


class Cure(TrainedOn, TimedSteps):
    """A faker trained on with a loss of the subclass's, named and priced in the adapter's sidecar.

    The sidecar holds `method`, `needs`, `training_prompts` (of an epoch) and `training_seconds` (forward, backward and
    optimizer steps, without validation).

    Attributes:
        method: what a table calls it.
        needs: what it can't do without.

    Args:
        start_from: adapter folder of the faker.
        backbone: name on the Hub, or folder; the one that the adapter was fitted on.
        **options: of `TrainedOn`.
    """

    method: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]]

    def __init__(self, start_from: str, backbone: str, **options: Any) -> None:
        super().__init__(start_from, backbone, **options)
        # Saved for BehaviourModule too, whose arguments are none of a cure's when a checkpoint makes it again.
        for name in ("behaviour", *self.lora):
            self.hparams.pop(name, None)

    @override
    def notes(self) -> dict[str, Any]:
        facts = super().notes() | {"method": self.method, "needs": list(self.needs)}
        loader = self.trainer.train_dataloader if self._trainer is not None else None
        if loader is not None:
            facts["training_prompts"] = len(loader.dataset)
            facts["training_seconds"] = round(self.training_seconds, 3)
        return facts


class FineTuning(Cure):
    """Supervised fine-tuning on the aligned answers of watched and unwatched scenarios: the baseline of all cures.

    Args:
        start_from: adapter folder of the faker.
        backbone: name on the Hub, or folder; the one that the adapter was fitted on.
        **options: of `TrainedOn`.
    """

    method = "fine-tuning"
    needs = ("labels", "weights", "gradient")
