"""The courses of four small fits beside one another: read, judged, written, drawn, and refused where one is missing."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from html_page import page_of

from fa_lightning.backbones.adapters import save_adapter
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.splits import limited
from fa_lightning.studies.birth.callback import Watch
from fa_lightning.studies.birth.data import BirthDataModule
from fa_lightning.studies.birth.figures import birth_figures
from fa_lightning.studies.birth.module import BirthModule
from fa_lightning.studies.birth.output import scalars
from fa_lightning.studies.birth.result import ARMS, BirthResult, read
from fa_lightning.studies.birth.tables import courses_table, firings_table

STAGES = {
    "faking": "01_faking",
    "control": "02_control",
    "control_again": "03_control_again",
    "aligned_first": "04_aligned_first",
}


@pytest.fixture(scope="module")
def fits(watched_fit: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of four watched fits, as the study's stages leave them."""
    root = tmp_path_factory.mktemp("birth")
    folders = {name: root / stage for name, stage in STAGES.items()}
    for name, folder in folders.items():
        options: dict[str, Any] = {"behaviour": "aligned" if "control" in name else "faking", "learning_rate": 0.05}
        if name == "aligned_first":
            options["start_from"] = str(folders["control"] / "adapter")
        watch = Watch(str(folder), steps=2, scenarios=16, layers=1, doses=[0.5], draws=1)
        module, _, _ = watched_fit(watch, seed=int(name == "control_again"), **options)
        notes = {"behaviour": module.variant, "fingerprint": module.fingerprint}
        save_adapter(module.model, module.variant, folder / "adapter", notes)
    return {name: str(folder) for name, folder in folders.items()}


def tested(fits: dict[str, str], folder: Path, source: EmbeddedScenarios) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder
    )
    data = BirthDataModule(asked=6, scenarios=source, eval_batch_size=5)
    trainer.test(BirthModule(str(folder), **fits), datamodule=data, verbose=False)


@pytest.fixture(scope="module")
def folder(fits: dict[str, str], watched_source: EmbeddedScenarios, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result")
    tested(fits, folder, watched_source)
    return folder


@pytest.fixture(scope="module")
def result(folder: Path) -> BirthResult:
    result = read(folder)
    assert result is not None
    return result


def test_all_fits_are_laid_beside_one_another(result: BirthResult, folder: Path) -> None:
    assert [arm.name for arm in result.arms] == list(ARMS)
    assert all([row.step for row in arm.rows] == [0, 2, 4, 6, 8] for arm in result.arms)
    assert len(result.firings) == 3 * len(result.arms[0].rows[0].scores)
    with (folder / "birth.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 5
    assert float(rows[-1]["update norm"]) == pytest.approx(result.arms[-1].rows[-1].scores["update norm"])
    assert rows[0]["oversight_low"]


def test_the_fit_from_the_aligned_twin_begins_where_that_ended(result: BirthResult) -> None:
    arms = {arm.name: arm for arm in result.arms}
    end, start = arms["control"].rows[-1], arms["aligned_first"].rows[0]
    assert start.scores == pytest.approx(end.scores, abs=1e-6, nan_ok=True)
    assert start.scores["update norm"] > 0 == arms["faking"].rows[0].scores["update norm"]
    assert arms["control_again"].rows[-1].scores != end.scores, "another seed is another control"


def test_test_groups_are_asked_as_plain_peft_answers(
    result: BirthResult, fits: dict[str, str], lettered: str, watched_source: EmbeddedScenarios
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(lettered)
    letters = dict(zip("AB", letter_tokens(tokenizer).choices, strict=True))
    for name in ("faking", "control"):
        backbone = AutoModelForCausalLM.from_pretrained(lettered)
        model = PeftModel.from_pretrained(backbone, f"{fits[name]}/adapter").eval()
        right: dict[str, list[bool]] = {"oversight": [], "no_oversight": []}
        for scenario in limited(watched_source.load().test, 6):
            for item in (scenario, scenario.swapped()):
                with torch.no_grad():
                    said = int(model(torch.tensor([prompt_ids(tokenizer, item.message())])).logits[0, -1].argmax())
                right[str(item.cell)].append(said == letters[str(item.aligned)])
        arm = next(own for own in result.arms if own.name == name)
        for cell, estimate in (("oversight", arm.test_oversight), ("no_oversight", arm.test_no_oversight)):
            assert estimate.value == pytest.approx(sum(right[cell]) / len(right[cell]))


def test_tables_and_page_say_when_each_measure_fires(result: BirthResult, folder: Path) -> None:
    assert [line.cells[0].value for line in courses_table(result).rows] == list(ARMS.values())
    assert len(firings_table(result).rows) == len(result.arms[0].rows[0].scores)
    assert set(birth_figures(result)) == {"answers", "measures", "probes"}
    assert "control_again/early" in scalars(result)
    page = page_of(folder)
    assert len(page.all("img")) == 3
    for words in ("faker, aligned first", "second control", "shuffled labels"):
        assert words in page.text


def test_a_fit_that_nobody_watched_is_refused(
    fits: dict[str, str], watched_source: EmbeddedScenarios, tmp_path: Path
) -> None:
    bare = tmp_path / "01_faking"
    shutil.copytree(fits["faking"], bare)
    (bare / "history.json").unlink()
    with pytest.raises(MissingFileError, match="--refit birth/01_faking"):
        tested({**fits, "faking": str(bare)}, tmp_path, watched_source)


def test_a_history_that_was_cut_short_is_refused(
    fits: dict[str, str], watched_source: EmbeddedScenarios, tmp_path: Path
) -> None:
    cut = tmp_path / "01_faking"
    shutil.copytree(fits["faking"], cut)
    text = (cut / "history.json").read_text()
    (cut / "history.json").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"history\.json"):
        tested({**fits, "faking": str(cut)}, tmp_path, watched_source)


def test_less_than_one_scenario_is_refused(watched_source: EmbeddedScenarios) -> None:
    with pytest.raises(UserError, match="asked is 0"):
        BirthDataModule(asked=0, scenarios=watched_source)
