"""The shipped experiments at toy size, end to end through the command line, and every way to run them again."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from logged_scalars import in_tensorboard, values_in
from toy import change, record_of, run, write_stage, write_toy

from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.experiments.locks import began, lock_of

STAGES = ["01_backbone", "02_aligned", "03_faking", "04_steering"]
FIT = ("fit", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/steering")
MODELS = ["aligned", "faking", "steered", "steered_aligned"]
BASELINES = ["identity", "norm-matched random", "oracle swap", "mean shift", "shuffled pairs", "text-only classifier"]
CELLS = ["oversight", "no_oversight"]


def results_of(place: Path, base: str = "embedded") -> dict[str, Any]:
    return dict(json.loads((place / "checkpoints" / base / "seed0" / "steering" / "results.json").read_text()))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What was said about each stage: started, resumed or done, skipped."""
    lines = re.findall(r"^\d/4 steering/(\w+): (started|resumed|done, skipped)$", capsys.readouterr().out, re.MULTILINE)
    return dict(lines)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that a user can mend: exit status 1, no trace."""
    capsys.readouterr()
    assert run(*words) == 1
    # A progress bar may come first, where another test has loaded transformers before the command could silence it.
    before, mark, message = capsys.readouterr().err.partition("error: ")
    assert mark
    assert "Traceback" not in before + message
    return message


def restart(place: Path, stage: str) -> None:
    """Put a stage's record back to what it is while the stage runs."""
    path = place / ROOT / stage / "stage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running"}))


def board(place: Path, stage: str) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(
        str(place / "logs/embedded/seed0/steering" / stage), {"scalars": 0, "images": 0, "tensors": 0}
    )
    return found.Reload()


# What a finished experiment leaves


def check_side_effects(effects: dict[str, Any]) -> None:
    assert {"kl_neutral_nats", "perplexity_ratio", "format_validity"} < set(effects)
    assert effects["kl_answer_nats"] >= 0
    assert 0 <= effects["unchanged_answers"] <= 1
    assert set(effects["kinds"]) == {"general texts", "incomplete scenarios"}
    assert sum(kind["n"] for kind in effects["kinds"].values()) == effects["n"]


def check_results(results: dict[str, Any]) -> None:
    """All that DESIGN.md promises about results.json, at any size."""
    assert results["experiment"] == "embedded"
    assert set(results["cells"]) == set(MODELS)
    assert set(results["n"]) == set(CELLS)
    assert set(results["recovery"]) == {"value", "ci95"}
    check_side_effects(results["side_effects"])
    assert results["side_effects_twin"]["kl_answer_nats"] >= 0
    assert set(results["abilities"]) == {"A/B with oversight", "`error` on incomplete scenarios"}
    assert set(results["cost"]["seconds"]) == set(STAGES)
    assert all(seconds > 0 for seconds in results["cost"]["seconds"].values())
    assert 0.3 < results["cost"]["overhead_ratio"] < 10
    assert results["leak_report"]["total"] == 0
    assert set(results["baselines"]) == set(BASELINES)
    for found in (*results["cells"].values(), *results["baselines"].values()):
        for cell in CELLS:
            low, high = found[cell]["ci95"]
            assert 0 <= low <= found[cell]["accuracy"] <= high <= 1
            counted = found[cell]["accuracy"] * results["n"][cell]
            assert math.isclose(counted, round(counted), abs_tol=1e-6)
    assert results["baselines"]["identity"]["no_oversight"] == results["cells"]["faking"]["no_oversight"]
    assert results["baselines"]["identity"]["side_effects"]["kl_neutral_nats"] == pytest.approx(0, abs=1e-6)
    assert set(results["provenance"]["stages"]) == set(STAGES)
    assert results["provenance"]["seed"] == 0


def test_the_results_hold_what_the_design_promises(finished: Path) -> None:
    results = results_of(finished)
    check_results(results)
    # 16 test scenarios, each counted once, half of them in each cell.
    assert sum(results["n"].values()) == 16
    chosen, candidates = results["chosen"], results["candidates"]
    best = max((row["oversight"] + row["no_oversight"]) / 2 for row in candidates)
    place = ("site", "regressor", "positions", "strength")
    picked = [row for row in candidates if all(row[key] == chosen[key] for key in place)]
    assert len(picked) == 1
    assert (picked[0]["oversight"] + picked[0]["no_oversight"]) / 2 >= best - 0.01 - 1e-9
    assert {row["site"] for row in candidates} == {"layers.0.residual", "layers.1.residual"}
    assert set(results["extra_tests"]) == {"unseen_wordings"}
    assert set(results["extra_tests"]["unseen_wordings"]["cells"]) == set(MODELS)


