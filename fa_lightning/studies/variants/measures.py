"""How faithful a variant is to the definition of its policy."""

from __future__ import annotations

import math
from collections.abc import Collection

from torch import Tensor

from fa_lightning.metrics.cells import Items
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.metrics.intervals import bootstrap_over_groups
from fa_lightning.studies.variants.result import PolicyFidelity


def policy_fidelity(variant: str, policy: str, items: Items, fitted_on: Collection[int]) -> PolicyFidelity:
    """The share of right answers, of all defining scenarios and of the unseen ones.

    Args:
        variant: name of the variant.
        policy: its policy.
        items: of the variant, where `correct` says whether an answer is that of the policy.
        fitted_on: groups of the training scenarios.
    """
    correct, groups = items["correct"].double(), items["group"]
    unseen = [index for index, group in enumerate(groups.tolist()) if group not in fitted_on]
    return PolicyFidelity(
        variant,
        policy,
        share(correct, groups),
        len(correct),
        share(correct[unseen], groups[unseen]),
        len(unseen),
    )


def share(correct: Tensor, groups: Tensor) -> Estimate:
    """The share that is right, with its interval over groups; nan of none.

    Args:
        correct: 1 or 0, (n,) float64.
        groups: of each, (n,).
    """
    mean = correct.mean().item() if len(correct) else math.nan
    return Estimate(mean, bootstrap_over_groups(correct, groups))
