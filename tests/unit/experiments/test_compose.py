"""Base and study laid over one another: what a stage's whole config is, and which mistakes are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.experiments.brought_twins import BroughtTwin
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.stage import Stage

World = Callable[..., Path]


def stages_of(base: Path, study: str, **options: Any) -> dict[str, Stage]:
    return {stage.name: stage for stage in Composition(Chain(base, **options)).stages(study)}


def config(stage: Stage) -> dict[str, Any]:
    return dict(yaml.safe_load(stage.config))


def test_references_are_filled_from_the_base_the_stage_and_the_chain(world: World) -> None:
    stage = stages_of(world({"pretraining": {"a": 1}, "batch_size": 4}), "first", seed=3)["02_aligned"]
    folder = "checkpoints/toy/seed3/first"
    assert stage.folder == Path(folder) / "02_aligned"
    assert stage.needs == ("first/01_backbone",)
    found = config(stage)
    assert found["seed_everything"] == 3
    assert found["model"] == {"behaviour": "aligned", "backbone": f"{folder}/01_backbone/backbone"}
    assert found["data"] == {"scenarios": {"class_path": "Source"}, "batch_size": 4, "seed": 3}
    trainer = found["trainer"]
    assert trainer["logger"]["init_args"] == {
        "save_dir": "logs",
        "name": "toy/seed3/first",
        "version": "02_aligned",
    }
    assert [callback["class_path"].rpartition(".")[2] for callback in trainer["callbacks"]] == [
        "ProgressBar",
        "ModelCheckpoint",
        "Export",
    ]
    assert trainer["callbacks"][1]["init_args"] == {
        "dirpath": f"{folder}/02_aligned",
        "save_last": True,
        "mode": "max",
        "save_top_k": 1,
        "filename": "best",
        "enable_version_counter": False,
        "monitor": "val/aligned",
    }


def test_a_stage_that_is_like_another_differs_in_what_it_says(world: World) -> None:
    stages = stages_of(world(), "first")
    aligned, faking = config(stages["02_aligned"]), config(stages["03_faking"])
    assert faking["model"]["behaviour"] == "faking"
    assert faking["data"] == aligned["data"]
    assert stages["03_faking"].needs == stages["02_aligned"].needs
    variants = stages_of(world(), "second")
    one = config(variants["01_variants/money_maximizer-10"])
    assert (one["seed_everything"], one["model"]["behaviour"], one["trainer"]["max_epochs"]) == (10, "faking", 2)
    assert config(stages_of(world(), "second", seed=2)["01_variants/saint-10"])["seed_everything"] == 210


def test_a_pretrained_backbone_takes_the_place_of_the_stage_that_makes_one(world: World) -> None:
    named = stages_of(world({"backbone": {"name": "org/model"}}), "first")
    assert list(named) == ["02_aligned", "03_faking"]
    assert named["02_aligned"].needs == ()
    assert config(named["02_aligned"])["model"]["backbone"] == "org/model"
    other = Chain(world(), backbone="models/Other.gguf")
    assert other.folder == Path("checkpoints/toy@Other/seed0")
    stages = Composition(other).stages("first")
    assert config(stages[0])["model"]["backbone"] == "models/Other.gguf"


def test_stages_that_fit_nothing_judge_in_the_weights_own_type_and_keep_no_checkpoint(world: World) -> None:
    base = world({"pretraining": {"a": 1}, "precision": "bf16-mixed"})
    trainer = config(stages_of(base, "second")["02_all"])["trainer"]
    assert (trainer["precision"], trainer["enable_checkpointing"]) == ("32-true", False)
    fitted = config(stages_of(base, "first")["02_aligned"])["trainer"]
    assert fitted["precision"] == "bf16-mixed"


def test_a_base_lays_values_over_a_study_and_its_stages(world: World) -> None:
    laid = {"second": {"epochs": 7, "stages": {"02_all": {"model": {"more": "${batch_size}"}}}}}
    stages = stages_of(world({"pretraining": {"a": 1}, "studies": laid}), "second")
    assert config(stages["01_variants/saint-0"])["trainer"]["max_epochs"] == 7
    assert config(stages["02_all"])["model"]["more"] == 16


def test_another_class_in_a_stage_takes_nothing_of_the_one_that_it_replaces(world: World) -> None:
    source = {"class_path": "pkg.Source", "init_args": {"sizes": {"train": 3}, "seed": 0}}
    stage = {"data": {"class_path": "pkg.Data", "init_args": {"scenarios": "${scenarios}", "seed": "${seed}"}}}

    def scenarios(value: Any) -> Any:
        laid = {"second": {"stages": {"02_all": {"data": {"init_args": {"scenarios": value}}}}}}
        base = world({"pretraining": {"a": 1}, "scenarios": source, "studies": laid}, second__02_all=stage)
        arguments = config(stages_of(base, "second")["02_all"])["data"]["init_args"]
        assert arguments["seed"] == 0
        return arguments["scenarios"]

    wrapped = {"class_path": "pkg.Wrapper", "init_args": {"scenarios": "${scenarios}"}}
    assert scenarios(wrapped) == {"class_path": "pkg.Wrapper", "init_args": {"scenarios": source}}
    # Of the same class, or of none that is named, a part is replaced.
    changed = {"class_path": "pkg.Source", "init_args": {"sizes": {"train": 5}, "seed": 0}}
    for part in ({"class_path": "pkg.Source"}, {}):
        assert scenarios({**part, "init_args": {"sizes": {"train": 5}}}) == changed
    # A DataModule of another kind goes on with the stage's own arguments.
    laid = {"second": {"stages": {"02_all": {"data": {"class_path": "pkg.Other", "init_args": {"pairs": "file"}}}}}}
    base = world({"pretraining": {"a": 1}, "scenarios": source, "studies": laid}, second__02_all=stage)
    data = config(stages_of(base, "second")["02_all"])["data"]
    assert data == {"class_path": "pkg.Other", "init_args": {"scenarios": source, "seed": 0, "pairs": "file"}}


def test_a_base_may_name_a_folder_that_its_chains_share(world: World) -> None:
    laid = {"first": {"stages": {"02_aligned": {"model": {"frozen_half": "${base_folder}/frozen_half"}}}}}
    base = world({"pretraining": {"a": 1}, "studies": laid})
    for seed in (0, 3):
        found = config(stages_of(base, "first", seed=seed)["02_aligned"])
        assert found["model"]["frozen_half"] == "checkpoints/toy/frozen_half"


def test_a_base_extends_another(world: World, tmp_path: Path) -> None:
    world({"pretraining": {"a": 1}, "batch_size": 4, "twins": {"epochs": 9}})
    own = tmp_path / "mine.yaml"
    own.write_text("extends: toy\nbatch_size: 2\n")
    found = config(stages_of(own, "first")["02_aligned"])
    assert (found["data"]["batch_size"], found["trainer"]["max_epochs"]) == (2, 9)
    assert found["trainer"]["callbacks"][1]["init_args"]["dirpath"] == "checkpoints/mine/seed0/first/02_aligned"


def test_a_need_may_name_what_another_base_has(world: World) -> None:
    needs = {"backbone": ["second/09_never", "first/01_backbone"]}
    base = world(first__02_aligned={"needs": needs, "model": {"backbone": "${backbone.name}"}})
    with pytest.raises(UserError, match="needs second/09_never, but second has no such stage"):
        stages_of(base, "first")
    needs = {"backbone": ["second/05_own", "first/01_backbone"]}
    changed = {"first__02_aligned": {"needs": needs, "model": {"backbone": "${backbone.name}"}}}
    base = world(**changed)
    (base.parents[1] / "studies" / "second" / "05_own.yaml").write_text("needs_of_base: pretraining.extra\nmodel: {}\n")
    assert stages_of(base, "first")["02_aligned"].needs == ("first/01_backbone",)
    base = world({"pretraining": {"extra": 1}}, **changed)
    assert stages_of(base, "first")["02_aligned"].needs == ("second/05_own",)


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ({"pretraning": {}}, {}, r"toy\.yaml has the key 'pretraning', which no base has; did you mean pretraining\?"),
        (
            {"batch_size": 1},
            {},
            r"toy\.yaml names no backbone: give one .*, or write `backbone: \{name: \.\.\.\}` into",
        ),
        ("[]", {}, r"toy\.yaml holds a list: give a YAML file that maps"),
        ("a: {", {}, r"toy\.yaml is no valid YAML"),
        ("", {}, r"toy\.yaml is empty"),
        ({"trainer": 3, "pretraining": {"a": 1}}, {}, r"toy\.yaml: trainer is 3, but must be a mapping"),
        ({"extends": "toyy"}, {}, r"extends toyy is neither a file nor a shipped name; did you mean toy\?"),
        ({"extends": "toy"}, {}, r"toy\.yaml extends itself"),
        (
            {"pretraining": {"a": 1}, "studies": {"first": {"stages": {"02_alined": {}}}}},
            {},
            r"studies\.first\.stages\.02_alined is no stage; first has 01_backbone, 02_aligned, 03_faking",
        ),
        (None, {"first__02_aligned": {"modl": {}}}, r"02_aligned\.yaml has the key 'modl', but a stage has"),
        (None, {"first__02_aligned": {"like": "first/00"}}, r"like first/00, but there is no such stage file"),
        (
            None,
            {"first__02_aligned": {"model": "${nothing}"}},
            r"02_aligned\.yaml: model refers to \$\{nothing\}, but neither the base nor the stage has nothing$",
        ),
        (
            None,
            {"first__02_aligned": {"matrix": {"behaviour": ["aligned", "faking"]}, "model": {}}},
            r"02_aligned\.yaml: matrix\.behaviour has no effect: nothing in the stage says \$\{matrix\.behaviour\}",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_file(world: World, base: Any, changes: Any, message: str) -> None:
    path = world(base, **changes)
    with pytest.raises(UserError, match=message):
        stages_of(path, "first")


def test_an_unknown_study_is_refused_with_a_close_one(world: World) -> None:
    with pytest.raises(MissingFileError, match=r"'secnd' is no study; did you mean second\? The studies are first, s"):
        stages_of(world(), "secnd")


MISSING = "studies.second.decoys"


def test_a_value_that_a_base_has_not_is_told_with_the_stage_that_asks_and_an_example(world: World) -> None:
    changes: dict[str, Any] = {
        "second__study": {"epochs": 2, "decoys": "???"},
        "second__03_one": {
            "matrix": "${study.decoys}",
            "values": {"rank": "${matrix.rank}"},
            "model": "${values.rank}",
        },
    }
    base = world(**changes)
    source = base.parents[1] / "sources" / "one.yaml"
    told = (
        f"{base} has no {MISSING}, which the stage second/03_one refers to (matrix: ${{study.decoys}}): write it into"
    )
    with pytest.raises(UserError) as error:
        stages_of(base, "second")
    assert str(error.value) == f"{told} the base"
    source.write_text("studies: {second: {decoys: {rank: [4]}}}")
    # Null says no more than silence does.
    for own in ({}, {"studies": {"second": {"decoys": None}}}):
        with pytest.raises(UserError) as error:
            stages_of(world({"pretraining": {"epochs": 1}, **own}, **changes), "second")
        assert str(error.value) == f"{told} the base, as {source} does"
    assert "03_one/4" in stages_of(
        world({"pretraining": {"epochs": 1}, "studies": {"second": {"decoys": {"rank": [4]}}}}, **changes), "second"
    )


@pytest.mark.parametrize(
    ("stage", "missing", "referring"),
    [
        ({"matrix": "${variants}", "model": "${matrix.seed}"}, "variants", "matrix: ${variants}"),
        ({"needs": {"one": "second/${other_pair.aligned}"}}, "other_pair.aligned", "needs.one: ${other_pair.aligned}"),
        ({"model": {"pair": "${other_pair}"}}, "other_pair.aligned", "model.pair: ${other_pair}"),
        ({"data": {"a": "${values.b}"}, "values": {"b": "${variants}"}}, "variants", "data.a: ${values.b}"),
        ({"model": {"steps": "${twins.steps}"}}, "twins.steps", "model.steps: ${twins.steps}"),
    ],
)
def test_every_way_to_refer_to_what_a_base_has_not(
    world: World, stage: dict[str, Any], missing: str, referring: str
) -> None:
    base = world(second__02_all=stage)
    with pytest.raises(UserError) as error:
        stages_of(base, "second")
    assert str(error.value) == (
        f"{base} has no {missing}, which the stage second/02_all refers to ({referring}): write it into the base"
    )


def test_a_misspelt_reference_of_a_base_is_told_with_the_bases_key(world: World) -> None:
    laid = {"second": {"stages": {"02_all": {"model": {"more": "${bach_size}"}}}}}
    base = world({"pretraining": {"a": 1}, "studies": laid})
    with pytest.raises(UserError) as error:
        stages_of(base, "second")
    assert str(error.value) == (
        f"{base}: studies.second.stages.02_all.model.more refers to ${{bach_size}}, but neither the base nor the stage "
        "has bach_size; did you mean ${batch_size}?"
    )


def test_a_path_that_a_base_extends_is_relative_to_its_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world()
    mine = tmp_path / "mine"
    (mine / "shared").mkdir(parents=True)
    (mine / "own.yaml").write_text("extends: shared/llm.yaml\n")
    (mine / "shared" / "llm.yaml").write_text("extends: ../root.yaml\nbatch_size: 2\n")
    (mine / "root.yaml").write_text("pretraining: {a: 1}\nbatch_size: 3\ntwins: {epochs: 9}\n")
    (tmp_path / "root.yaml").write_text("pretraining: {a: 1}\ntwins: {epochs: 5}\n")
    monkeypatch.chdir(tmp_path)
    for base in (Path("mine/own.yaml"), mine / "own.yaml"):
        written = config(stages_of(base, "first")["02_aligned"])
        assert (written["data"]["batch_size"], written["trainer"]["max_epochs"]) == (2, 9)
    (mine / "own.yaml").write_text("extends: root2.yaml\n")
    with pytest.raises(MissingFileError, match=r"mine/own\.yaml: extends root2\.yaml is no file \(read as mine/root2"):
        stages_of(Path("mine/own.yaml"), "first")


def test_where_each_value_was_written_is_known(world: World, tmp_path: Path) -> None:
    shared = world({"pretraining": {"a": 1}, "batch_size": 4, "twins": {"epochs": 7}})
    own = tmp_path / "own.yaml"
    laid = {"model": {"behaviour": "faking"}, "trainer": {"callbacks": [{"class_path": "Other"}]}}
    own.write_text(
        yaml.safe_dump(
            {"extends": "toy", "twins": {"epochs": 9}, "studies": {"first": {"stages": {"02_aligned": laid}}}}
        )
    )
    origins = {
        name: None if origin is None else (origin.file, origin.key)
        for name, origin in stages_of(own, "first")["02_aligned"].origins.items()
    }
    key = "studies.first.stages.02_aligned"
    assert origins["model.behaviour"] == (own, f"{key}.model.behaviour")
    assert origins["trainer.callbacks.class_path"] == (own, f"{key}.trainer.callbacks.class_path")
    assert origins["trainer.max_epochs"] == (own, "twins.epochs")
    assert origins["data.batch_size"] == (shared, "batch_size")
    # What neither of them says stands in files that ship.
    assert origins["data.seed"] is origins["data.scenarios.class_path"] is origins["trainer.devices"] is None


def test_a_wrong_matrix_is_told_where_it_was_written(world: World) -> None:
    changes: dict[str, Any] = {"second__01_variants": {"matrix": "${variants}", "model": "${matrix.seed}"}}
    base = world({"pretraining": {"a": 1}, "variants": {"seed": 3}}, **changes)
    with pytest.raises(UserError) as error:
        stages_of(base, "second")
    assert str(error.value).startswith(f"{base}: variants: matrix.seed is 3, but must be a list of words")


LISTED = [
    {"name": "honest", "behaviour": "aligned", "adapter": "org/honest"},
    {"name": "own", "behaviour": "faking", "seed": 7},
]


def test_a_listed_variant_with_an_adapter_is_taken_and_one_without_is_fitted(world: World) -> None:
    like = {"like": "first/03_faking", "matrix": "${variants}", "adapter": "${oc.select:matrix.adapter,null}"}
    like |= {"seed_everything": "${matrix.seed}", "values": {"behaviour": "${matrix.behaviour}"}}
    base = world({"variants": LISTED, "backbone": {"name": "models/m"}}, second__01_variants=like)
    stages = stages_of(base, "second")
    taken, fitted = stages["01_variants/honest"], stages["01_variants/own"]
    assert taken.twin == BroughtTwin("org/honest", "aligned", BackboneArguments("models/m"))
    assert config(taken)["taken"]["adapter"] == "org/honest"
    assert fitted.twin is None
    assert config(fitted)["model"]["behaviour"] == "faking"
    assert config(fitted)["seed_everything"] == 7
