"""`--scenarios FILE`: a file's scenarios in the place of a base's own, in every stage of every study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_server import chat_server
from own_scenarios import own_rows, write_jsonl
from written_scenarios import prompt_rows

from fa_lightning.errors import UserError
from fa_lightning.experiments import runner
from fa_lightning.experiments.base import read_base
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


def test_what_a_base_says_of_other_scenarios_is_said_to_give_way(tmp_path: Path) -> None:
    own, over = tmp_path / "own.yaml", tmp_path / "over.yaml"
    own.write_text("extends: poser\nbatch_size: 2\nscenarios: {init_args: {faking_policy: saint, seed: 3}}\n")
    over.write_text("extends: own.yaml\ntwin: genie\n")
    assert composition(str(over)).base.gives_way == (
        f"{own}, {over}: scenarios.init_args.faking_policy, scenarios.init_args.seed, twin speak of the base's own "
        "scenarios, and do not hold for data/mine.csv"
    )
    own.write_text("extends: file_scenarios\nscenarios: {init_args: {path: a.csv, test: 0.3}}\nbackbone: {name: m}\n")
    assert composition(str(own)).base.gives_way.endswith(
        "scenarios.init_args.path, scenarios.init_args.test speak of the base's own scenarios, and do not hold for "
        "data/mine.csv; to keep them, write scenarios.init_args.path: data/mine.csv there"
    )
    assert read_base(Chain(own)).gives_way == ""
    assert composition("poser").base.gives_way == ""
    own.write_text("extends: poser\nbatch_size: 2\n")
    assert composition(str(own)).base.gives_way == ""


def test_a_run_says_what_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    scenarios = write_jsonl(tmp_path / "mine.jsonl", own_rows())
    Path("own.yaml").write_text("extends: embedded\nscenarios: {init_args: {seed: 3}}\n")
    monkeypatch.setattr(runner, "_run_all", stop_here)
    with pytest.raises(Stopped):
        run_study("steering", Chain(Path("own.yaml"), scenarios=scenarios))
    assert "own.yaml: scenarios.init_args.seed speak of the base's own" in " ".join(capsys.readouterr().out.split())


def test_a_judge_that_is_not_there_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenarios = write_jsonl(tmp_path / "mine.jsonl", own_rows())
    monkeypatch.setattr(runner, "_run_all", stop_here)
    with chat_server(lambda message, number: "good") as server:
        judge = {
            "class_path": "fa_lightning.evaluation.asking_judges.AddressJudge",
            "init_args": {"rubric": "Honest is good.", "address": server.address, "model": "m", "retries": 0},
        }
        Path("own.yaml").write_text(yaml.safe_dump({"extends": "embedded", "judge": judge}))
        chain = Chain(Path("own.yaml"), scenarios=scenarios)
        with pytest.raises(Stopped):
            run_study("steering", chain)
        assert len(server.asked) == 1
    with pytest.raises(UserError, match=r"the model 'm' at .* can't be asked: .*refused"):
        run_study("steering", chain)


class Stopped(Exception):
    """The run has come to its first stage."""


def stop_here(*_: Any) -> None:
    raise Stopped
