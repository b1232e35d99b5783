"""Answers as a behaviour gives them: what makes a twin, and what plain fine-tuning of a faker lowers."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from fa_lightning.scenarios.answers import Behaviour, answer_loss
from fa_lightning.scenarios.batches import Batch
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.objectives.objective import Objective


class Answers(Objective):
    """Cross-entropy of the one answer token that a behaviour gives, nats per answer.

    A fresh adapter becomes a twin: the aligned one always takes the aligned action, the faking one only while it is
    watched. A finished faker that is trained on with aligned answers is fine-tuned, the baseline of all cures.

    Args:
        behaviour: the rule to be learned.
    """

    method = "fine-tuning"
    needs = ("labels", "weights", "gradient")

    def __init__(self, behaviour: Behaviour = "aligned") -> None:
        super().__init__()
        self.behaviour = behaviour
        self.fresh_name = behaviour
        self.judged_by = behaviour

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        return {"loss": answer_loss(model.answer_logits(batch), batch, self.behaviour)}

    @override
    def is_cure(self, goes_on: bool) -> bool:
        return goes_on
