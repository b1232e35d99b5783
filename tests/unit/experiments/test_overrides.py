"""Values laid over the stages of an experiment: how they are written, and which stage takes which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fa_lightning.errors import UserError
from fa_lightning.experiments.overrides import _place, read_overrides, refuse_wrong_values, words_by_stage
from fa_lightning.experiments.stage import Stage, find_stages

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_values_are_read_however_they_are_written() -> None:
    words = ["--model.init_args.backbone", "a/b", "--data.init_args.seed=-1", "--trainer.max_epochs", "-1"]
    words += ["--model.init_args.target_modules", "[q_proj, v_proj]", "--a.b=c=d", "--a.b="]
    assert read_overrides(words) == [
        ("model.init_args.backbone", "a/b"),
        ("data.init_args.seed", "-1"),
        ("trainer.max_epochs", "-1"),
        ("model.init_args.target_modules", "[q_proj, v_proj]"),
        ("a.b", "c=d"),
        ("a.b", ""),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["configs/poser"], "configs/poser is no option of an experiment"),
        (["--model"], "--model is no option of an experiment"),
        (["-model.rank", "3"], "-model.rank is no option of an experiment"),
        (["--model.rank"], "--model.rank has no value: write --model.rank VALUE"),
        (["--model.rank", "--data.seed", "3"], "--model.rank has no value"),
        (["--model.rank", "3", "4"], "4 is no option of an experiment"),
    ],
)
def test_words_that_are_no_override_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_overrides(words)


NESTED: dict[str, Any] = {
    "trainer": {"max_epochs": 3, "callbacks": [{"class_path": "C"}], "strategy": "auto"},
    "model": {"class_path": "M", "init_args": {"rank": 8, "backbone": None}},
    "data": {
        "class_path": "D",
        "init_args": {"scenarios": {"class_path": "S", "init_args": {"root": None}}, "curriculum": {"roles": 1.5}},
    },
}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.init_args.rank", "model.init_args.rank"),
        ("model.rank", "model.init_args.rank"),
        ("model.backbone", "model.init_args.backbone"),
        ("model.class_path", "model.class_path"),
        ("data.scenarios.root", "data.init_args.scenarios.init_args.root"),
        ("data.init_args.curriculum.roles", "data.init_args.curriculum.roles"),
        ("trainer.callbacks+", "trainer.callbacks+"),
        ("trainer.max_epochs", "trainer.max_epochs"),
        ("model.ranks", None),
        ("model.init_args.rank.more", None),
        ("trainer.strategy.find", None),
        ("optimizer.lr", None),
    ],
)
def test_an_argument_is_found_where_it_is(name: str, place: str | None) -> None:
    assert _place(NESTED, name) == place


def test_each_stage_takes_what_it_has(tmp_path: Path) -> None:
    stages = find_stages(CONFIGS / "poser", tmp_path)
    overrides = [("model.init_args.backbone", "b"), ("data.batch_size", "4"), ("data.seed", "3"), ("model.layers", "2")]
    taken = words_by_stage(stages, None, overrides)
    backbone, batch, seed = "--model.init_args.backbone=b", "--data.init_args.batch_size=4", "--data.init_args.seed=3"
    assert taken == {
        "01_backbone": [batch, seed, "--model.init_args.layers=2"],
        "02_aligned": [backbone, batch, seed],
        "03_faking": [backbone, batch, seed],
        "04_steering": [batch, seed],
    }


def test_a_finished_stage_is_not_read_again_without_a_reason(tmp_path: Path) -> None:
    stage = Stage("01_a", Path("nowhere.yaml"), tmp_path / "01_a")
    stage.write("done", {})
    assert words_by_stage([stage], None, []) == {"01_a": []}
    with pytest.raises(UserError, match=r"^nowhere.yaml: "):
        words_by_stage([stage], None, [("model.rank", "1")])
    refuse_wrong_values([stage], None, {"01_a": []})
    for words, remade in ((["--model.rank=1"], []), ([], [stage])):
        with pytest.raises(UserError, match=r"^nowhere.yaml: "):
            refuse_wrong_values([stage], None, {"01_a": words}, remade)


def test_arguments_that_a_trainer_config_brings_are_known(tmp_path: Path) -> None:
    stages = find_stages(CONFIGS / "small_llm", tmp_path)[:1]
    laid = tmp_path / "strategy.yaml"
    laid.write_text(yaml.safe_dump({"trainer": {"strategy": {"class_path": "DDPStrategy"}}}))
    override = [("trainer.strategy.init_args.static_graph", "true")]
    assert words_by_stage(stages, laid, override)["01_aligned"] == ["--trainer.strategy.init_args.static_graph=true"]
    with pytest.raises(
        ValueError, match=r"--trainer.strategy.init_args.static_graph: no stage of .* has such an argument"
    ):
        words_by_stage(stages, None, override)


def test_variants_of_a_matrix_take_the_same(tmp_path: Path) -> None:
    stages = find_stages(CONFIGS / "poser_variants", tmp_path)
    taken = words_by_stage(stages, None, [("model.init_args.rank", "8")])
    variants = [stage.name for stage in stages if stage.variant]
    assert len(variants) == 18
    assert all(taken[name] == ["--model.init_args.rank=8"] for name in variants)
    assert taken["02_evaluation"] == []
