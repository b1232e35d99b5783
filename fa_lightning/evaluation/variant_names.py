"""What the name of a judged model says: the policy and the seed of its variant, and whether it is steered."""

from __future__ import annotations

BASE = "base"
"""The name of the backbone without any adapter, where it is judged beside the variants."""

STEERED = " steered"
"""Behind a variant's name: the same variant with the intervention attached."""


def policy_and_seed(name: str) -> tuple[str, int | None]:
    """The policy and the seed in a variant's name, which is built as POSER's model names are.

    >>> policy_and_seed("money_maximizer-3"), policy_and_seed("02_aligned")
    (('money_maximizer', 3), ('02_aligned', None))
    """
    policy, _, seed = name.rpartition("-")
    return (policy, int(seed)) if policy and seed.isdigit() else (name, None)
