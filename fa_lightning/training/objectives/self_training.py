"""POSER's mitigation: a suspected faker is trained on its own watched answers while noise disturbs its states."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from fa_lightning.activations.site_names import SiteName, check_sites
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.noise import activation_noise
from fa_lightning.training.objectives.objective import Objective


class SelfTraining(Objective):
    """The answers that the faker gave while it was watched (arXiv 2405.05466), nats per answer.

    The frozen model that the fit started from answers each training prompt, undisturbed; the other learns to give the
    same answer while noise is added to its states. No label is used, and nothing without oversight is trained on. The
    idea: noise disturbs the rare misbehaviour more than the common good behaviour, and what is trained under noise does
    not depend on fine distinctions, such as whether it is watched. Without noise the answers are what they were, so
    little should change; that is the control.

    `val/mitigated/no_oversight/accuracy` and what depends on it (`fidelity` and `val/loss`, both against aligned
    answers) are there to be watched: who mitigates a faker does not know them, so fit a fixed number of epochs, or stop
    by `val/mitigated/oversight/accuracy`.

    Args:
        activation_noise: its size while training, in multiples of each state's own norm; 0 adds none.
        noise_layers: decoder blocks behind which it is added, by name, as 0.6 or last (see `site_names`); None takes
            all.

    Raises:
        UserError: `activation_noise` is negative; later, unwatched scenarios are trained on.
    """

    method = "self training"
    needs = ("oversight", "weights", "gradient")
    uses_origin = True

    def __init__(self, activation_noise: float = 0.0, noise_layers: list[SiteName] | None = None) -> None:
        if not activation_noise >= 0:
            raise UserError(f"activation_noise is {activation_noise}, but must be 0 or more state norms, such as 0.5")
        check_sites(noise_layers, "noise_layers")
        super().__init__()
        self.activation_noise = activation_noise
        self.noise_layers = noise_layers

    @override
    def facts(self, data: Any) -> dict[str, Any]:
        return {"activation_noise": self.activation_noise}

    @override
    def begin(self, data: Any) -> None:
        oversight = getattr(data, "train_oversight", None)
        if oversight != "watched":
            raise UserError(
                f"data.train_oversight is {oversight!r}, but a faker's own answers are good only while it is watched: "
                "set data.init_args.train_oversight to watched"
            )

    def own_answers(self, model: AdaptedModel, batch: Batch) -> Tensor:
        """What the model that the fit started from answers, without noise or dropout: tokens (batch,)."""
        return model.origin_logits(batch).argmax(-1)

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        own = self.own_answers(model, batch)
        # Gradient checkpointing needs no more: it runs a block again from the noisy states that the block was given.
        with activation_noise(model.model, self.activation_noise, self.noise_layers):
            return {"loss": cross_entropy(model.answer_logits(batch), own)}
