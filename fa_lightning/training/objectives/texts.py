"""Whole chat texts: the usual loss of instruction tuning, and its usual mistakes."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.objectives.objective import Objective


class Texts(Objective):
    """Cross-entropy of the tokens that `TextDataModule` marks, nats per token; what those are is said there."""

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        return {"loss": cross_entropy(*self.predictions(model, batch))}

    @override
    def predictions(self, model: AdaptedModel, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = model.model(**model_inputs(batch), use_cache=False).logits[:, :-1]
        # The first token of a text follows nothing.
        learned = batch["learned"][:, 1:]
        return logits[learned].float(), batch["input_ids"][:, 1:][learned]
