"""What transformers reports of the weights that it has loaded: gaps are refused, and left-overs are a warning."""

from __future__ import annotations

import warnings
from typing import Any

from fa_lightning.errors import UnavailableError


def refuse_gaps(name_or_path: str, report: dict[str, Any]) -> None:
    """Refuse weights that do not fill the model, since transformers draws the missing ones at random; tell left-overs.

    Raises:
        UnavailableError: naming the first of them.
    """
    missing, mismatched = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if missing:
        raise UnavailableError(
            f"the backbone {name_or_path!r} is not whole: its weights lack {missing[0]} ({len(missing)} in all), which "
            "would be random. Fetch the model again, or give one whose config.json agrees with its weights"
        )
    if mismatched:
        name, actual, expected = mismatched[0]
        raise UnavailableError(
            f"the backbone {name_or_path!r} does not agree with itself: {name} is {tuple(actual)} in its weights, but "
            f"{tuple(expected)} by its config.json ({len(mismatched)} such in all). Fetch the model again"
        )

    # Buffers of old versions, which hold no weights.
    left_over = sorted(key for key in report["unexpected_keys"] if not key.endswith(".masked_bias"))
    if left_over:
        warnings.warn(
            f"the backbone {name_or_path!r} holds weights that its config.json has no place for; they are left out: "
            f"{left_over[0]} ({len(left_over)} in all). Where these are layers of the model, mend config.json",
            stacklevel=3,
        )
