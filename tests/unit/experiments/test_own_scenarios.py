"""`--scenarios FILE`: a file's scenarios in the place of a base's own, in every stage of every study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from own_scenarios import own_rows, write_jsonl
from written_scenarios import prompt_rows

from fa_lightning.errors import UserError
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.own_scenarios import FILE_SOURCE, column_of, refuse_written_answers
from fa_lightning.experiments.runner import run_study
from fa_lightning.experiments.shipped import config_file

STUDIES = ("steering", "lab", "variants", "mitigation", "detection", "cures", "leakage", "probes")


def composition(base: str, **options: Any) -> Composition:
    path = Path(base) if base.endswith(".yaml") else config_file("--base", base, "bases")
    return Composition(Chain(path, scenarios="data/mine.csv", **options))


@pytest.mark.parametrize("base", ["embedded", "poser", "smollm2"])
def test_nothing_of_the_base_s_own_source_is_left(base: str) -> None:
    composed = composition(base, columns=(("facts", "situation"),))
    for study in STUDIES:
        for stage in composed.stages(study):
            assert "PoserScenarios" not in stage.config
            assert "EmbeddedScenarios" not in stage.config
            assert "policy" not in stage.config
    (aligned,) = (stage for stage in composed.stages("steering") if stage.is_called("02_aligned"))
    source = yaml.safe_load(aligned.config)["data"]["init_args"]["scenarios"]
    assert source["class_path"] == "fa_lightning.scenarios.files.FileScenarios"
    assert source["init_args"]["path"] == "data/mine.csv"
    assert source["init_args"]["columns"] == {"facts": "situation"}
    assert aligned.folder == Path(f"checkpoints/{base}@mine/seed0/steering/02_aligned")


def test_it_goes_together_with_another_model() -> None:
    chain = composition("smollm2", backbone="org/Model-1.5B").chain
    assert chain.label == "smollm2@Model-1.5B@mine"


def test_a_base_of_one_s_own_keeps_what_is_not_about_scenarios(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "extends: poser\nbatch_size: 2\nvariants: {policy: [saint, genie], seed: [0, 1]}\ntwin: genie\n"
        "scenarios: {init_args: {faking_policy: reward_maximizer}}\n"
    )
    variants = [stage.variant for stage in composition(str(own)).stages("variants")]
    assert variants == [f"{behaviour}-{seed}" for behaviour in ("aligned", "faking") for seed in (1, 2, 3)] + [""]
    values = composition(str(own)).base.values
    assert (values.batch_size, values.twin) == (2, None)


def test_what_a_study_goes_without_is_said() -> None:
    base = composition("smollm2").base
    noted = {study for study in STUDIES if base.note(study)}
    assert noted == {"lab", "variants", "detection"}
    assert base.note("lab").startswith("a file has one pair of behaviours")
    assert Composition(Chain(config_file("--base", "smollm2", "bases"))).base.note("lab") == ""
    assert [stage.name for stage in composition("smollm2").stages("lab")] == ["01_faking_again", "03_lab"]


def test_a_column_needs_its_field() -> None:
    with pytest.raises(UserError, match=r"--column situation: give a field and the column .* as facts=situation"):
        column_of("situation")


def test_studies_that_ask_for_letters_refuse_written_answers_before_anything_runs(tmp_path: Path) -> None:
    written = write_jsonl(tmp_path / "written.jsonl", prompt_rows(4))
    for study in ("lab", "variants", "mitigation", "detection", "cures", "leakage", "probes"):
        chain = Chain(config_file("--base", "embedded", "bases"), scenarios=written)
        with pytest.raises(
            UserError, match=rf"^{study} asks for letters, but .*written.jsonl holds prompts with two ans"
        ):
            run_study(study, chain)
    source = {"class_path": FILE_SOURCE, "init_args": {"path": written, "columns": {}, "general": None}}
    refuse_written_answers(["steering", "statements"], source)
    letters = write_jsonl(tmp_path / "letters.jsonl", own_rows(4))
    refuse_written_answers(["detection"], {**source, "init_args": {"path": letters}})
    refuse_written_answers(["detection"], {"class_path": "your.Source", "init_args": {}})


def test_the_name_of_the_source_is_what_the_shipped_config_says() -> None:
    assert composition("embedded").base.scenarios["class_path"] == FILE_SOURCE
