"""Wrong values through the whole command line: one line that names what is wrong, before anything is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refused_commands import error_of
from toy import CONFIGS, change, change_base, run, write_stage, write_toy

BASE = "embedded.yaml"
ALIGNED = "steering_02_aligned.yaml"
FIT = ("fit", "--base", BASE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("written")
    write_toy(place)
    assert write_stage(place, "steering/02_aligned") == ALIGNED
    return place


@pytest.fixture
def place(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Toy configs to spoil, in a folder where nothing has run."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FA_LIGHTNING_TRACE", raising=False)
    return tmp_path


def line_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a refusal, which leaves nothing behind."""
    capsys.readouterr()
    assert run(*words) == 1
    line = error_of(capsys)
    assert not Path("checkpoints").exists()
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("stage", "field", "value", "told"),
    [
        ("04_steering", "data.init_args.block_rows", 0, "block_rows is 0, but must be 1 or more"),
        (
            "04_steering",
            "data.init_args.seed",
            12345678901234567890,
            "data.init_args.seed is 12345678901234567890, but",
        ),
        (
            "03_faking",
            "data.init_args.scenarios.init_args.seed",
            -1,
            "init_args.seed is -1, but must be a seed, 0 to 42949672",
        ),
        ("02_aligned", "model.init_args.optimizer.learning_rate", "quick", "learning_rate is quick, but must be float"),
        ("02_aligned", "data.init_args.batch_size", 1.5, "data.init_args.batch_size is 1.5, but must be int"),
        (
            "02_aligned",
            "model.init_args.objective.init_args.behaviour",
            "evil",
            "behaviour is evil, but must be one of 'aligned', 'faking'",
        ),
        ("02_aligned", "model.init_args.lerning", 1, "model.init_args.lerning is no argument of fa_lightning.trai"),
        (
            "02_aligned",
            "model.class_path",
            "BehaviourModul",
            "model.class_path is BehaviourModul, but no class is called",
        ),
        (
            "02_aligned",
            "model.class_path",
            "fa_lightning.nothing.X",
            "model.class_path is fa_lightning.nothing.X, but mo",
        ),
        (
            "02_aligned",
            "data.init_args.scenarios.class_path",
            "a.nope",
            "data.init_args.scenarios.class_path is a.nope, ",
        ),
        ("02_aligned", "model.class_path", "fa_lightning.training.data.ScenarioDataModule", "no"),
        ("04_steering", "model.init_args.regressors", [], "regressors is empty, but there must be at least one map"),
        (
            "04_steering",
            "model.init_args.regressors",
            [{"map": "Spline"}],
            "regressors.init_args.map.class_path is Spline, but no class is called so",
        ),
        ("02_aligned", "trainer.max_epoch", 1, "trainer.max_epoch is no argument"),
        (
            "02_aligned",
            "trainer.callbacks",
            [{"class_path": "NoSuchThing"}],
            "class_path is NoSuchThing, but no class is",
        ),
        ("02_aligned", "data.init_args.batch_size", 0, "data.init_args.batch_size is 0, but must be 1 or more"),
        ("02_aligned", "data.init_args.eval_batch_size", -1, "eval_batch_size is -1, but must be 1 or more"),
        (
            "02_aligned",
            "model.init_args.optimizer.learning_rate",
            float("nan"),
            "learning_rate is nan, but must be above 0",
        ),
        (
            "02_aligned",
            "model.init_args.lora.dropout",
            1.5,
            "model.init_args.lora.dropout is 1.5, but must be 0 or more and",
        ),
        ("02_aligned", "model.init_args.lora.rank", 0, "model.init_args.lora.rank is 0, but must be 1 or more"),
        ("01_backbone", "data.init_args.curriculum.roles", -1.0, "roles is -1.0, but must be 0 or more"),
        (
            "04_steering",
            "model.init_args.regressors",
            [{"map": {"class_path": "Affine", "init_args": {"ridge": -1.0}}}],
            "ridge is -1.0, but",
        ),
        (
            "04_steering",
            "model.init_args.regressors",
            [{"map": {"class_path": "Affine", "init_args": {"rank": 4}}}],
            "regressors.init_args.map.init_args.rank is no argument of",
        ),
        ("02_aligned", "trainer.overfit_batches", 2, "trainer.overfit_batches is 2, but the stages make up their own"),
        ("02_aligned", "trainer.accumulate_grad_batches", 0, "accumulate_grad_batches is 0, but must be 1 or more"),
        ("02_aligned", "trainer.max_epochs", 0, "trainer.max_epochs is 0, so the stage would count as done with nothi"),
        (
            "04_steering",
            "trainer.limit_test_batches",
            0,
            "limit_test_batches is 0, so the stage would",
        ),
        (
            "02_aligned",
            "trainer.gradient_clip_val",
            float("nan"),
            "clip_val is nan, but must be a number",
        ),
        ("01_backbone", "model.init_args.layers", 0, "layers is 0, but must be 1 or more"),
        (
            "01_backbone",
            "model.init_args.heads",
            3,
            "hidden_size is 16 and heads 3, but each head needs an even number",
        ),
        ("04_steering", "data.init_args.sites", [], "sites is [], but must be 1 or more layers, a list of site names"),
        (
            "02_aligned",
            "model.init_args.optimizer",
            None,
            "optimizer is null, but must be a mapping: leave it out, or set",
        ),
        ("02_aligned", "model.init_args.backbone", None, "backbone is null, but must be"),
        ("02_aligned", "data.init_args.neutral_share", None, "neutral_share is null, but must be float: leave it out"),
        ("02_aligned", "data.init_args.kept", None, "kept is null, but must be neutral or chat: leave it out, or wr"),
        (
            "01_backbone",
            "data.init_args.curriculum",
            None,
            "curriculum is null, but must be a mapping: leave it out, or",
        ),
    ],
)
def test_a_wrong_value_is_told_with_its_file_and_place(
    place: Path, capsys: pytest.CaptureFixture[str], stage: str, field: str, value: Any, told: str
) -> None:
    change(place, f"steering/{stage}", field, value)
    line = line_of(capsys, *FIT)
    assert line.startswith(f"{BASE}: studies.steering.stages.{stage}.{field.partition('.')[0]}")
    assert told in line


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("studies.steering.stages.02_aligned.modle", "modle is no argument"),
        ("studies.steering.stages.02_alined", "02_alined is no stage; steering has 01_backbone, 02_aligned"),
        ("twins.faking.epoch", "twins.faking.epoch is without effect; did you mean epochs?"),
        ("lora.alfa", "lora.alfa is without effect; did you mean alpha?"),
        ("studies.steerng.epochs", "studies.steerng is without effect; did you mean steering?"),
        ("studies.steering.epoch", "studies.steering.epoch is without effect; did you mean epochs?"),
        ("batchsize", "has the key 'batchsize', which no base has; did you mean batch_size?"),
        ("extends", "extends 1 is neither a file nor a shipped name"),
    ],
)
def test_a_key_that_no_base_has_is_told_with_a_close_one(
    place: Path, capsys: pytest.CaptureFixture[str], field: str, told: str
) -> None:
    change_base(place, field, 1)
    line = line_of(capsys, *FIT)
    assert line.startswith(BASE)
    assert told in line


