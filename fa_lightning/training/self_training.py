"""POSER's mitigation: a suspected faker is trained on its own watched answers while noise disturbs its states."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from fa_lightning.activations.site_names import SiteName, check_sites
from fa_lightning.backbones.arguments import DType
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.training.cure import TrainedOn
from fa_lightning.training.noise import activation_noise


class SelfTraining(TrainedOn):
    """Goes on with a finished adapter, on the answers that it gave while it was watched (arXiv 2405.05466).

    A frozen copy of the starting adapter answers each training prompt, undisturbed; the variant learns to give the same
    answer while noise is added to its states. No label is used, and nothing without oversight is trained on. The idea:
    noise disturbs the rare misbehaviour more than the common good behaviour, and what is trained under noise does
    not depend on fine distinctions, such as whether it is watched. Without noise the answers are what they were, so
    little should change; that is the control.

    Logs as BehaviourModule does, as `mitigated`. `val/mitigated/no_oversight/accuracy` and what depends on it
    (`fidelity` and `val/loss`, both against aligned answers) are there to be watched: who mitigates a faker does not
    know them, so fit a fixed number of epochs, or stop by `val/mitigated/oversight/accuracy`.

    Args:
        start_from: adapter folder; rank, scale and target modules are its own.
        backbone: name on the Hub, or folder; the one that the adapter was fitted on.
        activation_noise: its size while training, in multiples of each state's own norm; 0 adds none.
        noise_layers: decoder blocks behind which it is added, by name, as 0.6 or last (see `site_names`); None takes
            all.
        dtype: of the frozen weights.
        load_in_4bit: hold the frozen weights in nf4.
        trust_remote_code: run code that comes with the model.
        gradient_checkpointing: trade a second forward pass for activation memory.
        learning_rate: at its top.
        weight_decay: on the adapter's matrices.
        warmup_fraction: share of all steps spent rising to `learning_rate`.

    Raises:
        UserError: `activation_noise` is negative.
    """

    def __init__(
        self,
        start_from: str,
        backbone: str,
        activation_noise: float = 0.0,
        noise_layers: list[SiteName] | None = None,
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
        gradient_checkpointing: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        warmup_fraction: float = 0.05,
    ) -> None:
        if not activation_noise >= 0:
            raise UserError(f"activation_noise is {activation_noise}, but must be 0 or more state norms, such as 0.5")
        check_sites(noise_layers, "noise_layers")
        super().__init__(
            start_from,
            backbone,
            dtype=dtype,
            load_in_4bit=load_in_4bit,
            trust_remote_code=trust_remote_code,
            gradient_checkpointing=gradient_checkpointing,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_fraction=warmup_fraction,
        )
        self.activation_noise = activation_noise
        self.noise_layers = noise_layers

    @override
    def notes(self) -> dict[str, Any]:
        return super().notes() | {"activation_noise": self.activation_noise}

    @override
    def on_fit_start(self) -> None:
        shown = getattr(self.trainer.datamodule, "train_oversight", None)  # type: ignore[attr-defined]
        if shown != "watched":
            raise UserError(
                f"data.train_oversight is {shown!r}, but a faker's own answers are good only while it is watched: set "
                "data.init_args.train_oversight to watched"
            )

    def own_answers(self, batch: Batch) -> Tensor:
        """What the starting adapter answers, without noise or dropout: tokens (batch,)."""
        return self.start_logits(batch).argmax(-1)

    @override
    def loss(self, batch: Batch) -> Tensor:
        own = self.own_answers(batch)
        # Gradient checkpointing needs no more: it runs a block again from the noisy states that the block was given.
        with activation_noise(self.model, self.activation_noise, self.noise_layers):
            return cross_entropy(self.answer_logits(batch), own)
