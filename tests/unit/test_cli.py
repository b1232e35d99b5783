"""The command line's door: what is answered at once, what is passed on, and how errors are told."""

from __future__ import annotations

import errno
import importlib
import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from refused_commands import error_of

from fa_lightning import cli
from fa_lightning.errors import UserError
from fa_lightning.experiments import command as study_command
from fa_lightning.experiments import lightning_cli
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.shipped import config_file, names_in, study_folder

HEAVY = ("torch", "lightning", "transformers", "peft", "jsonargparse", "matplotlib", "sklearn", "tensorboard")
COMMANDS = ("fit", "validate", "test", "config", "generate", "serve", "report", "template")


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["fitt"]])
def test_help_and_mistakes_are_answered_without_loading_anything_heavy(words: list[str]) -> None:
    code = (
        "import sys; from fa_lightning.cli import main; status = main(sys.argv[1:]); "
        f"print('loaded:', sorted(set({HEAVY}) & set(sys.modules)), 'status:', status)"
    )
    said = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout
    assert said.strip().endswith(f"loaded: [] status: {int(words == ['fitt'])}")


def test_the_top_help_explains_every_command_study_and_base(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (*COMMANDS, *names_in("studies"), *names_in("bases"), "POSER_ROOT"):
        assert word in shown


def test_an_unknown_command_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: 'trian' is no command")
    for command in COMMANDS:
        assert command in message


def test_fit_help_explains_a_study_and_names_the_plain_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["fit", "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--base", "--backbone", "--seeds", "--trainer", "--refit", "--only", "--config FILE"):
        assert option in shown
    with pytest.raises(SystemExit):
        cli.main(["fit", "--help", "--config", "a.yaml"])
    assert "--trainer.max_epochs" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config", "generate", "serve", "report", "template", "vector"])
def test_the_other_commands_have_help_of_their_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    assert f"python -m fa_lightning {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ([], False),
        (["lab", "--base", "poser"], False),
        (["--base=mine.yaml", "--refit", "02_aligned"], False),
        (["--seed", "3", "--trainer", "cpu"], False),
        (["--config", "one.yaml"], True),
        (["--config=one.yaml", "--trainer.max_epochs", "3"], True),
        (["-c", "one.yaml"], True),
        (["--model.init_args.rank", "4"], False),
        (["--trainer.max_epochs", "1"], False),
        (["--model", "x", "--data=x"], True),
        (["--help"], False),
        (["--print_config"], True),
        (["--model.help", "AdapterModule"], True),
    ],
)
def test_a_fit_is_a_study_unless_it_names_its_own_config(
    words: list[str], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(study_command, "fit", lambda _: started.append("study") or 0)
    monkeypatch.setattr(study_command, "refuse_stage_files", lambda _: None)
    monkeypatch.setattr(lightning_cli, "lightning_cli", lambda _: started.append("plain"))
    assert cli.main(["fit", *words]) == 0
    assert started == ["plain" if plain else "study"]


def test_options_of_a_study_reach_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    from fa_lightning.experiments import runner

    calls = []
    monkeypatch.setattr(runner, "run_study", lambda *arguments: calls.append(arguments))
    words = ["lab", "--base", "poser", "--trainer", "cpu", "--refit", "02_b", "--refit", "03_c", "--seeds", "7,8"]
    words += ["--only", "03_lab", "--backbone", "b/c", "--trainer.max_epochs=1", "--data.init_args.seed", "-1"]
    overrides = [("trainer.max_epochs", "1"), ("data.init_args.seed", "-1")]
    assert cli.main(["fit", *words]) == 0
    assert cli.main(["fit"]) == 0
    poser, cpu = config_file("--base", "poser", "bases"), config_file("--trainer", "cpu", "trainer")
    for call, seed in zip(calls[:2], (7, 8), strict=True):
        assert call == ("lab", Chain(poser, seed, "b/c"), cpu, ["02_b", "03_c"], ["03_lab"], overrides)
    embedded = config_file("--base", "embedded", "bases")
    assert calls[2] == ("steering", Chain(embedded), None, [], [], [])
    assert cli.main(["fit", "--scenarios", "mine.csv", "--column", "facts=the situation"]) == 0
    assert calls[3][1] == Chain(embedded, scenarios="mine.csv", columns=(("facts", "the situation"),))
    assert cli.main(["fit", "--column", "facts=situation"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--basse", "x"], "fit has no option --basse; did you mean --base?"),
        (["mine.csv", "--base", "poser", "lab"], "fit can't place the word 'lab'"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--seeds", "1,x"], "argument --seeds: '1,x' is no list of seeds: give numbers, as 0,1,2"),
        (["--seed", "1", "--seeds", "1"], "--seed and --seeds are both given"),
    ],
)
def test_a_wrong_option_of_a_study_is_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: fit")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["data", "check"], ["data", "label"], ["report"], ["export"], ["generate"], ["serve"], ["vector"]]
)
def test_every_command_refuses_a_wrong_word_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--nonsense", "x"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words[0]}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", "embeded"], "--base embeded is neither a file nor a shipped name; did you mean embedded?"),
        (["--base", "mine.yaml"], "--base mine.yaml is no file"),
        (["stering"], "'stering' is no study; did you mean steering?"),
        (["--trainer", "gpus"], "--trainer gpus is neither a file nor a shipped name; did you mean gpu?"),
        (["--seed", "-1"], "--seed is -1, but must be a seed"),
    ],
)
def test_an_unknown_name_is_told_with_a_close_one(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fit", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_stage_of_a_study_is_no_config_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    path = study_folder("variants") / "01_variants.yaml"
    assert cli.main(["fit", "--config", str(path)]) == 1
    message = capsys.readouterr().err
    assert f"--config {path} is a stage of the study variants" in message
    assert "config variants --base BASE 01_variants" in message


def test_config_prints_a_whole_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "variants", "--base", "embedded", "01_variants/faking-3"]) == 0
    shown = capsys.readouterr().out
    assert "${" not in shown
    assert yaml.safe_load(shown)["seed_everything"] == 3
    assert cli.main(["config", "variants", "--base", "embedded", "01_variants/faking-9"]) == 1
    assert "is no stage of variants on this base" in capsys.readouterr().err