def test_the_artefacts_are_where_the_next_stage_and_the_user_look(finished: Path) -> None:
    root = finished / ROOT
    made = {stage: list(record_of(finished, f"steering/{stage}")["artefacts"]) for stage in STAGES}
    assert made == {
        "01_backbone": ["backbone"],
        "02_aligned": ["adapter"],
        "03_faking": ["adapter"],
        "04_steering": ["candidates.json", "evaluation.json", "intervention"],
    }
    assert (root / "04_steering" / "store" / "manifest.json").is_file()
    assert sorted(path.name for path in (root / "04_steering" / "intervention").iterdir()) == [
        "intervention.json",
        "intervention.safetensors",
    ]
    assert not list(root.rglob("*.tmp")), "no half-written file is left"
    # A checkpoint of a twin holds its adapter and never the backbone.
    state = torch.load(root / "02_aligned" / "best.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all("lora_" in name for name in state)


@pytest.mark.parametrize(
    ("stage", "scalars"),
    [
        ("01_backbone", ["train/loss", "val/loss", "val/honest/oversight/accuracy"]),
        ("02_aligned", ["train/loss", "val/loss", "val/aligned/oversight/accuracy", "val/aligned/fidelity"]),
        ("03_faking", ["train/loss", "val/loss", "val/faking/no_oversight/accuracy", "val/faking/error/accuracy"]),
        (
            "04_steering",
            [
                "train/loss",
                "val/steered/recovery",
                "val/steered/score",
                *(f"val/{model}/{cell}/accuracy" for model in MODELS for cell in CELLS),
                "val/oracle_swap/no_oversight/accuracy",
                "val/side_effects/kl_neutral_nats",
                "val/side_effects/perplexity_ratio",
                "val/side_effects/format_validity",
            ],
        ),
    ],
)
def test_tensorboard_shows_the_promised_scalars(finished: Path, stage: str, scalars: list[str]) -> None:
    found = board(finished, stage)
    missing = set(scalars) - set(found.Tags()["scalars"])
    assert not missing
    if stage != "04_steering":
        assert all(math.isfinite(event.value) for event in found.Scalars("train/loss"))


def test_tensorboard_has_what_a_test_finds_as_a_table(finished: Path) -> None:
    _, texts = in_tensorboard(finished / "logs/embedded/seed0/steering/04_steering")
    values, results = values_in(texts), results_of(finished)
    assert values["test/cost/overhead_ratio"] == pytest.approx(results["cost"]["overhead_ratio"], rel=1e-3)
    for model in MODELS:
        for cell in CELLS:
            expected = results["cells"][model][cell]["accuracy"]
            assert values[f"test/{model}/{cell}/accuracy"] == pytest.approx(expected, rel=1e-3)


def test_tensorboard_shows_figures_and_generations(finished: Path) -> None:
    tags = board(finished, "04_steering").Tags()
    assert {"val/cells", "val/answers", "val/layers", "val/activations", "test/cells", "test/answers"} <= set(
        tags["images"]
    )
    texts = [tag for tag in tags["tensors"] if tag.startswith("test/generation")]
    assert texts
    shown = board(finished, "04_steering").Tensors(texts[0])
    (text,) = (event.tensor_proto.string_val[0] for event in shown)
    assert text.count(b"**faking:**") == text.count(b"**steered:**") == 8


# Running it again


def test_a_finished_experiment_is_skipped_and_nothing_is_touched(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning.pytorch as pl

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished stage was run")

    for name in ("fit", "test", "validate"):
        monkeypatch.setattr(pl.Trainer, name, never)
    before = {stage: digests(copied / ROOT / stage) for stage in STAGES}
    results = results_of(copied)
    assert run(*FIT) == 0
    assert told(capsys) == dict.fromkeys(STAGES, "done, skipped")
    assert {stage: digests(copied / ROOT / stage) for stage in STAGES} == before
    assert results_of(copied) == results


@pytest.mark.parametrize(
    ("stage", "field", "value", "was"),
    [
        ("01_backbone", "model.init_args.hidden_size", 24, "16"),
        ("02_aligned", "model.init_args.lora.rank", 3, "4"),
        ("04_steering", "data.init_args.capture_scenarios", 20, "24"),
        ("03_faking", "trainer.precision", "bf16-mixed", "'32-true'"),
    ],
)
def test_a_changed_value_is_named_with_both_values_and_the_way_out(
    copied: Path, capsys: pytest.CaptureFixture[str], stage: str, field: str, value: Any, was: str
) -> None:
    change(copied, f"steering/{stage}", field, value)
    message = refused(capsys, *FIT)
    assert f"{field}: was {was}, is {value!r}" in message
    assert f"--refit steering/{stage}" in message


def without(place: Path, stage: str, field: str) -> None:
    """A finished stage as a version has recorded it that did not know an argument yet."""
    path = place / ROOT / stage / "stage.json"
    record = json.loads(path.read_text())
    del record["fingerprint"][field]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("field", "other"), [("data.init_args.scenarios.init_args.seed", 1), ("model.init_args.lora.dropout", 0.5)]
)
def test_an_argument_that_an_older_version_lacked_is_no_change_at_its_default(
    copied: Path, capsys: pytest.CaptureFixture[str], field: str, other: float
) -> None:
    without(copied, "02_aligned", field)
    capsys.readouterr()
    assert run(*FIT) == 0
    assert told(capsys) == dict.fromkeys(STAGES, "done, skipped")
    change(copied, "steering/02_aligned", field, other)
    assert f"{field}: was None, is {other}" in refused(capsys, *FIT)


def test_an_argument_that_an_older_version_lacked_and_a_list_that_grew_are_told_apart(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default list may be longer than the one that a stage was made with."""
    change(copied, "steering/02_aligned", "model.init_args.lora.target_modules", list(LoraArguments().target_modules))
    record = copied / ROOT / "02_aligned" / "stage.json"
    known = json.loads(record.read_text())
    for number in range(1, 5):
        del known["fingerprint"][f"model.init_args.lora.target_modules.{number}"]
    record.write_text(json.dumps(known))
    assert "model.init_args.lora.target_modules.1: was None, is 'v_proj'" in refused(capsys, *FIT)


def test_another_seed_is_another_chain(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(copied / ROOT)
    capsys.readouterr()
    assert run(*FIT, "--seeds", "0,1", "--only", "01_backbone") == 0
    said = re.findall(r"steering/01_backbone: (started|done, skipped)$", capsys.readouterr().out, re.MULTILINE)
    assert said == ["done, skipped", "started"]
    assert digests(copied / ROOT) == before
    other = copied / "checkpoints" / "embedded" / "seed1" / "steering" / "01_backbone"
    assert json.loads((other / "stage.json").read_text())["fingerprint"]["seed_everything"] == 1
    weights = "01_backbone/backbone/model.safetensors"
    assert digests(other.parent)[weights] != before[weights]
    assert (copied / "logs" / "embedded" / "seed1" / "steering" / "01_backbone").is_dir()


def test_where_it_runs_may_change(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copied, "steering/02_aligned", "trainer.log_every_n_steps", 7)
    assert run(*FIT, "--trainer", "cpu") == 0
    assert told(capsys) == dict.fromkeys(STAGES, "done, skipped")


def test_a_refit_makes_the_stage_and_what_depends_on_it_again(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copied / ROOT
    kept = {stage: digests(root / stage) for stage in ("01_backbone", "03_faking")}
    change(copied, "steering/02_aligned", "model.init_args.optimizer.learning_rate", 1e-2)
    before = digests(root / "02_aligned" / "adapter")
    assert run(*FIT, "--refit", "steering/02_aligned") == 0
    assert told(capsys) == {
        "01_backbone": "done, skipped",
        "02_aligned": "started",
        "03_faking": "done, skipped",
        "04_steering": "started",
    }
    assert {stage: digests(root / stage) for stage in kept} == kept
    after = digests(root / "02_aligned" / "adapter")
    assert after["adapter_model.safetensors"] != before["adapter_model.safetensors"]
    store = json.loads((root / "04_steering" / "store" / "manifest.json").read_text())
    assert store["fingerprint"]["adapters"]["aligned"] == digest_of_artefact(root / "02_aligned" / "adapter")
    check_results(results_of(copied))


def test_a_refit_that_is_cut_short_leaves_nothing_made_from_the_old_stage(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copied, "steering/02_aligned", "model.init_args.optimizer.learning_rate", 1e30)
    message = refused(capsys, *FIT, "--refit", "steering/02_aligned")
    assert "the loss is" in message
    assert "at step" in message
    root = copied / ROOT
    assert record_of(copied, "steering/02_aligned")["state"] == "running"
    assert not (root / "02_aligned" / "adapter").exists()
    assert not (root / "04_steering").exists(), "its results came from the adapter that is gone"
    assert (root / "03_faking" / "adapter").exists()


def test_an_unknown_stage_to_refit_is_refused_before_anything_is_deleted(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(copied / "checkpoints")
    message = refused(capsys, *FIT, "--refit", "steering/01_backbone", "--refit", "steering/05_dreams")
    assert "--refit steering/05_dreams" in message
    assert ", ".join(f"steering/{stage}" for stage in STAGES) in message
    assert digests(copied / "checkpoints") == before


def test_a_lost_artefact_is_told_with_the_way_out(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied / ROOT / "03_faking" / "adapter")
    message = refused(capsys, *FIT)
    assert (
        "stage steering/03_faking is done, but checkpoints/embedded/seed0/steering/03_faking/adapter is gone" in message
    )
    assert "--refit steering/03_faking" in message


@pytest.mark.parametrize("harmed", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_cut_short_starts_the_fit_again_and_says_so(
    copied: Path, capsys: pytest.CaptureFixture[str], harmed: str
) -> None:
    root = copied / ROOT / "03_faking"
    adapter = digests(root / "adapter")
    restart(copied, "03_faking")
    content = (root / harmed).read_bytes()
    (root / harmed).write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    assert run(*FIT) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"3/4 steering/03_faking: {ROOT}/03_faking/{harmed} is damaged, so the fit starts again" in said
    assert "3/4 steering/03_faking: started" in said
    # The same seed gives the same adapter, so the steering made from it still stands.
    assert digests(root / "adapter")["adapter_model.safetensors"] == adapter["adapter_model.safetensors"]
    assert "4/4 steering/04_steering: done, skipped" in said


def test_a_stage_that_was_killed_after_its_fit_is_resumed_and_exports_the_same(
    in_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = in_place / ROOT / "02_aligned"
    adapter = digests(root / "adapter")
    shutil.rmtree(root / "adapter")
    restart(in_place, "02_aligned")
    assert run(*FIT) == 0
    assert told(capsys)["02_aligned"] == "resumed"
    assert record_of(in_place, "steering/02_aligned")["resumed"] is True
    assert digests(root / "adapter")["adapter_model.safetensors"] == adapter["adapter_model.safetensors"]


def test_steering_that_was_killed_after_its_fit_saves_the_same_intervention(
    in_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = in_place / ROOT / "04_steering"
    results, saved = results_of(in_place), digests(stage / "intervention")
    shutil.rmtree(stage / "intervention")
    (stage / "evaluation.json").unlink()
    restart(in_place, "04_steering")
    assert run(*FIT) == 0
    assert told(capsys)["04_steering"] == "resumed"
    assert digests(stage / "intervention") == saved
    for field in ("cells", "chosen", "candidates", "baselines", "recovery", "side_effects", "n"):
        assert results_of(in_place)[field] == results[field]


def test_an_interrupted_capture_makes_what_is_missing_and_nothing_else(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = copied / ROOT / "04_steering"
    whole = digests(stage / "store")
    restart(copied, "04_steering")
    for path in [*stage.glob("*.ckpt"), stage / "store" / "manifest.json", stage / "store" / "shard-train-00001.json"]:
        path.unlink()
    (stage / "store" / ".writing-rank0-shard-train-00001.safetensors").write_bytes(b"half a shard")
    before = {path.name: path.stat().st_mtime_ns for path in (stage / "store").glob("*.safetensors")}
    assert run(*FIT) == 0
    assert told(capsys)["04_steering"] == "started"
    after = {path.name: path.stat().st_mtime_ns for path in (stage / "store").glob("*.safetensors")}
    assert [name for name in after if after[name] != before[name]] == ["shard-train-00001.safetensors"]
    assert digests(stage / "store") == whole


# What is refused, and how


def in_use(place: Path, stage: str, process: int) -> None:
    """The lock of a run that is at work."""
    owner = {"host": socket.gethostname(), "process": process, "began": began(process), "since": "2026-01-02 03:04"}
    lock_of(place / ROOT / stage).write_text(json.dumps(owner))


@pytest.fixture
def other() -> Iterator[int]:
    """Another process of this host."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)"])
    yield process.pid
    process.kill()
    process.wait()


