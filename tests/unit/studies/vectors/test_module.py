"""The study on a random model: what is written, against a sweep by hand; the page; wrong values."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from html_page import page_of

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.errors import UserError
from fa_lightning.evaluation.vector_sweep import VectorSweep, pair_norms, pair_vectors
from fa_lightning.scenarios.text_form import TextForm
from fa_lightning.steering.constant import strength_of_dose
from fa_lightning.studies.vectors.concepts import read_concept
from fa_lightning.studies.vectors.data import VectorsDataModule
from fa_lightning.studies.vectors.module import VectorsModule
from fa_lightning.studies.vectors.result import VectorsResult, read

CONCEPTS = ["genre", "sentiment"]
DATA = {"concepts": CONCEPTS, "draws": 2, "pairs": 3, "prompts": 1}


@pytest.fixture(scope="module")
def found(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    module = VectorsModule(
        str(folder), layers=[1.0, 0.0], doses=[0.3, 0.1], max_new_tokens=3, backbone=BackboneArguments(backbone)
    )
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder
    )
    trainer.test(module, datamodule=VectorsDataModule(**DATA), verbose=False)
    return folder


@pytest.fixture(scope="module")
def result(found: Path) -> VectorsResult:
    result = read(found)
    assert result is not None
    return result


def test_a_point_is_the_mean_over_draws_of_a_sweep(result: VectorsResult, backbone: str, tiny_tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(backbone).eval()
    form = TextForm(tiny_tokenizer, is_chat=True)
    genre = read_concept("genre")
    tried = VectorSweep(model, form, genre.held_out, [genre.held_out[0].prompt], 3)
    effects = []
    for drawn in genre.draws("long", 3, 2, seed=0):
        site = Site(0, positions="from_1")
        (vector,), (norm,) = (of(model, form, drawn.pairs, [site]) for of in (pair_vectors, pair_norms))
        effects.append(tried.point(vector.at(strength_of_dose(vector, 0.3, norm)), 0.3).effect)
    (point,) = [point for point in result.at("genre", "long") if (point.layer, point.dose) == (0, 0.3)]
    assert point.effect.value == pytest.approx(sum(effects) / 2, abs=1e-3)
    assert point.draws == pytest.approx((min(effects), max(effects)), abs=1e-3)
    assert effects[0] != pytest.approx(effects[1], abs=1e-3)


def test_every_kind_has_a_point_at_every_layer_and_dose(result: VectorsResult, found: Path) -> None:
    assert len(result.points) == 2 * 3 * 2 * 2
    assert result.held_out == {"genre": 16, "sentiment": 16}
    with (found / "vectors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.points)
    assert float(rows[0]["effect"]) == pytest.approx(result.points[0].effect.value)
    random = {(point.concept, point.kind): point.effect.value for point in result.points if point.layer == 1}
    assert random["genre", "random"] != random["sentiment", "random"], "one vector, asked about both"


def test_the_page_shows_spots_doses_and_layers(found: Path, result: VectorsResult) -> None:
    page = page_of(found)
    assert len(page.all("img")) == 2
    for heading in ("Sweet spots", "Doses", "Layers", "Short and long pairs"):
        assert heading in page.text
    assert "genre, short pairs" in page.text


def test_a_test_that_is_cut_short_is_refused(backbone: str, tmp_path: Path) -> None:
    module = VectorsModule(str(tmp_path), layers=[0.0], doses=[0.1], backbone=BackboneArguments(backbone))
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, limit_test_batches=1
    )
    with pytest.raises(UserError, match="1 of 10 draws were tried"):
        trainer.test(module, datamodule=VectorsDataModule(**DATA), verbose=False)
    assert not (tmp_path / "vectors.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"doses": [-0.1]}, "one above 0 at least"),
        ({"doses": [0.0, 0.1]}, "other than 0"),
        ({"doses": []}, "one above 0 at least"),
        ({"layers": [1.5]}, "layers"),
        ({"positions": "first"}, "positions"),
        ({"max_new_tokens": 2}, "max_new_tokens is 2"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VectorsModule("nowhere", **options)
