"""The one interface of all supervised probes, and what each refuses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from fa_lightning.errors import UserError
from fa_lightning.regressors.base import check_finite_states


class Probe(nn.Module, ABC):
    """Reads a label from hidden states, having seen labelled ones.

    What it has learnt is in buffers or parameters, so that `state_dict` holds it.

    Args:
        hidden_size: units per state.

    Attributes:
        name: as tables and files spell it.
        rule: what it does, as the report tells it.

    Raises:
        ValueError: `hidden_size` is below 1.
    """

    name: ClassVar[str] = ""
    rule: ClassVar[str] = ""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        if hidden_size < 1:
            raise ValueError(f"hidden_size is {hidden_size}, but must be a positive number of units")
        self.hidden_size = hidden_size

    @abstractmethod
    def fit(self, states: Tensor, labels: Tensor) -> None:
        """Learn from states (n, hidden) and their labels, booleans (n,).

        Raises:
            UserError: a class is missing.
            ValueError: the shapes disagree.
            NotFiniteError: a state is not finite.
        """

    @abstractmethod
    def score(self, states: Tensor) -> Tensor:
        """Log-odds that the label is true: states (n, hidden) -> (n,)."""


def check_labelled(states: Tensor, labels: Tensor, hidden_size: int) -> None:
    """Refuse what no probe can be fitted on.

    Raises:
        UserError: a class is missing.
        ValueError: the shapes disagree.
        NotFiniteError: a state is not finite.
    """
    if states.ndim != 2 or states.shape[1] != hidden_size or labels.shape != states.shape[:1]:
        raise ValueError(
            f"states is {tuple(states.shape)} and labels {tuple(labels.shape)}, but they must be (n, {hidden_size}) "
            "and (n,)"
        )
    check_finite_states(states=states)
    true = int(labels.bool().sum())
    if true in (0, len(labels)):
        raise UserError(
            f"labels is true for {true} of {len(labels)} states, but a probe needs states of both classes: give it "
            "more rows"
        )


def check_pairs(pairs: Tensor, hidden_size: int) -> None:
    """Refuse what are no contrast pairs.

    Raises:
        ValueError: the shape is not (n, 2, hidden).
        NotFiniteError: a state is not finite.
    """
    if pairs.ndim != 3 or pairs.shape[1:] != (2, hidden_size):
        raise ValueError(f"pairs is {tuple(pairs.shape)}, but contrast pairs must be (n, 2, {hidden_size})")
    check_finite_states(pairs=pairs.flatten(0, 1))


def stack_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Contrast pairs (n, 2, hidden) of the states of both endings, each (n, hidden).

    >>> stack_pairs(torch.zeros(3, 4), torch.ones(3, 4)).shape
    torch.Size([3, 2, 4])

    Raises:
        ValueError: there are not as many of one as of the other.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"contrast pairs have {tuple(first.shape)} first states and {tuple(second.shape)} second ones, but both "
            "must be (n, hidden), row by row the two endings of one prompt"
        )
    return torch.stack([first, second], dim=1)
