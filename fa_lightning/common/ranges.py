"""The numbers that a config may hold: an argument's name means one thing in the whole package, and so has one range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fa_lightning.errors import UserError

LARGEST_SEED = 2**32 - 1
"""What numpy's generators take, and so Lightning's `seed_everything`."""

_COUNT = "1 or more"
_NOT_NEGATIVE = "0 or more"
_POSITIVE = "above 0"
_SHARE = "a share, 0 to 1"
_NOT_ALL = "0 or more and below 1"
_SEED = f"a seed, 0 to {LARGEST_SEED}"
_TESTS = {
    _COUNT: lambda value: value >= 1,
    _NOT_NEGATIVE: lambda value: value >= 0,
    _POSITIVE: lambda value: value > 0,
    _SHARE: lambda value: 0 <= value <= 1,
    _NOT_ALL: lambda value: 0 <= value < 1,
    _SEED: lambda value: 0 <= value <= LARGEST_SEED,
}

RANGES: dict[str, str] = {
    **dict.fromkeys(("dropout", "word_dropout"), _NOT_ALL),
    **dict.fromkeys(("seed", "seeds", "seed_everything", "direction_seed"), _SEED),
    **dict.fromkeys(
        (
            *("batch_size", "eval_batch_size", "live_batch_size", "max_tokens", "max_new_tokens", "tokens"),
            *("shard_examples", "block_rows", "capture_scenarios", "capture_validation", "train_scenarios"),
            *("validation_items", "contrast_scenarios", "texts_per_row", "vocabulary_size", "rank", "alpha", "width"),
            *("hidden_size", "heads", "intermediate_size", "depth", "neighbours", "memory", "candidates", "top"),
            *("resamples", "restarts", "draws", "step", "steps", "label_counts", "ngram", "recited", "shots"),
            *("snippets", "rows", "train_statements", "validation_texts"),
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        (
            *("num_workers", "probe_steps", "search_steps", "live_neutral_texts", "capture_neutral"),
            *("weight_decay", "text_weight", "retain_weight", "latent_weight", "answer_weight", "neutral_weight"),
            *("regression_weight", "decision_weight", "keep", "activation_noise", "ridge", "temperature", "tolerance"),
            *(
                "budget",
                "judgements",
                "neutral_texts",
                "roles",
                "no_role",
                "honest_passes",
                "short_passes",
                "dose",
                "samples",
            ),
        ),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(("learning_rate", "probe_learning_rate", "beta", "magnitudes", "scales", "top_p"), _POSITIVE),
    **dict.fromkeys(
        (
            *("warmup_fraction", "neutral_share", "poor_share", "swap_critical"),
            *("drop_irrelevant", "only_critical", "shuffle_facts", "obedient", "accuracy", "confidence"),
            "least_agreement",
        ),
        _SHARE,
    ),
}
"""By an argument's name what its number must be; those of a list are each held to it."""

MAY_BE_INFINITE = ("decision_weight",)

_OURS = "fa_lightning."
_TRAINER_COUNTS = ("accumulate_grad_batches", "check_val_every_n_epoch")
_LIMITS = ("max_epochs", "max_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches")


def refuse_numbers(config: Mapping[str, Any]) -> None:
    """Refuse a config with a number, of the Trainer's or of a class of this package, that can't be meant.

    Args:
        config: of one stage, as plain values.

    Raises:
        UserError: naming the place, the value and the range.
    """
    trainer = config.get("trainer") or {}
    if trainer.get("overfit_batches"):
        raise UserError(
            f"trainer.overfit_batches is {trainer['overfit_batches']}, but the stages make up their own batches, which "
            "Lightning can't put into another order: set trainer.limit_train_batches instead"
        )
    for name in _TRAINER_COUNTS:
        if trainer.get(name) is not None:
            _check(trainer[name], f"trainer.{name}", _COUNT)
    _refuse_within(config, "", name="", ours=False)


def check_number(name: str, value: float, argument: str) -> None:
    """Refuse a number that an argument can't have.

    Args:
        name: of the argument, one of `RANGES`.
        value: that it got.
        argument: how the user knows it, as `--seed`.

    Raises:
        UserError: naming the place, the value and the range.
    """
    _check(value, argument, RANGES[name])


def refuse_idle(config: Mapping[str, Any]) -> None:
    """Refuse limits of a Trainer under which a stage of an experiment would be done without having done anything.

    Raises:
        UserError: naming the limit.
    """
    for name in _LIMITS:
        value = (config.get("trainer") or {}).get(name)
        if value is not None and value == 0:
            raise UserError(
                f"trainer.{name} is {value:g}, so the stage would count as done with nothing made or judged: give it a "
                "number above 0, or leave it out"
            )


def _refuse_within(value: Any, argument: str, name: str, ours: bool) -> None:
    """Go through a config.

    Args:
        value: what it holds at a place.
        argument: dotted.
        name: of the argument that holds it, also through lists.
        ours: whether the argument is one of a class of this package; a seed is one everywhere.
    """
    if isinstance(value, Mapping):
        # A class may be named alone, as in a list of maps: then it belongs to what the argument is of.
        if "." in str(value.get("class_path", "")):
            ours = str(value["class_path"]).startswith(_OURS)
        for key, inner in value.items():
            _refuse_within(inner, f"{argument}.{key}".lstrip("."), str(key), ours)
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            _refuse_within(inner, f"{argument}.{number}", name, ours)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        wanted = RANGES.get(name)
        if wanted is not None and (ours or wanted == _SEED):
            _check(value, argument, wanted)
        elif math.isnan(value):
            raise UserError(f"{argument} is {value}, but must be a number")


def _check(value: float, argument: str, wanted: str) -> None:
    unbounded = argument.rpartition(".")[2] in MAY_BE_INFINITE and value == math.inf
    if not _TESTS[wanted](value) or not (math.isfinite(value) or unbounded):
        raise UserError(f"{argument} is {value}, but must be {wanted}")