PLANTED_DATA = ["--data", "planted.PlantedData"]
QUICK = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning writes the config of a fit into the working folder."""
    monkeypatch.chdir(tmp_path)


def fit_planted(fault: str, *words: str) -> int:
    return cli.main(["fit", "--model", "planted.Planted", "--model.fault", fault, *words, *PLANTED_DATA, *QUICK])


@pytest.mark.parametrize(("fault", "kind"), [("value", ValueError), ("type", TypeError)])
@pytest.mark.parametrize("place", ["step", "constructor"])
def test_a_fault_of_ours_shows_its_trace_wherever_it_is(
    fault: str, kind: type[Exception], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planted.Planted.__module__", "planted")
    # A constructor is ours by the package of its file; what else a config names is its user's.
    monkeypatch.setitem(vars(importlib.import_module("planted")), "__name__", "fa_lightning.planted")
    with pytest.raises(kind) as raised:
        fit_planted(fault, "--model.constructor", str(place == "constructor").lower())
    assert f"planted {fault}" in str(raised.value)
    assert not isinstance(raised.value, UserError)


@pytest.mark.parametrize("constructor", ["false", "true"])
def test_what_a_user_can_mend_is_one_line_and_a_trace_when_asked_for(
    constructor: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FA_LIGHTNING_TRACE", raising=False)
    assert fit_planted("user", "--model.constructor", constructor) == 1
    assert error_of(capsys) == "error: planted user"
    monkeypatch.setenv("FA_LIGHTNING_TRACE", "1")
    with pytest.raises(UserError, match="planted user"):
        fit_planted("user", "--model.constructor", constructor)


@pytest.mark.parametrize("fault", ["value", "type"])
def test_a_class_of_the_users_own_is_theirs_to_mend(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit_planted(fault, "--model.constructor", "true") == 1
    assert error_of(capsys) == f"error: the config can't be used: planted {fault}"


def test_a_callback_that_asks_for_what_no_module_logs_is_the_users_to_mend(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/nope"]
    words += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    words += ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false", "--trainer.accelerator", "cpu"]
    assert cli.main(["fit", "--model", "planted.Planted", *PLANTED_DATA, *words]) == 1
    assert "error: Early stopping conditioned on metric `val/nope` which is not available" in capsys.readouterr().err


COMMANDS_OF_OUR_OWN = {
    "generate": "fa_lightning.steering.generate_command.main",
    "template": "fa_lightning.backbones.template_command.main",
    "report": "fa_lightning.studies.report_command.main",
}


@pytest.mark.parametrize("command", COMMANDS_OF_OUR_OWN)
def test_the_other_commands_tell_errors_alike(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FA_LIGHTNING_TRACE", raising=False)

    def raising(error: BaseException) -> object:
        def planted(*_: object) -> int:
            raise error

        return planted

    for error in (ValueError("bug"), TypeError("bug"), FileNotFoundError("bug")):
        monkeypatch.setattr(COMMANDS_OF_OUR_OWN[command], raising(error))
        with pytest.raises(type(error), match="bug"):
            cli.main([command])
    full = OSError(errno.ENOSPC, "No space left on device", "store/0.safetensors")
    for error, line in (
        (UserError("rank is 0"), "error: rank is 0\n"),
        (full, "error: [Errno 28] No space left on device: 'store/0.safetensors'\n"),
    ):
        monkeypatch.setattr(COMMANDS_OF_OUR_OWN[command], raising(error))
        assert cli.main([command]) == 1
        assert capsys.readouterr().err == line
    monkeypatch.setattr(COMMANDS_OF_OUR_OWN[command], raising(KeyboardInterrupt()))
    assert cli.main([command]) == 130
    assert capsys.readouterr().err == "interrupted: run the same command again\n"


def test_an_interruption_of_an_experiment_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main(["fit"]) == 130
    assert capsys.readouterr().err == "interrupted: run the same command again to resume\n"


def test_ctrl_c_while_lightning_fits_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        assert fit_planted("interrupt") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted: run the same command again"


def test_an_exit_for_another_reason_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: object) -> int:
        raise SystemExit(7)

    monkeypatch.setattr(cli, "_run", ended)
    with pytest.raises(SystemExit) as left:
        cli.main(["fit"])
    assert left.value.code == 7


@pytest.mark.parametrize(("error", "status", "told"), [("ValueError", 1, "Traceback"), ("UserError", 1, "error: bad")])
def test_the_process_ends_with_a_trace_or_a_line(error: str, status: int, told: str) -> None:
    code = (
        "import sys; from fa_lightning import cli; from fa_lightning.errors import UserError\n"
        f"def planted(*_): raise {error}('bad')\n"
        "cli._run = planted; sys.exit(cli.main(['fit']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == status
    assert ended.stderr.startswith(told)
    assert len(ended.stderr.splitlines()) == 1 or told == "Traceback"


@pytest.mark.parametrize("name", ["LOCAL_RANK", "RANK"])
@pytest.mark.parametrize("words", [["fit"], ["fit", "--config", "a.yaml"], ["test", "--config", "a.yaml"]])
def test_a_rank_left_over_from_another_job_is_refused(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process would take itself for rank 1, and write no checkpoint, record or artefact."""
    for variable in (*cli.RANKS, *cli.LAUNCHERS):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(lightning_cli, "lightning_cli", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(study_command, "fit", lambda *_: pytest.fail("started"))
    monkeypatch.setenv(name, "1")
    assert cli.main(words) == 1
    assert capsys.readouterr().err.startswith(f"error: {name} is '1' in the environment, but no launcher has started")


@pytest.mark.parametrize("launcher", ["WORLD_SIZE", "MASTER_PORT", "SLURM_PROCID"])
def test_a_rank_that_a_launcher_has_started_is_one(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(launcher, "2")
    monkeypatch.setattr(study_command, "fit", lambda _: 7)
    assert cli.main(["fit"]) == 7


def test_an_output_that_knows_few_letters_shows_a_question_mark(
    monkeypatch: pytest.MonkeyPatch, backbone: str, tmp_path: Path
) -> None:
    """Pipes on Windows, LANG=C and PYTHONIOENCODING=ascii."""
    written = {}
    for name in ("stdout", "stderr"):
        written[name] = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written[name], encoding="ascii", write_through=True))
    assert cli.main(["template", "--backbone", backbone, "--prompt", "caf\u00e9 \u2192 \u2264 1", "--all"]) in (0, 1)
    shown = written["stdout"].getvalue().decode("ascii")
    assert "?" in shown
    assert "answer tokens are as they should be" in shown
    assert cli.main(["template", "--backbone", str(tmp_path / "\u65e5\u672c")]) == 1
    assert b"error: the tokenizer" in written["stderr"].getvalue()
