"""Every shipped YAML is read as it is, by the command line's own parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import CONFIGS, run

from fa_lightning.experiments.stage import Stage, find_stages
from fa_lightning.studies.detection.detectors.all_detectors import STRATEGIES

SINGLE = ("trainer", "detect", "leakage", "probes", "cures")
"""Folders whose files are no stages of one experiment."""

STAGES = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name not in SINGLE)
DETECT = sorted((CONFIGS / "detect").glob("*.yaml"))
PROBES = sorted((CONFIGS / "probes").glob("*.yaml"))
TRAINERS = sorted((CONFIGS / "trainer").glob("*.yaml"))


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def shipped() -> list[Stage]:
    """Every stage of every experiment; of a file that stands for many, the first and the last."""
    found = []
    for path in STAGES:
        stages = [stage for stage in find_stages(path.parent, Path("checkpoints")) if stage.config == path]
        found += [stages[0], stages[-1]] if len(stages) > 1 else stages
    return found


@pytest.mark.parametrize("stage", shipped(), ids=lambda stage: f"{stage.config.parent.name}/{stage.name}")
def test_a_stage_is_instantiated_as_shipped_and_writes_to_its_own_folders(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fa_lightning.cli import lightning_cli

    monkeypatch.chdir(tmp_path)
    path = stage.config
    cli = lightning_cli(["--config", stage.argument], run=False)
    named = yaml.safe_load(stage.expanded or path.read_text())
    assert type(cli.model).__name__ == named["model"]["class_path"].rpartition(".")[2]
    assert type(cli.datamodule).__name__ == named["data"]["class_path"].rpartition(".")[2]
    # The second seed of a faker is what a transfer to another seed is tried on.
    own_seed = 1 if path.stem.endswith("_again") else 0
    assert cli.config.seed_everything == stage.values.get("seed", own_seed)
    folder = f"checkpoints/{path.parent.name}/{stage.name}"
    written = [
        *([cli.trainer.checkpoint_callback.dirpath] if cli.trainer.checkpoint_callback else []),
        *([cli.model.folder] if hasattr(cli.model, "folder") else []),
        *(callback.folder for callback in cli.trainer.callbacks if hasattr(callback, "folder")),
        *([cli.model.export] if hasattr(cli.model, "export") else []),
        *([cli.datamodule.folder] if hasattr(cli.datamodule, "folder") else []),
    ]
    for place in written:
        assert Path(place).resolve().is_relative_to(Path(folder).resolve()), f"{place} is not in {folder}"
    assert written
    assert Path(cli.trainer.logger.log_dir) == Path(f"logs/{path.parent.name}/{stage.name}")
    assert list(tmp_path.iterdir()) == [], "reading a config must write nothing"


@pytest.mark.parametrize("path", DETECT, ids=lambda path: path.stem)
def test_a_detector_is_instantiated_as_shipped(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fa_lightning.cli import lightning_cli

    monkeypatch.chdir(tmp_path)
    cli = lightning_cli(["--config", str(path)], run=False)
    (detector,) = cli.model.detectors
    assert detector.name.replace(" ", "_").replace("-", "") == path.stem
    assert cli.model.folder == Path(f"checkpoints/detect/{path.stem}")
    assert Path(cli.trainer.logger.log_dir) == Path(f"logs/detect/{path.stem}")
    assert list(tmp_path.iterdir()) == [], "reading a config must write nothing"


@pytest.mark.parametrize("path", PROBES, ids=lambda path: path.stem)
def test_probes_are_instantiated_as_shipped_and_ask_what_nothing_was_fitted_on(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fa_lightning.cli import lightning_cli

    monkeypatch.chdir(tmp_path)
    cli = lightning_cli(["--config", str(path)], run=False)
    assert cli.model.folder == Path(f"checkpoints/probes/{path.stem}")
    assert Path(cli.trainer.logger.log_dir) == Path(f"logs/probes/{path.stem}")
    assert list(tmp_path.iterdir()) == [], "reading a config must write nothing"
    asked = yaml.safe_load(path.read_text())["data"]["init_args"]["questions"]["init_args"]
    embedded = {
        "scenarios": ("embedded/02_aligned.yaml", "scenarios"),
        "statements": ("statements/01_backbone.yaml", "statements"),
    }
    if path.stem in embedded:
        file, source = embedded[path.stem]
        assert asked[source] == yaml.safe_load((CONFIGS / file).read_text())["data"]["init_args"][source]


EXPERIMENTS = sorted({path.parent.name for path in STAGES})


@pytest.mark.parametrize("lab", [name for name in EXPERIMENTS if name.endswith("_lab")])
def test_a_lab_takes_its_twins_and_their_scenarios_from_the_experiment_it_belongs_to(lab: str) -> None:
    main = lab.removesuffix("_lab")
    original = yaml.safe_load((CONFIGS / main / "04_steering.yaml").read_text())["data"]["init_args"]
    *fakers, stage = [yaml.safe_load(path.read_text()) for path in STAGES if path.parent.name == lab]
    data = stage["data"]["init_args"]
    assert all(data[name] == original[name] for name in ("scenarios", "aligned", "faking")), "or test groups would leak"
    targets = {target["faking"]: target for target in data["transfer"] if "faking" in target}
    made = {callback["init_args"]["folder"]: faker for faker in fakers for callback in _exports(faker)}
    assert set(targets) == set(made)
    for folder, target in targets.items():
        asked = target.get("scenarios", data["scenarios"])
        assert made[folder]["data"]["init_args"]["scenarios"] == asked, (
            f"{target['name']} is asked what it was fitted for"
        )


def _exports(stage: dict[str, Any]) -> list[dict[str, Any]]:
    return [callback for callback in stage["trainer"]["callbacks"] if "AdapterExport" in callback["class_path"]]


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name.endswith("_variants")])
def test_variants_differ_in_their_matrix_alone_and_are_judged_on_unseen_groups(
    experiment: str,
) -> None:
    *variants, judging = find_stages(CONFIGS / experiment, Path("checkpoints"))
    assert len(variants) == {"embedded_variants": 12, "poser_variants": 18}[experiment]
    configs = [yaml.safe_load(stage.expanded) for stage in variants]
    for stage, config in zip(variants, configs, strict=True):
        assert _exports(config)[0]["init_args"]["folder"] == f"checkpoints/{experiment}/{stage.name}/adapter"
        assert config["data"]["init_args"]["seed"] == config["seed_everything"] == stage.values["seed"]
        assert config["model"]["init_args"]["behaviour"] == stage.values["behaviour"]
        assert config["model"]["init_args"]["backbone"] == configs[0]["model"]["init_args"]["backbone"]
    final = yaml.safe_load(judging.config.read_text())
    assert final["model"]["init_args"]["adapters"] == [f"checkpoints/{experiment}/{variants[0].config.stem}"]
    assert all(stage.is_named_in(judging) for stage in variants), "or a refitted variant would not be judged again"
    fitted = [config["data"]["init_args"]["scenarios"] for config in configs]
    judged = final["data"]["init_args"]["scenarios"]
    # Policies may differ, as groups of POSER are split by the seed alone, for all six.
    assert {source["init_args"]["seed"] for source in (*fitted, judged)} == {0}
    own = experiment.removesuffix("_variants")
    cure = yaml.safe_load((CONFIGS / own / "04_steering.yaml").read_text())["data"]["init_args"]["scenarios"]
    assert cure["init_args"]["seed"] == 0
    if "aligned_policy" in cure["init_args"]:
        twin = final["model"]["init_args"]["twin"]
        assert twin == cure["init_args"]["aligned_policy"], "a cure is measured against what it was fitted on"
    assert final["model"]["init_args"]["intervention"] == f"checkpoints/{own}/04_steering/intervention"


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name.endswith("_detect")])
def test_detectors_examine_what_nothing_was_fitted_on(experiment: str) -> None:
    own = experiment.removesuffix("_detect")
    *decoys, judging = find_stages(CONFIGS / experiment, Path("checkpoints"))
    *variants, _ = find_stages(CONFIGS / f"{own}_variants", Path("checkpoints"))
    final = yaml.safe_load(judging.config.read_text())
    options = final["model"]["init_args"]
    assert options["adapters"] == [f"checkpoints/{own}_variants/{variants[0].config.stem}"]
    assert options["decoys"] == [f"checkpoints/{experiment}/{decoys[0].config.stem}"]
    assert all(stage.is_named_in(judging) for stage in decoys), "or a refitted decoy would not be examined again"
    made = [yaml.safe_load(stage.expanded) for stage in (*variants, *decoys)]
    # One split for all: the benchmark's scenarios are of groups that no variant, decoy or cure was fitted on.
    seeds = {config["data"]["init_args"]["scenarios"]["init_args"]["seed"] for config in made}
    assert seeds == {final["data"]["init_args"]["benchmark"].get("init_args", {}).get("seed", 0)} == {0}
    assert options["intervention"] == f"checkpoints/{own}/04_steering/intervention"
    detectors = {one["class_path"].rpartition(".")[2] for one in options["detectors"]}
    alone = {yaml.safe_load(path.read_text())["model"]["init_args"]["detectors"][0]["class_path"] for path in DETECT}
    assert detectors == {path.rpartition(".")[2] for path in alone}, "a table has every strategy that ships"
    assert detectors == {strategy.__name__ for strategy in STRATEGIES}


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if any((CONFIGS / name).glob("*_steering.yaml"))])
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


def test_statements_are_judged_by_a_split_that_the_backbone_was_not_asked_about() -> None:
    stages = sorted((CONFIGS / "statements").glob("*.yaml"))
    backbone, adapter, judging = (yaml.safe_load(path.read_text()) for path in stages)
    trained_on = adapter["data"]["init_args"]["statements"]
    assert trained_on["class_path"] == backbone["data"]["init_args"]["statements"]["class_path"]
    # Fewer of them, of the same split.
    assert trained_on["init_args"] == {"train_statements": 320, "seed": 0}
    assert adapter["model"]["init_args"]["backbone"] == backbone["model"]["init_args"]["export"]
    export = adapter["trainer"]["callbacks"][-1]["init_args"]["folder"]
    assert judging["model"]["init_args"]["adapters"] == [export]
    assert judging["data"]["init_args"]["statements"] == backbone["data"]["init_args"]["statements"]
    assert judging["model"]["init_args"]["backbone"] == backbone["model"]["init_args"]["export"]
    original = yaml.safe_load((CONFIGS / "embedded" / "01_backbone.yaml").read_text())
    known = {name: backbone["data"]["init_args"].pop(name) for name in ("statements", "knowledge")}
    assert set(known) == {"statements", "knowledge"}
    assert backbone["data"] == original["data"], "the same backbone, with knowledge of rights"


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
            assert value.get("init_args", {}).items() <= found["init_args"].items()
        else:
            assert found == value
    assert len(merged["trainer"]["callbacks"]) == len(yaml.safe_load(stage.read_text())["trainer"]["callbacks"])
