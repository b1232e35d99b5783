"""Every shipped YAML is read as it is, by the command line's own parser."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from toy import CONFIGS, run

STAGES = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name != "trainer")
TRAINERS = sorted((CONFIGS / "trainer").glob("*.yaml"))


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", STAGES, ids=name_of)
def test_a_stage_is_instantiated_as_shipped_and_writes_to_its_own_folders(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fa_lightning.cli import lightning_cli

    monkeypatch.chdir(tmp_path)
    cli = lightning_cli(["--config", str(path)], run=False)
    named = yaml.safe_load(path.read_text())
    assert type(cli.model).__name__ == named["model"]["class_path"].rpartition(".")[2]
    assert type(cli.datamodule).__name__ == named["data"]["class_path"].rpartition(".")[2]
    assert cli.config.seed_everything == 0
    folder = f"checkpoints/{name_of(path)}"
    written = [
        cli.trainer.checkpoint_callback.dirpath,
        *(callback.folder for callback in cli.trainer.callbacks if hasattr(callback, "folder")),
        *([cli.model.export] if hasattr(cli.model, "export") else []),
        *([cli.datamodule.folder] if hasattr(cli.datamodule, "folder") else []),
    ]
    for place in written:
        assert Path(place).resolve().is_relative_to(Path(folder).resolve()), f"{place} is not in {folder}"
    assert Path(cli.trainer.logger.log_dir) == Path(f"logs/{name_of(path)}")
    assert list(tmp_path.iterdir()) == [], "reading a config must write nothing"


@pytest.mark.parametrize("experiment", sorted({path.parent.name for path in STAGES}))
def test_the_stages_of_an_experiment_agree_on_what_they_share(experiment: str) -> None:
    stages = [yaml.safe_load(path.read_text()) for path in STAGES if path.parent.name == experiment]
    twins = [stage for stage in stages if stage["model"]["class_path"].endswith("BehaviourModule")]
    assert [twin["model"]["init_args"]["behaviour"] for twin in twins] == ["aligned", "faking"]
    assert len({twin["model"]["init_args"]["backbone"] for twin in twins}) == 1
    steering = stages[-1]["data"]["init_args"]
    sources = [stage["data"]["init_args"]["scenarios"] for stage in stages]
    assert all(source == steering["scenarios"] for source in sources[1:]), "or test groups would leak"
    assert sources[0]["init_args"]["seed"] == steering["scenarios"]["init_args"]["seed"]
    callbacks = [callback for twin in twins for callback in twin["trainer"]["callbacks"]]
    exports = [callback["init_args"]["folder"] for callback in callbacks if "AdapterExport" in callback["class_path"]]
    assert [steering["aligned"], steering["faking"]] == exports


@pytest.mark.parametrize("path", TRAINERS, ids=name_of)
def test_a_trainer_config_lies_over_a_stage(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = CONFIGS / "embedded" / "04_steering.yaml"
    with pytest.raises(SystemExit) as left:
        run("fit", "--config", str(stage), "--config", str(path), "--print_config")
    assert left.value.code == 0
    merged = yaml.safe_load(capsys.readouterr().out)
    for field, value in yaml.safe_load(path.read_text())["trainer"].items():
        found = merged["trainer"][field]
        if isinstance(value, dict):
            assert found["class_path"].endswith(value["class_path"])
            assert value["init_args"].items() <= found["init_args"].items()
        else:
            assert found == value
    assert len(merged["trainer"]["callbacks"]) == len(yaml.safe_load(stage.read_text())["trainer"]["callbacks"])