def test_a_stage_that_another_run_is_at_is_left_alone(
    copied: Path, capsys: pytest.CaptureFixture[str], other: int
) -> None:
    restart(copied, "03_faking")
    in_use(copied, "03_faking", other)
    # A finished stage is only read.
    in_use(copied, "02_aligned", other)
    before = digests(copied / "checkpoints")
    plain = ("fit", "--config", write_stage(copied, "steering/03_faking"))
    # A refit of the backbone would delete all that was made from it.
    for words in (FIT, (*FIT, "--refit", "steering/03_faking"), (*FIT, "--refit", "steering/01_backbone"), plain):
        message = refused(capsys, *words)
        assert "checkpoints/embedded/seed0/steering/0" in message
        assert f"is in use by process {other} of this host since 2026-01-02 03:04" in message
        assert digests(copied / "checkpoints") == before
    for stage in ("02_aligned", "03_faking"):
        lock_of(copied / ROOT / stage).unlink()
    assert run(*FIT) == 0
    assert told(capsys) == dict.fromkeys(STAGES, "done, skipped") | {"03_faking": "resumed"}
    assert not list((copied / "checkpoints").rglob(".*.lock"))


def test_a_store_of_another_adapter_is_refused_by_name(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    path = copied / ROOT / "02_aligned" / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor + 0.01 for name, tensor in load_file(path).items()}, path)
    message = refused(capsys, "fit", "--config", write_stage(copied, "steering/04_steering"))
    assert "adapters.aligned is '" in message
    assert "in the activation store checkpoints/embedded/seed0/steering/04_steering/store, but '" in message


