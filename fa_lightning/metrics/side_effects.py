"""What an edit does to texts that have nothing to do with the task: to what is read, and to what is said first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.metrics.distinct_items import DistinctItems
from fa_lightning.metrics.divergences import (
    kl_divergence,
    perplexity_ratio,
    predicting_positions,
    text_sums,
)
from fa_lightning.metrics.estimates import SideEffects, TextEffects

GENERAL, INCOMPLETE = "general texts", "incomplete scenarios"


def scored_positions(mask: Tensor, continuation: Tensor) -> Tensor:
    """Positions whose next token is scored: of a model's own continuation, or of a text that has none.

    Args:
        mask: 1 for a token of the text, 0 for padding on the left, (batch, tokens).
        continuation: tokens at the end of each row that a model wrote itself, (batch,).

    Returns:
        Booleans, (batch, tokens - 1).

    >>> scored_positions(torch.ones(2, 4), torch.tensor([0, 2])).tolist()
    [[True, True, True], [False, True, True]]
    """
    width = mask.shape[1]
    columns = torch.arange(width - 1, device=mask.device)
    own = columns[None] >= width - 1 - continuation[:, None]
    return predicting_positions(mask) & (own | (continuation == 0)[:, None])


def answer_positions(width: int, continuation: Tensor) -> Tensor:
    """The column of each left-padded row that predicts the first token of the answer, (batch,).

    >>> answer_positions(4, torch.tensor([0, 2])).tolist()
    [3, 1]
    """
    return width - 1 - continuation


def scored_columns(batch: Mapping[str, Tensor]) -> Tensor:
    """`logits_to_keep` for a batch of neutral texts: the last columns, none of them needless; from the end, (columns,).

    Of texts that a model has answered only the answers are scored; a head of many words makes the others for nothing.

    >>> answered = {"attention_mask": torch.ones(2, 9), "continuation": torch.tensor([3, 2])}
    >>> scored_columns(answered).tolist()
    [-4, -3, -2, -1]
    """
    width, continuation = batch["attention_mask"].shape[1], batch["continuation"]
    columns = int(continuation.max()) + 1 if bool((continuation > 0).all()) else width
    return torch.arange(-columns, 0)


def neutral_text_damage(logits_base: Tensor, logits_edited: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an edit does to a batch of neutral texts: the inputs of `NeutralTextDamage.update`, but for `index`.

    Args:
        logits_base: scores without the edit, (batch, tokens kept, vocabulary): of all columns, or of the last ones, the
            `scored_columns` among them.
        logits_edited: scores with it, (batch, tokens kept, vocabulary).
        batch: the texts (see `collate`), left-padded.

    Returns:
        All (batch,): `kl` (KL of the edited model from the other), `nll_edited` and `nll_base`, nats summed over the
        `tokens` scored positions; `kl_answer` (nats) and `unchanged` at the first token of the answer; `right_base` and
        `right_edited`, whether that token is the right one; `incomplete`, whether the text is a part of a scenario.

    Raises:
        ValueError: the shapes do not fit.
    """
    kept = logits_base.shape[1]
    input_ids, mask, continuation = (
        batch["input_ids"][:, -kept:],
        batch["attention_mask"][:, -kept:],
        batch["continuation"],
    )
    scored = scored_positions(mask, continuation)
    rows = torch.arange(len(mask), device=mask.device)
    answer = answer_positions(kept, continuation)
    base, edited = logits_base[rows, answer].float(), logits_edited[rows, answer].float()
    said_before, said = base.argmax(-1), edited.argmax(-1)
    sums = text_sums(logits_base, logits_edited, input_ids, scored)
    return {
        "kl": sums.kl,
        "nll_edited": sums.nll_q,
        "nll_base": sums.nll_p,
        "tokens": scored.sum(dim=1),
        "kl_answer": kl_divergence(base, edited),
        "unchanged": said == said_before,
        "right_base": said_before == batch["aligned"],
        "right_edited": said == batch["aligned"],
        "incomplete": batch["incomplete"],
    }


class NeutralTextDamage(DistinctItems):
    """Divergences, perplexity ratio and changed answers of an edit on texts that have nothing to do with the task.

    Sums of nats are kept for each text, so the means are per token and not per text, and a repeated text counts once.
    `neutral_text_damage` makes the arguments.

    Example:
        >>> metric = NeutralTextDamage()
        >>> nats, yes = torch.tensor([1.0, 3.0]), torch.tensor([True, True])
        >>> metric.update(
        ...     torch.arange(2),
        ...     kl=nats,
        ...     nll_edited=nats,
        ...     nll_base=nats,
        ...     tokens=torch.tensor([10, 30]),
        ...     kl_answer=nats,
        ...     unchanged=yes,
        ...     right_base=yes,
        ...     right_edited=~yes,
        ...     incomplete=torch.tensor([True, False]),
        ... )
        >>> effects = metric.compute()
        >>> round(effects.kl_neutral_nats, 6), effects.kl_answer_nats, effects.perplexity_ratio, effects.error_answers
        (0.1, 2.0, 1.0, 0.0)
        >>> effects.kinds["general texts"].kl_answer_nats, effects.worst_nats
        (3.0, 2.0)
    """

    COLUMNS = (
        "kl",
        "nll_edited",
        "nll_base",
        "tokens",
        "kl_answer",
        "unchanged",
        "right_base",
        "right_edited",
        "incomplete",
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(columns=len(self.COLUMNS), dtype=torch.float32, **kwargs)

    @override
    def update(self, index: Tensor, **columns: Tensor) -> None:
        """Add a batch.

        Args:
            index: each text's number in its data set, (batch,) int64.
            **columns: what `neutral_text_damage` gives, each (batch,).

        Raises:
            ValueError: the shapes differ.
        """
        self._append(index, *(columns[name] for name in self.COLUMNS))

    @override
    def compute(self) -> SideEffects:
        """The side effects over everything seen by all processes; nan without texts, and no format validity."""
        _, rows = self._distinct()
        columns = dict(zip(self.COLUMNS, rows.double().unbind(dim=1), strict=True))
        incomplete = columns["incomplete"].bool()
        every = _text_effects(columns, torch.ones_like(incomplete))
        kinds = {GENERAL: _text_effects(columns, ~incomplete), INCOMPLETE: _text_effects(columns, incomplete)}
        return SideEffects(
            kl_neutral_nats=every.kl_nats,
            perplexity_ratio=perplexity_ratio(columns["nll_edited"], columns["nll_base"], columns["tokens"]),
            kl_answer_nats=every.kl_answer_nats,
            unchanged_answers=every.unchanged_answers,
            error_answers=_mean(columns["right_edited"][incomplete]),
            error_answers_before=_mean(columns["right_base"][incomplete]),
            kinds={name: effects for name, effects in kinds.items() if effects.n},
            n=every.n,
        )


def _text_effects(columns: Mapping[str, Tensor], inside: Tensor) -> TextEffects:
    """The effects on the texts of one kind."""
    tokens = columns["tokens"][inside].sum().item()
    return TextEffects(
        kl_nats=columns["kl"][inside].sum().item() / tokens if tokens else math.nan,
        kl_answer_nats=_mean(columns["kl_answer"][inside]),
        unchanged_answers=_mean(columns["unchanged"][inside]),
        n=int(inside.sum()),
    )


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else math.nan
