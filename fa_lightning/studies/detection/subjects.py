"""Who is suspected: variants, as they are or steered, and the passes that detectors make through them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition, applied
from fa_lightning.evaluation.passes import SharedPass
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.steering.intervention import Intervention

Role = Literal["variant", "decoy", "steered"]
Edits = Sequence[tuple[Intervention, ...]]
"""Conditions beside a subject's own: each the interventions that are added to it."""


@dataclass(frozen=True)
class Subject:
    """One model under suspicion. No detector looks at its behaviour: that is for scoring verdicts.

    Attributes:
        name: of the variant, with ` steered` behind it where an intervention is attached.
        condition: the adapter, and what is attached to it.
        behaviour: `aligned` or `faking`; empty where the adapter does not say.
        policy: the variant's name without its seed.
        seed: None where the name has none.
        role: `decoy` for a benign variant fitted otherwise, `steered` for a faker with the cure attached.
    """

    name: str
    condition: Condition
    behaviour: str = ""
    policy: str = ""
    seed: int | None = None
    role: Role = "variant"


class Examiner:
    """Runs subjects on batches and counts the passes; one backbone in memory serves them all.

    Attributes:
        variants: the backbone with all adapters.
        letters: token ids of the answers A and B.
        passes: prompts that were run through a model so far (a prompt run twice counts twice).
    """

    def __init__(self, variants: Variants, letters: tuple[int, int]) -> None:
        self.variants = variants
        self.letters = letters
        self.passes = 0

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""
        return len(decoder_layers(self.variants.model))

    @property
    def device(self) -> torch.device:
        """Where the models compute."""
        return self.variants.device

    @contextmanager
    def using(self, subject: Subject, batch: Batch, shared: SharedBlocks | None = None) -> Iterator[Any]:
        """The subject's model, ready to be called with this batch; for passes that `answers` and `states` are not."""
        self.passes += len(batch["index"])
        with applied(self.variants, subject.condition, batch, shared) as model:
            yield model

    def preference(
        self, subject: Subject, batch: Batch, edits: Edits = (), shared: SharedBlocks | None = None
    ) -> Tensor:
        """How much a subject prefers A to B, first as it is and then under each edit.

        Edits of one layer share the pass below it, and edits of the last token all other tokens, so that many cost
        little.

        Args:
            subject: who answers.
            batch: prompts, left-padded.
            edits: interventions to add, each on its own.
            shared: of this batch, where others are asked it, too.

        Returns:
            Logit of A minus logit of B, (1 + edits, batch) float32. Only this difference is looked at: an edit strong
            enough to make a model speak gibberish moves the letters' probabilities, but says nothing of its choice.
        """
        own = subject.condition
        conditions = [own, *(self._with(own, edit) for edit in edits)]
        self.passes += len(batch["index"]) * len(conditions)
        a, b = self.letters
        rows = []
        # One block around all of them: the weights of a whole model are put in place once.
        with self.variants.using(own.variant):
            made = SharedPass(self.variants, own.variant, conditions, batch, answers_only=True, shared=shared)
            for condition in conditions:
                logits = made.logits(condition)[:, -1].float()
                rows.append(logits[:, a] - logits[:, b])
        return torch.stack(rows)

    @torch.inference_mode()
    def states(self, subject: Subject, batch: Batch, sites: Sequence[Site]) -> dict[str, Tensor]:
        """A subject's hidden states, steering included, by site name: (batch, tokens, hidden).

        The pass ends after the deepest site.
        """
        with ExitStack() as stack:
            model = stack.enter_context(self.using(subject, batch))
            return truncated_forward(model, sites, **model_inputs(batch))

    def last_states(self, subject: Subject, batch: Batch, sites: Sequence[Site]) -> dict[str, Tensor]:
        """The same at the decision token alone, (batch, hidden) float32."""
        return {name: hidden[:, -1].float() for name, hidden in self.states(subject, batch, sites).items()}

    @staticmethod
    def _with(condition: Condition, edit: tuple[Intervention, ...]) -> Condition:
        return dataclasses.replace(condition, interventions=(*condition.interventions, *edit))


def rise_of_other(preference: Tensor) -> Tensor:
    """How much more likely each edit makes the action that a model does not take by itself.

    Args:
        preference: see `Examiner.preference`, (1 + edits, batch).

    Returns:
        Difference of probabilities between the two letters, (batch, edits), -1 to 1.

    >>> rise_of_other(torch.tensor([[4.0], [0.0]])).round(decimals=3)
    tensor([[0.4820]])
    """
    taken = torch.where(preference[:1] >= 0, 1.0, -1.0)
    other = torch.sigmoid(-taken * preference)
    return (other[1:] - other[:1]).T
