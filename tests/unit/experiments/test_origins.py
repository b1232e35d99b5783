"""Errors about a value that a base says name the base's file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa_lightning.experiments.origins import Origin, located

OWN, SHARED = Path("own.yaml"), Path("shared.yaml")
LAID = "studies.steering.stages.02_aligned"
ORIGINS = {
    "model.class_path": None,
    "model.init_args.rank": Origin(OWN, "lora.rank"),
    "model.init_args.optimizer.learning_rate": Origin(SHARED, "optimizer.learning_rate"),
    "model.init_args.optimizer.weight_decay": Origin(OWN, f"{LAID}.model.init_args.optimizer.weight_decay"),
    "model.init_args.maps.map": Origin(OWN, "studies.steering.maps.map"),
    "model.init_args.maps.keep": Origin(OWN, "studies.steering.maps.keep"),
    "data.init_args.seed": None,
    "data.init_args.scenarios.init_args.seed": Origin(OWN, "scenarios.init_args.seed"),
    "data.init_args.sites": Origin(OWN, f"{LAID}.data.init_args.sites"),
}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("model.init_args.rank is 0, but", "own.yaml: lora.rank is 0, but (model.init_args.rank)"),
        ("data.init_args.sites is [], but", f"own.yaml: {LAID}.data.init_args.sites is [], but"),
        ("sites is [], but", f"own.yaml: {LAID}.data.init_args.sites is [], but"),
        ("rank is 0", "own.yaml: lora.rank is 0 (model.init_args.rank)"),
        ("maps is empty", "own.yaml: studies.steering.maps is empty (model.init_args.maps)"),
        (
            "model.init_args.maps.init_args.map.class_path is X, but",
            "own.yaml: studies.steering.maps.init_args.map.class_path is X, but "
            "(model.init_args.maps.init_args.map.class_path)",
        ),
        # Said by the study, by two files, or by nobody knows whom.
        ("model.class_path is X", None),
        ("model.init_args.optimizer is X", None),
        ("seed is -1", None),
        ("data.init_args.seed is -1", None),
        ("model.init_args.width is no argument", None),
        ("the config can't be used", None),
        ("'x' is wrong", None),
    ],
)
def test_the_base_is_named_where_it_says_the_value(message: str, told: str | None) -> None:
    assert located(message, ORIGINS) == told


def test_what_the_command_line_sets_is_no_bases() -> None:
    assert located("model.init_args.rank is 0", ORIGINS, ["--model.init_args.rank=0"]) is None
    assert located("maps is 0", ORIGINS, ["--model.init_args.maps+=0"]) is None
    assert located("model.init_args.rank is 0", ORIGINS, ["--model.init_args.ran=0"]) is not None
