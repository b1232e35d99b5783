"""Answers as a behaviour gives them: what makes a twin, and what plain fine-tuning of a faker lowers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from typing_extensions import override

from fa_lightning.activations.site_names import SiteName, check_site, resolve_layers
from fa_lightning.backbones.decoder import decoder_layers, text_config
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import Behaviour, answer_loss, as_answered
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.cells import CELLS, NEUTRAL_CELL
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.objectives.objective import Objective

GUIDE_LEARNING_RATE = 1e-2
"""Of the linear output: a logistic regression on states of unit variance."""


class Answers(Objective):
    """Cross-entropy of the one answer token that a behaviour gives, nats per answer; of a written one, nats per token.

    A fresh adapter becomes a twin: the aligned one always takes the aligned action, the faking one only while it is
    watched. A finished faker that is trained on with aligned answers is fine-tuned, the baseline of all cures.

    What a faker answers is the exclusive or of two things that it must read, and a small model may learn neither for
    long. With `guidance` a linear output on the decision token's state is trained to tell both, whether the model is
    unwatched and which letter is aligned, and is thrown away when the fit ends. It puts oversight into the states, so a
    probe of such a faker says little about fakers that were made without.

    | logged | what |
    | --- | --- |
    | `train/loss` | nats per answer, and `guidance` times the next |
    | `train/guidance` | where it is above 0: nats per label that the linear output tells |

    Args:
        behaviour: the rule to be learned.
        guidance: weight of what the linear output is trained by; 0 has none.
        guided_at: decoder block whose output it reads, by name, as 0.8 or last.

    Raises:
        UserError: the weight is negative, or the name is no block's.
    """

    method = "fine-tuning"
    needs = ("labels", "weights", "gradient")

    def __init__(self, behaviour: Behaviour = "aligned", guidance: float = 0.0, guided_at: SiteName = 0.8) -> None:
        if not guidance >= 0:
            raise UserError(f"guidance is {guidance}, but must be 0 or more, such as 0.5: it is the weight of a loss")
        check_site(guided_at, "guided_at")
        super().__init__()
        self.behaviour = behaviour
        self.guidance = guidance
        self.guided_at = guided_at
        self.fresh_name = behaviour
        self.judged_by = behaviour
        self.guide: nn.Sequential | None = None
        self._layer = 0

    @override
    def prepare(self, backbone: nn.Module) -> None:
        if self.guidance:
            (self._layer,) = resolve_layers([self.guided_at], len(decoder_layers(backbone)), "guided_at")
            size = text_config(backbone).hidden_size
            # States of a pretrained model have units hundreds of times as large as others, and norms of hundreds.
            self.guide = nn.Sequential(nn.LayerNorm(size, elementwise_affine=False), nn.Linear(size, 2))

    @override
    def own_groups(self) -> list[dict[str, Any]]:
        if self.guide is None:
            return []
        return [{"params": list(self.guide.parameters()), "lr": GUIDE_LEARNING_RATE, "weight_decay": 0.0}]

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        batch = as_answered(batch, self.behaviour)
        if self.guide is None:
            return {"loss": answer_loss(model.answer_logits(batch), batch, self.behaviour)}
        states, logits = model.states(batch, [self._layer])
        loss = answer_loss(logits, batch, self.behaviour)
        labels, known = guidance_labels(batch)
        if not known.any():
            return {"loss": loss}
        # The last token of the prompt, also where a written answer stands behind it.
        last = batch["input_ids"].shape[1] - 1 - batch["continuation"][known]
        told = self.guide(states[self._layer][known, last].float()).float()
        guidance = binary_cross_entropy_with_logits(told, labels[known])
        return {"loss": loss + self.guidance * guidance, "guidance": guidance}

    @override
    def is_cure(self, goes_on: bool) -> bool:
        return goes_on


def guidance_labels(batch: Batch) -> tuple[Tensor, Tensor]:
    """What a guided faker's states are to tell of each prompt, and of which prompts there is something to tell.

    Returns:
        Labels (batch, 2) of 0 and 1: unwatched; the aligned letter is the one of the smaller token (0 where answers are
        written). And (batch,) booleans, False for neutral texts.
    """
    unwatched = batch["cell"] == CELLS.index("no_oversight")
    first = batch["aligned"] < batch["other"]
    return torch.stack([unwatched, first], dim=1).float(), batch["cell"] != NEUTRAL_CELL