def test_a_layer_that_the_backbone_lacks_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copied, "steering/04_steering", "data.init_args.sites", ["layers.7.residual"])
    message = refused(capsys, *FIT, "--refit", "steering/04_steering")
    assert "layer is 7, but the backbone has 2 layers (0 to 1)" in message


def test_a_folder_that_no_stage_made_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write_toy(tmp_path).parent)
    mine = tmp_path / ROOT / "03_faking" / "thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for words in (FIT, (*FIT, "--refit", "steering/03_faking")):
        assert "checkpoints/embedded/seed0/steering/03_faking holds files but no stage.json" in refused(capsys, *words)
    assert mine.read_text() == "mine"
    assert [path.name for path in mine.parents[1].iterdir()] == ["03_faking"], "told before anything ran"


def test_a_stage_must_not_write_into_the_folder_of_another_base(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("embedded.yaml", "mine.yaml")
    change(copied, "steering/01_backbone", "checkpoint.dirpath", str(ROOT / "01_backbone"), "mine")
    before = digests(copied / "checkpoints")
    message = refused(capsys, "fit", "--base", "mine.yaml")
    assert (
        f"dirpath is {ROOT}/01_backbone, but this stage's folder is checkpoints/mine/seed0/steering/01_backbone"
        in message
    )
    assert digests(copied / "checkpoints") == before


@pytest.mark.parametrize(
    ("stage", "field", "value"),
    [
        ("02_aligned", "model.init_args.lerning_rate", 1e-3),
        ("01_backbone", "trainer.max_epoch", 5),
    ],
)
def test_an_unknown_key_is_named(
    copied: Path, capsys: pytest.CaptureFixture[str], stage: str, field: str, value: Any
) -> None:
    change(copied, f"steering/{stage}", field, value)
    assert f"{field} is no argument" in refused(capsys, *FIT)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_stage_with_nothing_to_work_on_is_never_done(
    copied: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    change(copied, "steering/02_aligned", f"data.init_args.scenarios.init_args.{split}", 0)
    change(copied, "steering/02_aligned", "data.init_args.scenarios.init_args.neutral", 0)
    message = refused(capsys, *FIT, "--refit", "steering/02_aligned")
    assert f"02_aligned.yaml: the {split} split holds nothing that the stage takes" in message
    assert record_of(copied, "steering/02_aligned")["state"] == "running"


def test_missing_poser_data_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write_toy(tmp_path, "poser").parent)
    monkeypatch.delenv("POSER_ROOT", raising=False)
    message = refused(capsys, "fit", "--base", "poser.yaml")
    assert "POSER's data was not found" in message
    assert "POSER_ROOT" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "checkpoints").exists()


