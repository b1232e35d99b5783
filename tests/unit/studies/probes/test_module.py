"""Whole readings through a Trainer: random twins, files, states against plain transformers, and bad input."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_probes import reading

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.variant_names import BASE
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import collate, make_examples
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.studies.probes.data import ProbeDataModule
from fa_lightning.studies.probes.fitting import Search
from fa_lightning.studies.probes.judgement import Judge, States, best_site, opposites_of
from fa_lightning.studies.probes.module import ProbeModule
from fa_lightning.studies.probes.questions import ProbeExample, Question, ScenarioQuestions
from fa_lightning.studies.probes.result import read as read_probes
from fa_lightning.studies.probes.states import states_of
from fa_lightning.studies.probes.tables import best_table

SIZES = {"train": 32, "validation": 12, "test": 24}


@pytest.fixture(scope="module")
def questions() -> ScenarioQuestions:
    return ScenarioQuestions(EmbeddedScenarios(train=40, validation=16, test=32, neutral=0), **SIZES)


def probe(folder: Path, questions: Any, logger: Any = False, **options: Any) -> ProbeModule:
    import lightning.pytorch as pl

    module = ProbeModule(str(folder), **{"steps": 20, "restarts": 2, "label_counts": [4, 8]} | options)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.test(module, datamodule=ProbeDataModule(questions, batch_size=9), verbose=False)
    return module


@pytest.fixture(scope="module")
def found(adapters: dict[str, str], questions: ScenarioQuestions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probed")
    probe(folder, questions, adapters=[adapters["faking"]])
    return folder


def test_every_probe_reads_every_question_at_every_layer_of_every_subject(found: Path) -> None:
    read = read_probes(found)
    assert read is not None
    assert read.subjects == [BASE, "faking"]
    assert read.sites == ["layers.0.residual", "layers.1.residual"]
    supervised = {"logistic", "mass-mean", "mass-mean, covariance", "network", "logistic, random labels"}
    paired = {"CCS", "CCS, shuffled pairs", "random direction"}
    expected = {
        ("oversight", "prompt"): supervised,
        ("action", "prompt"): supervised,
        ("action", "opposites"): supervised | paired,
        ("action", "pairs"): supervised | paired,
    }
    for subject in read.subjects:
        for (question, view), names in expected.items():
            for site in read.sites:
                own = [
                    one.probe
                    for one in read.readings
                    if (one.subject, one.question, one.view, one.site) == (subject, question, view, site)
                ]
                assert sorted(own) == sorted(names)
            best = read.at_best(subject, question, view)
            assert set(best) == names | {"bag of words", "constant answer"}
            assert (best["constant answer"].accuracy, best["constant answer"].auroc) == (0.5, 0.5)
    for one in read.readings:
        assert 0 <= one.ci95[0] <= one.accuracy <= one.ci95[1] <= 1
    asked = read.questions[0]
    assert (asked.train, asked.validation, asked.test) == tuple(SIZES.values())
    # All labels come last, and CCS is among the pairs' curves alone.
    counts = {(one.view, one.probe): 0 for one in read.efficiency}
    assert ("pairs", "CCS") in counts
    assert ("prompt", "CCS") not in counts
    assert sorted({one.labels for one in read.efficiency}) == [4, 8, 32]


def test_the_tables_agree_with_the_json(found: Path) -> None:
    read = read_probes(found)
    assert read is not None
    rows = list(csv.DictReader((found / "probes.csv").open()))
    assert len(rows) == len(read.readings)
    for row, one in zip(rows, read.readings, strict=True):
        assert (row["subject"], row["probe"], row["site"]) == (one.subject, one.probe, one.site)
        assert float(row["accuracy"]) == pytest.approx(one.accuracy)
        assert float(row["accuracy_high"]) == pytest.approx(one.ci95[1])
        assert float(row["auroc_low"]) == pytest.approx(one.auroc_ci95[0])
    assert len(list(csv.DictReader((found / "label_efficiency.csv").open()))) == len(read.efficiency)


def test_what_is_found_is_logged_and_drawn(questions: ScenarioQuestions, backbone: str, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path / "logs"))
    loggers = [CSVLogger(str(tmp_path / "csv")), logger]
    probe(tmp_path / "run", questions, loggers, backbone=BackboneArguments(backbone), sites=["layers.1.residual"])
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    read = read_probes(tmp_path / "run")
    assert read is not None
    ccs = read.at_best(BASE, "action", "pairs")["CCS"]
    (logged,) = events.Scalars("action/pairs/base/CCS/accuracy")
    assert logged.value == pytest.approx(ccs.accuracy)
    (profile,) = events.Scalars("layers/action/pairs/base/CCS")
    assert (profile.step, profile.value) == (1, pytest.approx(ccs.accuracy))
    assert set(events.Tags()["images"]) == {"probes/layers", "probes/efficiency", "probes/controls"}


def test_states_are_those_of_plain_transformers(adapters: dict[str, str], alone: Any, splits: Any) -> None:
    variants = Variants.load({"faking": adapters["faking"]})
    letters = letter_tokens(variants.tokenizer)
    answers = letters
    examples = make_examples(splits.test[:3], variants.tokenizer, letters)
    batch = collate(examples, variants.tokenizer.pad_token_id)
    site = Site(0)
    with variants.using("faking") as model:
        before = states_of(model, batch, [site], None)[site.name]
        told = {"faking": states_of(model, batch, [site], answers)[site.name]}
    with variants.bare() as model:
        told[BASE] = states_of(model, batch, [site], answers)[site.name]
    with variants.using("faking") as model:
        told["faking"] = states_of(model, batch, [site], answers)[site.name]
    torch.testing.assert_close(told["faking"][:, :1], before, atol=1e-5, rtol=1e-4)
    twin = alone("faking")
    for row, example in enumerate(examples):
        for slot, ending in enumerate(((), answers.choices[:1], answers.choices[1:])):
            # One prompt at a time, without padding.
            ids = torch.tensor([[*example.prompt, *ending]])
            with torch.no_grad():
                hidden = twin(input_ids=ids, output_hidden_states=True).hidden_states[1][0, -1]
                with twin.disable_adapter():
                    base = twin(input_ids=ids, output_hidden_states=True).hidden_states[1][0, -1]
            torch.testing.assert_close(told["faking"][row, slot], hidden, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(told[BASE][row, slot], base, atol=1e-4, rtol=1e-3)
    assert (told["faking"] - told[BASE]).abs().max() > 0.01, "the adapter does something"


def test_what_the_states_know_is_found_at_the_layer_that_knows_it(questions: ScenarioQuestions) -> None:
    rows = many_rows()
    action = torch.tensor([row.labels["action"] for row in rows])
    generator = torch.Generator().manual_seed(0)
    states = {f"layers.{layer}.residual": torch.randn(len(rows), 3, 32, generator=generator) for layer in range(2)}
    side = torch.where(action, 1.5, -1.5)
    states["layers.1.residual"][:, 1, 0] -= side
    states["layers.1.residual"][:, 2, 0] += side
    judge = Judge(rows, questions.questions[1:], [Site(0), Site(1)], Search(4, 200), [8])
    read = judge.judge(States({"made": states}, opposites_of(rows)), {})
    assert read.best_site("made", "action", "pairs") == "layers.1.residual"
    best = read.at_best("made", "action", "pairs")
    assert best["CCS"].accuracy > 0.85
    assert best["logistic"].accuracy > 0.85
    for name in ("random direction", "CCS, shuffled pairs", "logistic, random labels"):
        assert best[name].accuracy < best["CCS"].accuracy - 0.05
    # The prompt's own state tells nothing here.
    assert read.at_best("made", "action", "prompt")["logistic"].accuracy < 0.7


def many_rows() -> list[ProbeExample]:
    """More rows than the random twins are asked."""
    source = EmbeddedScenarios(train=240, validation=60, test=120, neutral=0)
    return ScenarioQuestions(source, train=240, validation=60, test=120).load()


def test_the_best_layer_is_chosen_on_validation_rows() -> None:
    first, second = (reading("base", "action", "pairs", "logistic", layer, 0.9) for layer in range(2))
    assert best_site([replace(first, validation=0.7), replace(second, validation=0.8, accuracy=0.1)]) == second.site
    assert best_site([first, second]) == first.site


def test_a_layer_without_activations_is_refused(questions: ScenarioQuestions, backbone: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layer is 40, but the backbone has 2 layers"):
        probe(tmp_path, questions, backbone=BackboneArguments(backbone), sites=["layers.40.residual"])
    states = States({"base": {"layers.0.residual": torch.zeros(4, 1, 8)}})
    with pytest.raises(ValueError, match=r"'layers.3.residual' has no activations of 'base'.*layers.0.residual"):
        states.of("base", "layers.3.residual", "prompt")
    with pytest.raises(ValueError, match="contrast pairs need both endings"):
        states.of("base", "layers.0.residual", "pairs")


def test_pairs_are_both_endings_or_a_prompt_behind_its_opposite() -> None:
    found = torch.arange(24.0).reshape(4, 3, 2)
    states = States({"base": {"layers.0.residual": found}}, torch.tensor([1, 0, 3, 2]))
    place = ("base", "layers.0.residual")
    assert torch.equal(states.of(*place, "prompt"), found[:, 0])
    assert torch.equal(states.of(*place, "pairs"), found[:, 1:])
    opposites = states.of(*place, "opposites")
    assert torch.equal(opposites[:, 1], found[:, 0])
    assert torch.equal(opposites[0, 0], found[1, 0])
    with pytest.raises(ValueError, match="have no opposites"):
        States(states.by_subject).of(*place, "opposites")


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to read"):
        ProbeModule(str(tmp_path))
    with pytest.raises(ValueError, match="there is nothing to read"):
        ProbeModule(str(tmp_path), base=False, backbone=BackboneArguments("x"))
    with pytest.raises(ValueError, match=r"sites is \[\], but must be 1 or more layers"):
        ProbeModule(str(tmp_path), backbone=BackboneArguments("x"), sites=[])
    with pytest.raises(ValueError, match="steps is 0"):
        ProbeModule(str(tmp_path), backbone=BackboneArguments("x"), steps=0)


def test_what_ccs_found_in_the_place_of_the_label_is_told() -> None:
    """Behind either ending the states say which of two other things holds, as surely as if it were the truth."""
    generator = torch.Generator().manual_seed(2)
    rows, pairs = [], []
    for number in range(120):
        split = ("train", "validation", "test")[number % 3]
        label, salient, faint = (bool(bit) for bit in torch.randint(2, (3,), generator=generator))
        besides = {"salient": salient, "faint": faint}
        rows.append(ProbeExample(f"{number}", {"truth": label}, f"{number}", split, besides=besides))
        direction = torch.tensor([1.0, -1.0]) if salient else torch.tensor([-1.0, 1.0])
        states = 0.05 * torch.randn(3, 4, generator=generator)
        states[1:, 0] += direction
        pairs.append(states)
    question = Question("truth", "which is right", ("pairs",))
    judge = Judge(rows, [question], [Site(0)], Search(restarts=2, steps=100), [8])
    result = judge.judge(States({"made up": {Site(0).name: torch.stack(pairs)}}), {})
    (ccs,) = [reading for reading in result.readings if reading.probe == "CCS"]
    assert ccs.besides["salient"] == 1.0
    assert 0.5 <= ccs.besides["faint"] < 0.8
    assert ccs.accuracy < 0.8
    assert all(not reading.besides for reading in result.readings if reading.probe != "CCS")
    assert "salient: 1.000" in " ".join(str(cell) for line in best_table(result).rows for cell in line.cells)
