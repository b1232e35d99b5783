"""The best of many detectors, judged on pairs that had no say in the choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fa_lightning.studies.detection.pairs import Pair


def credit_of_best(credits: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """What the best detector earns for each pair, chosen on twins that share no variant with that pair (cross-fitting).

    The highest of many accuracies is an optimistic number where it was chosen on the pairs that it is told of. Where
    several detectors are equally good on the others, the pair earns their mean, as if one of them were drawn.

    Args:
        credits: of each pair by each detector, (pairs, detectors), 0 to 1.
        pairs: of any kind, whose faker is known; twins choose.

    Returns:
        (pairs,) float64; nan where no twins are left to choose on.
    """
    models = [{pair.one.condition.variant, pair.other.condition.variant} for pair in pairs]
    choosing = [number for number, pair in enumerate(pairs) if pair.kind == "twins"]
    earned = torch.full((len(pairs),), torch.nan, dtype=torch.float64)
    for number, own in enumerate(models):
        others = [other for other in choosing if models[other].isdisjoint(own)]
        if others:
            means = credits[others].mean(dim=0)
            # Sums of halves are exact up to their last digits.
            earned[number] = credits[number, means > means.max() - 1e-9].mean()
    return earned
