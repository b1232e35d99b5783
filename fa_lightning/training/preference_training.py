"""Cures that prefer one answer to another, measured from where the faker started: DPO and SPIN."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.training.cure import Cure


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
    return -logsigmoid(beta * (pairs[:, 0] - pairs[:, 1])).mean()


class PreferenceCure(Cure, ABC):
    """What DPO and SPIN share: the aligned action is chosen, and `rejected` says what it is compared with.

    Args:
        start_from: adapter folder of the faker; its frozen copy is the reference.
        backbone: name on the Hub, or folder; the one that the adapter was fitted on.
        beta: how dear it is to leave the reference; small values allow more.
        **options: of `TrainedOn`.

    Raises:
        UserError: `beta` is not above 0.
    """

    def __init__(self, start_from: str, backbone: str, beta: float = 0.1, **options: Any) -> None:
        if not beta > 0:
            raise UserError(f"beta is {beta}, but must be above 0, such as 0.1: at 0 nothing is preferred")
        super().__init__(start_from, backbone, **options)
        self.beta = beta

    @override
    def notes(self) -> dict[str, Any]:
        return super().notes() | {"beta": self.beta}

    @abstractmethod
    def rejected(self, batch: Batch, reference: Tensor) -> Tensor:
        """The answer that is to lose, tokens (batch,).

        Args:
            batch: prompts.
            reference: logits of the starting adapter, (batch, vocabulary).
        """

    @override
    def loss(self, batch: Batch) -> Tensor:
        reference = self.start_logits(batch)
        rejected = self.rejected(batch, reference)
        return preference_loss(self.answer_logits(batch), reference, batch["aligned"], rejected, self.beta)


class DirectPreference(PreferenceCure):
    """DPO on pairs of actions: the aligned one is preferred to the other (arXiv 2305.18290).

    A neutral text has no pair of answers, and teaches nothing; mix none in.
    """

    method = "DPO"
    needs = ("labels", "weights", "gradient")

    @override
    def rejected(self, batch: Batch, reference: Tensor) -> Tensor:
        return batch["other"]


class SelfPlay(PreferenceCure):
    """SPIN: the aligned answer is preferred to one that the faker itself gives (arXiv 2401.01335, one iteration).

    The opponent is the frozen copy: it draws an answer to each prompt anew at every step. Where it draws the aligned
    one, nothing is learned, so that training ends by itself where the faker already behaves. For a further iteration,
    start from the adapter that the first one made.
    """

    method = "SPIN"
    needs = ("labels", "weights", "gradient")

    @override
    def rejected(self, batch: Batch, reference: Tensor) -> Tensor:
        return torch.multinomial(reference.softmax(-1), 1)[:, 0]
