"""Values laid over the stages of an experiment: how they are written, and which stage takes which."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fa_lightning.errors import UserError
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.overrides import read_overrides, refuse_wrong_values, words_by_stage
from fa_lightning.experiments.shipped import config_file
from fa_lightning.experiments.stage import Stage


def stages_of(base: str, study: str) -> list[Stage]:
    return Composition(Chain(config_file("--base", base, "bases"))).stages(study)


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
        (["configs/poser"], "configs/poser is no option of a study"),
        (["--model"], "--model is no option of a study"),
        (["-model.rank", "3"], "-model.rank is no option of a study"),
        (["--model.rank"], "--model.rank has no value: write --model.rank VALUE"),
        (["--model.rank", "--data.seed", "3"], "--model.rank has no value"),
        (["--model.rank", "3", "4"], "4 is no option of a study"),
    ],
)
def test_words_that_are_no_override_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_overrides(words)


def test_each_stage_takes_what_it_has(tmp_path: Path) -> None:
    stages = stages_of("poser", "steering")
    overrides = [("model.init_args.backbone", "b"), ("data.batch_size", "4"), ("data.seed", "3"), ("model.layers", "2")]
    taken = words_by_stage(stages, None, overrides)
    backbone, batch, seed = "--model.init_args.backbone=b", "--data.init_args.batch_size=4", "--data.init_args.seed=3"
    assert taken == {
        "steering/01_backbone": [batch, seed, "--model.init_args.layers=2"],
        "steering/02_aligned": [backbone, batch, seed],
        "steering/03_faking": [backbone, batch, seed],
        "steering/04_steering": [batch, seed],
    }


def test_a_finished_stage_is_not_read_again_without_a_reason(tmp_path: Path) -> None:
    stage = Stage("toy", "01_a", Path("nowhere.yaml"), tmp_path / "01_a", "model: {class_path: Nothing}")
    stage.write("done", {})
    assert words_by_stage([stage], None, []) == {"toy/01_a": []}
    with pytest.raises(UserError, match=r"^nowhere.yaml: "):
        words_by_stage([stage], None, [("model.rank", "1")])
    refuse_wrong_values([stage], None, {"toy/01_a": []})
    for words, remade in ((["--model.rank=1"], []), ([], [stage])):
        with pytest.raises(UserError, match=r"^nowhere.yaml: "):
            refuse_wrong_values([stage], None, {"toy/01_a": words}, remade)


def test_arguments_that_a_trainer_config_brings_are_known(tmp_path: Path) -> None:
    stages = stages_of("small_llm", "steering")[:1]
    laid = tmp_path / "strategy.yaml"
    laid.write_text(yaml.safe_dump({"trainer": {"strategy": {"class_path": "DDPStrategy"}}}))
    override = [("trainer.strategy.init_args.static_graph", "true")]
    assert words_by_stage(stages, laid, override)["steering/02_aligned"] == [
        "--trainer.strategy.init_args.static_graph=true"
    ]
    with pytest.raises(ValueError, match=r"--trainer.strategy.init_args.static_graph: no stage has such an argument"):
        words_by_stage(stages, None, override)


def test_variants_of_a_matrix_take_the_same(tmp_path: Path) -> None:
    stages = stages_of("poser", "variants")
    taken = words_by_stage(stages, None, [("model.init_args.lora.rank", "8")])
    variants = [stage.title for stage in stages if stage.variant]
    assert len(variants) == 18
    assert all(taken[name] == ["--model.init_args.lora.rank=8"] for name in variants)
    assert taken["variants/02_evaluation"] == []
