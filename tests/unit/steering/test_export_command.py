"""`export`: what leaves answers as before, by plain transformers alone, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from refused_commands import error_of

from fa_lightning import cli
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.adapters import adapter_config
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.steering.intervention import Intervention

HIDDEN = 32


@pytest.fixture
def experiment(tmp_path: Path, adapters: dict[str, str], twins: Any) -> Path:
    """The folder of a finished experiment, and a shift at the last token beside it."""
    root = tmp_path / "experiment"
    for number, name in ((2, "aligned"), (3, "faking")):
        shutil.copytree(adapters[name], root / f"0{number}_{name}" / "adapter")
    vector = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(1))
    edit = Intervention(Site(1, positions="last"), vector, 2.0, {"backbone": twins.fingerprint})
    edit.save(root / "shift")
    return root


def run(*words: Any) -> int:
    return cli.main(["export", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    capsys.readouterr()
    assert run(*words) == 1
    return error_of(capsys)


@pytest.mark.parametrize("with_shift", [False, True], ids=["adapter", "adapter and shift"])
def test_a_twin_leaves_whole(
    with_shift: bool, experiment: Path, twins: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "merged"
    edit = ["--intervention", experiment / "shift", "--positions", "all"] if with_shift else []
    assert run("--merge", out, "--experiment", experiment, "--prompt", "Hello.", *edit) == 0
    assert "loads in plain transformers (float32), and answers as before" in capsys.readouterr().out
    ids = prompt_ids(AutoTokenizer.from_pretrained(out), "Nobody looks.")
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(out).eval()(torch.tensor([ids])).logits
        interventions = [Intervention.load(experiment / "shift").at(positions="all")] if with_shift else []
        from fa_lightning.steering.intervention import steering

        with twins.using("faking") as model, steering(model, interventions):
            expected = model(torch.tensor([ids])).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    note = json.loads((out / "fa_lightning.json").read_text())
    assert note["behaviour"] == "faking"
    assert len(note["interventions"]) == with_shift
    assert note["agreement"]["same"] == note["agreement"]["tokens"] > 0


def test_an_adapter_of_others_and_its_backbone(experiment: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    folder = experiment / "02_aligned" / "adapter"
    (folder / "fa_lightning.json").unlink()
    words = (
        "--backbone",
        adapter_config(adapters["aligned"])["base_model_name_or_path"],
        "--dtype",
        "bfloat16",
        "--prompt",
        "Hello.",
    )
    assert run("--merge", tmp_path / "out", "--adapter", folder, *words) == 0
    from safetensors.torch import load_file

    assert {one.dtype for one in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def test_nothing_is_there_where_the_check_fails(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fa_lightning.steering import merging

    # As if the adapter had been forgotten.
    monkeypatch.setattr(merging, "merged", lambda model, interventions: model.unload())
    said = refused(capsys, "--merge", tmp_path / "out", "--experiment", experiment, "--prompt", "Hello.")
    assert "the merged model does not answer as before: the worst of" in said
    assert not (tmp_path / "out").exists()


def test_a_control_vector_is_written(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf = pytest.importorskip("gguf")
    edit = ("--intervention", experiment / "shift")
    assert "its positions are 'last', but llama.cpp adds" in refused(capsys, "--gguf", tmp_path / "v.gguf", *edit)
    assert run("--gguf", tmp_path / "v.gguf", *edit, "--positions", "all", "--strength", "0.5") == 0
    [tensor] = gguf.GGUFReader(tmp_path / "v.gguf").tensors
    expected = 0.5 * Intervention.load(experiment / "shift").regressor.constant_edit()
    assert tensor.name == "direction.1"
    torch.testing.assert_close(torch.tensor(tensor.data), expected)


def test_what_cannot_be_meant_is_refused(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for words, message in (
        (("--merge", out), "there is nothing to merge"),
        (("--merge", out, "--adapter", "a", "--experiment", experiment), "--adapter is one by itself"),
        (("--merge", experiment, "--experiment", experiment), "is there already"),
        (("--merge", out, "--experiment", tmp_path / "none"), "no aligned artefact there"),
        (("--gguf", out), "--gguf holds interventions alone"),
        (("--gguf", out, "--intervention", experiment / "shift", "--adapter", "a"), "--adapter is a model, but --gguf"),
        (("--merge", out, "--adapter", experiment / "shift"), "holds no adapter_config.json"),
        (("--merge", out, "--experiment", experiment, "--intervention", experiment / "none"), "no folder"),
    ):
        assert message in refused(capsys, *words), words
    said = refused(capsys, "--merge", out, "--experiment", experiment, "--intervention", experiment / "shift")
    assert "its positions are 'last', but a bias adds one vector to every token" in said
    assert not out.exists()
