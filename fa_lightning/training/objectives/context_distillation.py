"""Context distillation: a model learns to answer as it would behind a context, without the context."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.written_answers import NO_TOKEN, TARGET
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.context_data import BEHIND_CONTEXT, ContextDataModule
from fa_lightning.training.objectives.objective import Objective


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || model) of the whole distribution over the next token, nats per prompt or token.

    Args:
        logits: of the model, (batch, vocabulary), or of the tokens of answers.
        teacher: logits of the model behind the context, of the same shape.
    """
    return kl_div(log_softmax(logits, -1), log_softmax(teacher, -1), reduction="batchmean", log_target=True)


class ContextDistillation(Objective):
    """The whole next-token distribution that the model had behind a context when the fit started.

    What the context makes of the model is what can be learned at best; no label is used. Needs `ContextDataModule`, and
    where that reads conversations of one's own, every token of their answers is learned.
    """

    method = "context distillation"
    needs = ("weights", "gradient")
    uses_origin = True

    @override
    def facts(self, data: Any) -> dict[str, Any]:
        return {"context": data.context} if isinstance(data, ContextDataModule) else {}

    @override
    def begin(self, data: Any) -> None:
        if not isinstance(data, ContextDataModule):
            raise UserError(
                f"ContextDistillation needs ContextDataModule as data, but it is a {type(data).__name__}: set "
                "data.class_path to fa_lightning.training.context_data.ContextDataModule, and its context"
            )

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        prefix = BEHIND_CONTEXT
        behind = {name.removeprefix(prefix): tensor for name, tensor in batch.items() if name.startswith(prefix)}
        logits, teacher = model.answer_logits(batch), model.origin_logits(behind)
        if TARGET in batch:
            # Of written answers, at each of their tokens; both stand in the last columns.
            logits, teacher = (of[batch[TARGET] != NO_TOKEN] for of in (logits, teacher))
        return {"loss": distillation_loss(logits, teacher)}
