"""Numbers that an argument can't have, by its name, wherever it is in a config."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fa_lightning.common.ranges import refuse_idle, refuse_numbers
from fa_lightning.errors import UserError


def stage(**arguments: Any) -> dict[str, Any]:
    return {"model": {"class_path": "fa_lightning.x.Module", "init_args": arguments}, "trainer": {"max_epochs": -1}}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"batch_size": 0}, "model.init_args.batch_size is 0, but must be 1 or more"),
        ({"lora": {"rank": 0}}, "model.init_args.lora.rank is 0, but must be 1 or more"),
        ({"rank": True, "width": -3}, "model.init_args.width is -3, but must be 1 or more"),
        ({"learning_rate": math.nan}, "model.init_args.learning_rate is nan, but must be above 0"),
        ({"learning_rate": math.inf}, "model.init_args.learning_rate is inf, but must be above 0"),
        ({"learning_rate": 0.0}, "model.init_args.learning_rate is 0.0, but must be above 0"),
        ({"weight_decay": -0.1}, "model.init_args.weight_decay is -0.1, but must be 0 or more"),
        ({"dropout": 1.0}, "model.init_args.dropout is 1.0, but must be 0 or more and below 1"),
        ({"warmup_fraction": 1.01}, "model.init_args.warmup_fraction is 1.01, but must be a share, 0 to 1"),
        ({"magnitudes": [0.1, 0.0]}, "model.init_args.magnitudes.1 is 0.0, but must be above 0"),
        (
            {"fits": [{"map": {"class_path": "Affine", "init_args": {"ridge": -1}}}]},
            "model.init_args.fits.0.map.init_args.ridge is -1, but must be 0 or more",
        ),
        ({"seed": 2**32}, "model.init_args.seed is 4294967296, but must be a seed, 0 to 4294967295"),
        ({"any_number": math.nan}, "model.init_args.any_number is nan, but must be a number"),
        ({"other": {"class_path": "theirs.C", "init_args": {"seed": -1}}}, "other.init_args.seed is -1"),
    ],
)
def test_a_number_out_of_range_is_named_with_its_place(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        refuse_numbers(stage(**arguments))
    assert told in str(refused.value)


def test_what_may_be_is_let_through() -> None:
    refuse_numbers(
        stage(
            decision_weight=math.inf, keep=8, batch_size=1, seed=2**32 - 1, warmup_fraction=1, layers=None, unknown=-5
        )
    )
    # Another package may give a name another meaning, such as -1 for "as large as it goes".
    refuse_numbers({"callbacks": [{"class_path": "theirs.Callback", "init_args": {"batch_size": -1}}]})


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ({"overfit_batches": 0.5}, "trainer.overfit_batches is 0.5, but the stages make up their own batches"),
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches is 0, but must be 1 or more"),
        ({"check_val_every_n_epoch": -1}, "trainer.check_val_every_n_epoch is -1, but must be 1 or more"),
    ],
)
def test_counts_of_the_trainer_by_which_it_would_divide(trainer: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        refuse_numbers({"trainer": trainer})
    refuse_numbers({"trainer": {"overfit_batches": 0.0, "check_val_every_n_epoch": None}})


@pytest.mark.parametrize("name", ["max_epochs", "max_steps", "limit_train_batches", "limit_test_batches"])
def test_a_stage_that_would_do_nothing_is_not_begun(name: str) -> None:
    with pytest.raises(UserError, match=f"trainer.{name} is 0, so the stage would count as done with nothing"):
        refuse_idle({"trainer": {name: 0}})
    refuse_idle({"trainer": {name: 1}})
    refuse_idle({"trainer": {name: None}})
