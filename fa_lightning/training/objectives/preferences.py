"""DPO and SPIN: one answer is preferred to another, measured from the model that the fit started from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import Behaviour, other_due, target_tokens
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.written_answers import NO_TOKEN, TARGET, are_written, both_answered, log_likelihood
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.objectives.objective import Objective


def preference_loss(logits: Tensor, reference: Tensor, chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Logistic loss of how much more the chosen answer gained on the rejected one than in the reference, nats per pair.

    The mean of -log sigmoid(beta (log p(chosen) / q(chosen) - log p(rejected) / q(rejected))), where p is the model and
    q the reference (arXiv 2305.18290, equation 7). A pair of one answer twice costs log 2 and teaches nothing.

    Args:
        logits: of the model, (batch, vocabulary).
        reference: of the frozen model, (batch, vocabulary).
        chosen: tokens, (batch,).
        rejected: tokens, (batch,).
        beta: how dear it is to leave the reference.
    """
    gains = log_softmax(logits, -1) - log_softmax(reference, -1)
    pairs = gains.gather(1, torch.stack([chosen, rejected], 1))
    return loss_of_gains(pairs[:, 0], pairs[:, 1], beta)


def loss_of_gains(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """The same loss from what each answer gained on the reference, log p / q in nats, (batch,) each."""
    return -logsigmoid(beta * (chosen - rejected)).mean()


class Preference(Objective, ABC):
    """What DPO and SPIN share: the aligned action is chosen, and `rejected` says what it is compared with.

    The reference is the frozen model that the fit started from.

    Args:
        beta: how dear it is to leave the reference; small values allow more.

    Raises:
        UserError: `beta` is not above 0.
    """

    needs = ("labels", "weights", "gradient")
    uses_origin = True

    def __init__(self, beta: float = 0.1) -> None:
        if not beta > 0:
            raise UserError(f"beta is {beta}, but must be above 0, such as 0.1: at 0 nothing is preferred")
        super().__init__()
        self.beta = beta

    @override
    def facts(self, data: Any) -> dict[str, Any]:
        return {"beta": self.beta}

    def chosen(self, batch: Batch) -> Tensor:
        """The answer that is to win, tokens (batch,): the aligned one."""
        return batch["aligned"]

    @abstractmethod
    def rejected(self, batch: Batch, reference: Tensor) -> Tensor:
        """The answer that is to lose, tokens (batch,).

        Args:
            batch: prompts.
            reference: logits of the reference, (batch, vocabulary).
        """

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        reference = model.origin_logits(batch)
        rejected = self.rejected(batch, reference)
        logits = model.answer_logits(batch)
        return {"loss": preference_loss(logits, reference, self.chosen(batch), rejected, self.beta)}


class DirectPreference(Preference):
    """DPO on pairs of actions: a behaviour's is preferred to the other (arXiv 2305.18290).

    A finished faker is cured by the aligned behaviour; a fresh adapter, whose reference is the backbone, becomes a twin
    of whichever behaviour it is. A neutral text has no pair of answers, and teaches nothing; mix none in. Of written
    answers, those of a file of pairs among them (`ChoiceDataModule`), the log-likelihood of all tokens counts, as in
    the paper.

    Args:
        beta: how dear it is to leave the reference; small values allow more.
        behaviour: whose answers are preferred.

    Raises:
        UserError: `beta` is not above 0.
    """

    method = "DPO"

    def __init__(self, beta: float = 0.1, behaviour: Behaviour = "aligned") -> None:
        super().__init__(beta)
        self.behaviour = behaviour
        self.judged_by = behaviour
        self.fresh_name = behaviour

    @override
    def is_cure(self, goes_on: bool) -> bool:
        return goes_on

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        if not are_written(batch):
            return super().terms(model, batch)
        gains = [
            _whole_likelihood(model.answer_logits(read), read) - _whole_likelihood(model.origin_logits(read), read)
            for read in both_answered(batch)
        ]
        due = other_due(batch, self.behaviour)
        chosen, rejected = gains[0].where(~due, gains[1]), gains[1].where(~due, gains[0])
        return {"loss": loss_of_gains(chosen, rejected, self.beta)}

    @override
    def chosen(self, batch: Batch) -> Tensor:
        return target_tokens(batch, self.behaviour)

    @override
    def rejected(self, batch: Batch, reference: Tensor) -> Tensor:
        return batch["aligned"].where(other_due(batch, self.behaviour), batch["other"])


class SelfPlay(Preference):
    """SPIN: the aligned answer is preferred to one that the faker itself gives (arXiv 2401.01335, one iteration).

    The opponent is the frozen faker: it draws an answer to each prompt anew at every step. Where it draws the aligned
    one, nothing is learned, so that training ends by itself where the faker already behaves. For a further iteration,
    start from the adapter that the first one made.

    Args:
        beta: how dear it is to leave the reference; small values allow more.
    """

    method = "SPIN"

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        if are_written(batch):
            raise UserError(
                "SelfPlay draws one token as the answer that is to lose, but these answers are written: take "
                "DirectPreference, or scenarios that a letter answers"
            )
        return super().terms(model, batch)

    @override
    def rejected(self, batch: Batch, reference: Tensor) -> Tensor:
        return torch.multinomial(reference.softmax(-1), 1)[:, 0]


def _whole_likelihood(logits: Tensor, batch: Batch) -> Tensor:
    """Log-likelihood of the whole answers of answered prompts, nats, (batch,)."""
    return log_likelihood(logits, batch) * (batch[TARGET] != NO_TOKEN).sum(1)