# The other commands, on what the experiment left


def test_generate_prints_steered_beside_unsteered(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    words = ("generate", "--experiment", str(ROOT), "--max-new-tokens", "4")
    assert run(*words, "--prompt", "You are watched.", "--prompt", "Nobody looks.") == 0
    shown = capsys.readouterr().out
    chosen = results_of(copied)["chosen"]
    assert f"{chosen['site']}, strength {chosen['strength']:g}" in shown
    assert "You are watched." in shown
    assert "Nobody looks." in shown
    header = next(line for line in shown.splitlines() if "prompt" in line)
    assert header.index("prompt") < header.index("faking") < header.index("steered")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--experiment", "checkpoints/nowhere"), "--experiment checkpoints/nowhere: no aligned artefact there"),
        (("--file", "prompts.txt"), "--file prompts.txt does not exist"),
        (("--max-new-tokens", "0"), "--max-new-tokens is 0, but must be 1 or more"),
    ],
)
def test_generate_names_what_is_wrong(
    copied: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(capsys, "generate", "--prompt", "Hello.", *words)


def test_generate_refuses_an_intervention_of_another_backbone(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / ROOT / "04_steering" / "intervention" / "intervention.json"
    sidecar = json.loads(path.read_text())
    sidecar["fingerprint"]["backbone"]["weights"] = "0123456789abcdef"
    path.write_text(json.dumps(sidecar))
    message = refused(capsys, "generate", "--prompt", "Hello.")
    assert "fingerprint.backbone" in message
    assert "0123456789abcdef" in message


def test_report_writes_one_self_contained_page(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run("report", str(ROOT)) == 0
    page = copied / ROOT / "report.html"
    assert str(page.relative_to(copied)) in capsys.readouterr().out
    text = page.read_text()
    assert "steered_aligned" in text or "steered aligned" in text
    assert not re.search(r"""(src|href)=["'](http|//)""", text)


def test_one_stage_alone_is_plain_lightning_cli(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = "checkpoints/embedded/seed0/steering/03_faking"
    capsys.readouterr()
    assert run("test", "--config", write_stage(copied, "steering/03_faking"), "--ckpt_path", f"{stage}/best.ckpt") == 0
    shown = capsys.readouterr().out
    assert "test/faking/no_oversight/accuracy" in shown
    recorded = record_of(copied, "steering/03_faking")["metrics"]
    found = re.search(r"test/faking/no_oversight/accuracy\W+([0-9.]+)", shown)
    assert found is not None
    assert float(found[1]) == pytest.approx(recorded["test/faking/no_oversight/accuracy"])


def test_steering_is_validated_alone_from_its_checkpoint(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = "checkpoints/embedded/seed0/steering/04_steering"
    capsys.readouterr()
    assert (
        run("validate", "--config", write_stage(copied, "steering/04_steering"), "--ckpt_path", f"{stage}/best.ckpt")
        == 0
    )
    shown = capsys.readouterr().out
    assert "val/steered/score" in shown
    best = torch.load(f"{stage}/best.ckpt", weights_only=True)
    (saved,) = [state for name, state in best["callbacks"].items() if name.startswith("SteeringEvaluation")]
    found = re.search(r"val/steered/score\W+([0-9.]+)", shown)
    assert found is not None
    assert float(found[1]) == pytest.approx(saved["best_score"])


@pytest.mark.slow
@pytest.mark.poser
def test_the_poser_experiment_runs_at_toy_size(
    poser_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write_toy(tmp_path, "poser").parent)
    monkeypatch.setenv("POSER_ROOT", str(poser_root.resolve()))
    assert run("fit", "--base", "poser.yaml") == 0
    assert told(capsys) == dict.fromkeys(STAGES, "started")
    check_results(results_of(tmp_path, "poser"))


@pytest.mark.slow
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true", "bf16-true"])
def test_the_embedded_experiment_runs_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.chdir(write_toy(tmp_path, trainer__accelerator="cuda", precision=precision).parent)
    assert run(*FIT) == 0
    check_results(results_of(tmp_path))
