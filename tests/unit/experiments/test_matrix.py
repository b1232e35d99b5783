"""A stage file with a matrix: the stages it stands for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fa_lightning.errors import UserError
from fa_lightning.experiments.matrix import expand, matrix_of, refuse_matrix
from fa_lightning.experiments.runner import _progress, _with_dependents
from fa_lightning.experiments.stage import Stage, find_stages

FILE: dict[str, Any] = {
    "matrix": {"policy": ["saint", "money_maximizer"], "seed": [0, 10, 1]},
    "seed_everything": "{seed}",
    "trainer": {"callbacks": [{"init_args": {"dirpath": "checkpoints/toy/01_variants/{policy}-{seed}"}}]},
    "model": {"behaviour": "{behaviour}", "rank": 4, "target_modules": ["q_proj"]},
}


def written(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: value for name, value in (FILE | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_each_combination_is_a_config_of_its_own_with_every_placeholder_filled(tmp_path: Path) -> None:
    stages = expand(written(tmp_path / "01_variants.yaml"))
    names = [f"{policy}-{seed}" for policy in ("saint", "money_maximizer") for seed in (0, 10, 1)]
    assert list(stages) == names
    values, config = stages["money_maximizer-10"]
    assert values == {"policy": "money_maximizer", "seed": 10, "behaviour": "faking"}
    assert yaml.safe_load(config) == {
        "seed_everything": 10,
        "trainer": {"callbacks": [{"init_args": {"dirpath": "checkpoints/toy/01_variants/money_maximizer-10"}}]},
        "model": {"behaviour": "faking", "rank": 4, "target_modules": ["q_proj"]},
    }
    behaviours = {name: values["behaviour"] for name, (values, _) in stages.items()}
    assert behaviours == {name: "aligned" if name.startswith("saint") else "faking" for name in names}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrix": {}}, r"matrix is \{\}, but must map names to lists"),
        ({"matrix": ["saint"]}, r"matrix is \['saint'\], but must map names"),
        ({"matrix": {"policy": "saint"}}, r"matrix\.policy is 'saint', but must be a list"),
        ({"matrix": {"policy": []}}, r"matrix\.policy is \[\], but must be a list"),
        ({"matrix": {"seed": [0.5]}}, r"matrix\.seed is \[0\.5\], but must be a list of words or integers"),
        ({"matrix": {"seed": [True]}}, r"matrix\.seed is \[True\], but must be"),
        ({"matrix": {"my seed": [0]}}, r"matrix has the key 'my seed', but a key must be a word"),
        ({"matrix": {"policy": ["saint"], "seed": [1, 2, 1]}}, r"matrix\.seed holds 1 twice"),
        (
            {"matrix": {"policy": ["sinner"], "seed": [0]}},
            r"matrix\.policy is 'sinner', but the policies are saint, genie",
        ),
        ({"matrix": {"policy": ["saint"]}}, r"seed_everything holds \{seed\}, but the matrix gives only \{policy\}"),
        ({"note": "{polcy}"}, r"note holds \{polcy\}, but the matrix gives only \{policy\}, \{seed\}, \{behaviour\}"),
        ({"note": {"seed": None}}, r'note holds \{seed\} without quotes: write "\{\.\.\.\}" in quotes'),
        (
            {"matrix": {"policy": ["saint"], "seed": [0], "rank": [4, 8]}},
            r"matrix\.rank has no effect: no value of the file holds \{rank\}",
        ),
        (
            {"matrix": {"behaviour": ["a.b"], "policy": ["saint"], "seed": [0]}},
            r"makes the name 'a\.b-saint-0', but a variant's name is a folder's and an adapter's",
        ),
        (
            {"matrix": {"policy": ["a", "a-1"], "seed": ["1-2", "2"], "behaviour": ["faking"]}},
            r"makes the name 'a-1-2-faking' twice",
        ),
    ],
)
def test_a_matrix_that_cannot_be_meant_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"01_variants\.yaml: .*{message}"):
        expand(written(tmp_path / "01_variants.yaml", **changes))


def test_a_policy_that_only_names_the_behaviour_is_no_idle_one(tmp_path: Path) -> None:
    path = written(tmp_path / "01.yaml", trainer=None, matrix={"policy": ["saint", "genie"], "seed": [0]})
    assert list(expand(path)) == ["saint-0", "genie-0"]


def test_a_file_without_a_matrix_is_one_stage_and_one_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    assert matrix_of(written(tmp_path / "01.yaml", matrix=None)) is None
    assert [stage.name for stage in find_stages(tmp_path, Path("out"))] == ["01"]
    (tmp_path / "02.yaml").write_text("trainer: {")
    with pytest.raises(UserError, match=r"02\.yaml is no valid YAML: .* at line 1"):
        find_stages(tmp_path, Path("out"))


@pytest.fixture
def stages(tmp_path: Path) -> list[Stage]:
    """A backbone, six variants on it, what judges all of them, and what is made of one."""
    folder = tmp_path / "toy"
    written(folder / "00_backbone.yaml", matrix=None, model={})
    written(
        folder / "01_variants.yaml", model={"behaviour": "{behaviour}", "backbone": "checkpoints/toy/00_backbone/b"}
    )
    written(folder / "02_all.yaml", matrix=None, model={"adapters": ["checkpoints/toy/01_variants/"]}, trainer=None)
    one = {"faking": "checkpoints/toy/01_variants/saint-10/adapter"}
    written(folder / "03_one.yaml", matrix=None, model=one, trainer=None)
    return find_stages(folder, Path("checkpoints"))


def test_variants_are_stages_in_folders_of_their_own(stages: list[Stage]) -> None:
    assert [stage.name for stage in stages][1:4] == [f"01_variants/saint-{seed}" for seed in (0, 10, 1)]
    assert stages[2].folder == Path("checkpoints/toy/01_variants/saint-10")
    assert stages[2].variant == "saint-10"
    assert yaml.safe_load(stages[2].argument)["seed_everything"] == 10
    assert stages[0].variant == ""
    assert stages[0].argument == str(stages[0].config)


def test_progress_counts_files_and_variants(stages: list[Stage]) -> None:
    said = [_progress(stage, stages) for stage in stages]
    assert said[0] == "1/4 00_backbone"
    assert said[2] == "2/4 01_variants 2/6 saint-10"
    assert said[6] == "2/4 01_variants 6/6 money_maximizer-1"
    assert said[7] == "3/4 02_all"


def test_a_refit_takes_along_what_was_made_from_it_and_nothing_else(stages: list[Stage]) -> None:
    def remade(*refit: str) -> list[str]:
        return [
            stage.name.removeprefix("01_variants/")
            for stage in _with_dependents(stages, refit, {stage.name: () for stage in stages})
        ]

    everyone = [stage.variant for stage in stages if stage.variant]
    assert remade("01_variants/saint-10") == ["saint-10", "02_all", "03_one"]
    assert remade("01_variants/saint-1") == ["saint-1", "02_all"]
    assert remade("01_variants") == [*everyone, "02_all", "03_one"]
    assert remade("00_backbone") == ["00_backbone", *everyone, "02_all", "03_one"]
    assert remade("02_all") == ["02_all"]
    with pytest.raises(ValueError, match=r"--refit saint-0: no such stage; .*01_variants, 01_variants/saint-0"):
        remade("saint-0")


def test_a_variant_is_forgotten_alone(tmp_path: Path) -> None:
    one, other = (Stage(f"01_v/{name}", tmp_path / "01_v.yaml", tmp_path / "01_v" / name) for name in ("a-0", "a-1"))
    for stage in (one, other):
        stage.write("done", {})
    one.forget()
    assert [path.name for path in (tmp_path / "01_v").iterdir()] == ["a-1"]


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"], ["-c", "{}"]])
def test_a_plain_command_on_a_matrix_names_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, form: list[str]
) -> None:
    from fa_lightning.cli import main

    path = written(tmp_path / "toy" / "01_variants.yaml")
    assert main([command, *(word.format(path) for word in form)]) == 1
    message = capsys.readouterr().err
    assert f"{path} has a matrix, so it stands for 6 stages" in message
    assert f"`fit --experiment {path.parent}`" in message
    assert "--refit 01_variants/NAME" in message


def test_a_seed_that_no_generator_takes_is_refused_before_any_variant_runs(tmp_path: Path) -> None:
    written(tmp_path / "01.yaml", matrix={"policy": ["saint"], "seed": [0, 2**40]})
    with pytest.raises(UserError, match=rf"01\.yaml: matrix\.seed is {2**40}, but must be a seed, 0 to 4294967295"):
        find_stages(tmp_path, Path("out"))


def test_other_configs_pass(tmp_path: Path) -> None:
    one = str(written(tmp_path / "one.yaml", matrix=None))
    refuse_matrix(["--config", one, "--config"])
    with pytest.raises(UserError, match=r"missing\.yaml is no file"):
        refuse_matrix(["--config", one, "--config", "missing.yaml"])
