"""How many labels a probe needs: fitted on few rows, many times over."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fa_lightning.studies.probes.ccs import CCS
from fa_lightning.studies.probes.fitting import CHEAP
from fa_lightning.studies.probes.measures import accuracy_interval, credit

DRAWS = 5
"""Draws of labelled rows for each number of them."""

Point = tuple[str, int, float, tuple[float, float]]
"""Probe, labels, accuracy and its 95 % interval."""


def label_efficiency(
    states: Tensor, labels: Tensor, train: Tensor, test: Tensor, groups: Tensor, counts: Sequence[int], seed: int
) -> list[Point]:
    """Accuracy of each cheap supervised probe by number of labelled training rows, the mean over draws.

    Args:
        states: (rows, hidden).
        labels: booleans (rows,).
        train: numbers of the rows that labels are drawn from, half of each class.
        test: numbers of the rows that are judged.
        groups: of all rows.
        counts: numbers of labels; those above what there is are left out, and all of them come last.
        seed: of the draws.
    """
    points = []
    for count, draws in _drawn(labels, train, counts, seed):
        for kind in CHEAP:
            scores = []
            for rows in draws:
                probe = kind(states.shape[1])
                probe.fit(states[rows], labels[rows])
                scores.append(probe.score(states[test]).cpu())
            points.append((kind.name, count, *_judged(torch.stack(scores), labels[test], groups[test])))
    return points


def sign_efficiency(
    probe: CCS,
    pairs: Tensor,
    labels: Tensor,
    train: Tensor,
    test: Tensor,
    groups: Tensor,
    counts: Sequence[int],
    seed: int,
) -> list[Point]:
    """The same of a fitted CCS, which takes nothing but its sign from the labels.

    Args:
        probe: fitted on the training pairs, all of them without their labels.
        pairs: (rows, 2, hidden).
        labels: booleans (rows,).
        train: numbers of the rows that labels are drawn from.
        test: numbers of the rows that are judged.
        groups: of all rows.
        counts: numbers of labels.
        seed: of the draws.
    """
    points = []
    for count, draws in _drawn(labels, train, counts, seed):
        scores = []
        for rows in draws:
            probe.resolve_sign(pairs[rows], labels[rows])
            scores.append(probe.score(pairs[test]).cpu())
        points.append((probe.name, count, *_judged(torch.stack(scores), labels[test], groups[test])))
    return points


def _drawn(labels: Tensor, train: Tensor, counts: Sequence[int], seed: int) -> list[tuple[int, list[Tensor]]]:
    """By number of labels, draws of that many rows, half of each class; the same whatever the other numbers are."""
    classes = [train[labels[train] == value] for value in (True, False)]
    most = 2 * min(len(members) for members in classes)
    drawn = []
    for count in [*sorted({count for count in counts if 2 <= count < most}), most]:
        draws = []
        for draw in range(DRAWS if count < most else 1):
            generator = torch.Generator().manual_seed(1000 * seed + draw)
            rows = [members[torch.randperm(len(members), generator=generator)[: count // 2]] for members in classes]
            draws.append(torch.cat(rows))
        drawn.append((2 * (count // 2), draws))
    return drawn


def _judged(scores: Tensor, labels: Tensor, groups: Tensor) -> tuple[float, tuple[float, float]]:
    earned = credit(scores, labels)
    return float(earned.mean()), accuracy_interval(earned, groups)