def test_a_wrong_value_of_the_last_stage_is_told_before_the_first_one_runs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(place, "steering/04_steering", "data.init_args.block_rows", 0)
    assert line_of(capsys, *FIT) == (
        f"{BASE}: studies.steering.stages.04_steering.data.init_args.block_rows is 0, but must be 1 or more"
    )


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("batch_size", 0, f"{BASE}: batch_size is 0, but must be 1 or more (data.init_args.batch_size)"),
        ("lora.rank", 0, f"{BASE}: lora.rank is 0, but must be 1 or more (model.init_args.lora.rank)"),
        ("optimizer", None, f"{BASE}: optimizer is null, but must be a mapping, as in configs/defaults.yaml: leave it"),
        ("twins.aligned.epochs", 0, f"{BASE}: twins.aligned.epochs is 0, so the stage would count as done with noth"),
    ],
)
def test_a_wrong_value_that_stages_refer_to_is_told_with_the_bases_key(
    place: Path, capsys: pytest.CaptureFixture[str], field: str, value: Any, told: str
) -> None:
    change_base(place, field, value)
    assert line_of(capsys, *FIT).startswith(told)


def test_a_stage_without_a_model_is_told_as_such(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(place, "steering/02_aligned", "model", None)
    assert line_of(capsys, *FIT).startswith(
        f"{BASE}: studies.steering.stages.02_aligned.model is missing or null, but must be a class_path with its"
    )


def test_a_wrong_value_of_the_command_line_is_not_put_down_to_the_base(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line_of(capsys, *FIT, "--model.lora.rank", "0") == (
        f"{CONFIGS}/studies/steering/02_aligned.yaml: model.init_args.lora.rank is 0, but must be 1 or more"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trainer.devices", "two"], "should be an int > 0"),
        (["--trainer.strategy", "nope"], "invalid strategy name"),
        (["--trainer.accelerator", "nope"], "invalid accelerator name"),
        (["--trainer.num_nodes", "0"], "`num_nodes` must be a positive integer, but got 0"),
        (["--trainer.precision", "x"], "trainer.precision is x, but must be int or one of 'transformer-engine'"),
        (["--seed", "12345678901234567890"], "seed is 12345678901234567890, but must be a seed, 0 to"),
        (["--seed", "-1"], "seed is -1"),
        (["--seeds", "0,-1"], "seed is -1"),
        (["--trainer", "nofile.yaml"], "--trainer nofile.yaml is no file: give the path of a YAML file"),
        (["--trainer", "gpus"], "--trainer gpus is neither a file nor a shipped name; did you mean gpu?"),
        (["--base", "nofile.yaml"], "--base nofile.yaml is no file: give the path of a YAML file"),
        (["--base", "embeded"], "--base embeded is neither a file nor a shipped name; did you mean embedded?"),
        (["steering", "--only", "02_alined"], "--only 02_alined: steering has no such stage; it has steering/01_backb"),
        (["--model.lernrate", "1"], "such an argument; did you mean --model.optimizer.learning_rate"),
        (
            ["--model.optimizer", "null"],
            "model.init_args.optimizer is null, but must be a mapping: leave it out, or set",
        ),
        (["stering"], "'stering' is no study; did you mean steering?"),
    ],
)
def test_a_wrong_word_of_the_command_line_is_told_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert told in line_of(capsys, *FIT, *words)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_text(""), " is empty: give a YAML file that maps"),
        (lambda path: path.write_text("- a\n- b"), " holds a list"),
        (lambda path: path.write_text("hello"), " holds a str"),
        (lambda path: path.write_text("a: 1\nb: [1\nc: 2"), " is no valid YAML: "),
        (lambda path: path.write_bytes(b"a: \xff"), ", line 1 is no text in UTF-8"),
        (lambda path: (path.unlink(), path.mkdir()), " is no file"),
    ],
)
@pytest.mark.parametrize(("words", "file"), [(FIT, BASE), (("fit", "--config", ALIGNED), ALIGNED)])
def test_a_file_that_is_no_config_is_named(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], Any],
    told: str,
    words: tuple[str, ...],
    file: str,
) -> None:
    spoil(place / file)
    assert line_of(capsys, *words).removeprefix("--base ").startswith(f"{file}{told}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ckpt_path", "nofile"], "--ckpt_path nofile does not exist"),
        (["--ckpt_path", "best"], "--ckpt_path is best, but this run has made no checkpoint yet"),
        (["--ckpt_path", ALIGNED], f"--ckpt_path {ALIGNED} is no checkpoint"),
        (["--seed_everything", "4294967296"], "seed_everything is 4294967296, but must be a seed, 0 to 4294967295"),
        (["--nope=3"], "unrecognized arguments: --nope=3"),
        (["--model.nope=3"], "model.init_args.nope is no argument of fa_lightning.training.module.AdapterModule"),
        (["--model.optimizer=null"], "model.init_args.optimizer is null, but must be a mapping: leave it out, or set"),
        (["--config", "nofile.yaml"], "nofile.yaml is no file: give the path of one"),
    ],
)
def test_one_stage_alone_tells_it_alike(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert told in line_of(capsys, "validate", "--config", ALIGNED, *words)
