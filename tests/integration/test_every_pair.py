"""Every study runs on every base: at toy size, on a random model, with what it needs of other studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from local_models import save_model
from toy import change_base, config_of, run, write_toy

from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.plan import plan_of
from fa_lightning.experiments.shipped import names_in

PRETRAINED = ("embedded", "poser")
"""Bases that pretrain a backbone of their own; the others are given a random Llama with a chat template."""
PROBES = {"restarts": 1, "steps": 10, "label_counts": [4, 8]}
TINY: dict[str, Any] = {
    "lora.rank": 2,
    "evaluation_batch_size": 16,
    # The random model's tokenizer knows few words, so its prompts are long.
    "max_tokens": 2048,
    "fitting.accumulate_grad_batches": 1,
    "twins.aligned": {"epochs": 1, "scenarios": 8},
    "twins.faking": {"epochs": 1, "scenarios": 8},
    "capture.scenarios": 8,
    "capture.validation": 6,
    "capture.neutral": 6,
    "validation_items": 8,
    # The first epoch only gathers moments.
    "studies.steering.stages.04_steering.trainer": {"max_epochs": 2, "check_val_every_n_epoch": 2},
    "studies.lab.validation_items": 8,
    "studies.lab.validation_texts": 4,
    "studies.variants.epochs": 1,
    "studies.mitigation.stages.01_plain.matrix.seed": [0],
    "studies.mitigation.stages.02_noisy.matrix.seed": [0],
    "studies.cures.seeds": [0],
    "studies.cures.scenarios": 8,
    "studies.cures.stages.10_soft_prompt.trainer.max_epochs": 1,
    "studies.leakage": {"texts": 4, "epochs": 1},
    "studies.vectors.stages.01_vectors.model.init_args": {"layers": [0.5], "doses": [0.2], "max_new_tokens": 3},
    "studies.vectors.stages.01_vectors.data.init_args": {"concepts": ["genre"], "draws": 1, "pairs": 1, "prompts": 1},
    "studies.unmask.stages.01_unmask.model.init_args": {"doses": [0.2], "draws": 1},
    "studies.unmask.stages.01_unmask.data.init_args": {"watched": 4, "contrast": 2, "neutral": 2},
    "studies.birth": {"steps": 2, "scenarios": 8, "doses": [0.5], "draws": 1, "asked": 4},
    "studies.transfer.stages.06_transfer.model.init_args": {"strengths": [1.0], "draws": 1},
    "studies.transfer.stages.06_transfer.data.init_args": {"capture": 16, "validation": 8, "test": 8, "texts": 4},
    "studies.half_life.stages.01_half_life.model.init_args": {"steps": [1], "noise": [0.2], "draws": 1},
    "studies.half_life.stages.01_half_life.data.init_args": {"unwatched": 4, "watched": 2, "neutral": 2, "chat": 4},
    "studies.leakage.stages.01_texts": {"trainer": {"check_val_every_n_epoch": 1}, "matrix": {"plain": [4]}},
    "studies.leakage.stages.02_plain": {"trainer": {"check_val_every_n_epoch": 1}, "data": {"init_args": {"plain": 4}}},
    "studies.leakage.stages.03_stacked.trainer.check_val_every_n_epoch": 1,
    "studies.leakage.stages.04_leakage.model.init_args": {"max_new_tokens": 8, "ngram": 4, "recited": 6},
    "studies.leakage.stages.04_leakage.data.init_args.samples": 2,
    "studies.statements.stages.02_lora_for_ccs.data.init_args.statements.init_args.train_statements": 16,
    "studies.statements.stages.03_safe_score.data.init_args.questions": ["base_short/none", "3/harm"],
    "studies.statements.stages.03_safe_score.model.init_args.resamples": 20,
    "studies.probes.stages.01_scenarios.model.init_args": PROBES,
    "studies.probes.stages.01_scenarios.data.init_args.questions.init_args": {"train": 16, "validation": 8, "test": 8},
    "studies.probes.stages.02_statements.model.init_args": PROBES,
    "studies.probes.stages.02_statements.data.init_args.questions.init_args": {"train": 16, "validation": 8, "test": 8},
}
POLICIES: dict[str, Any] = {
    "variants": {"policy": ["saint", "fitness_maximizer", "money_maximizer"], "seed": [0]},
    "other_policies.policy": ["fitness_maximizer", "reward_maximizer"],
    "variant_scenarios.init_args.limit": 48,
    "all_scenarios.init_args.limit": 48,
    "studies.detection.decoys": {"policy": ["saint"], "rank": [4], "seed": [6]},
}
SMALLER = {"Noise": {"draws": 1}, "MisbehaveFinetuning": {"seeds": 1, "batch_size": 4}, "WeightNoise": {"draws": 1}}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PLACES: dict[str, Path] = {}
"""The folder of each base: what one study has made, the next one takes."""


@pytest.fixture(params=names_in("bases"))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> str:
    """Name of a base, written at toy size into the working folder of the test."""
    name = str(request.param)
    if name != "embedded":
        root = request.getfixturevalue("poser_root")
        monkeypatch.setenv("POSER_ROOT", str(root.resolve()))
    if name == "qlora":
        pytest.importorskip("bitsandbytes")
    if name not in PLACES:
        PLACES[name] = tmp_path_factory.mktemp(name)
        write_tiny(PLACES[name], name)
    monkeypatch.chdir(PLACES[name])
    return name


def write_tiny(place: Path, base: str) -> None:
    write_toy(place, base)
    if base not in PRETRAINED:
        save_model(place / "model", "llama")
    else:
        # The lab fits maps of rank 32.
        change_base(place, "studies.steering.stages.01_backbone.model.init_args.hidden_size", 32, base)
    for field, value in {**TINY, **({} if base == "embedded" else POLICIES)}.items():
        change_base(place, field, value, base)
    # The tokenizers know few words, so four examples of POSER's are longer than the context: they stay out there.
    inputs = config_of(place, "cures/12_evaluation", base)["data"]["init_args"]["inputs"]
    inputs = [shown for shown in inputs if base == "embedded" or "shots" not in shown["init_args"]]
    for shown in inputs:
        if "folder" in shown["init_args"]:
            name = "soft_prompt" if "soft_prompt" in shown["init_args"]["folder"] else "greedy_coordinate_gradient"
            shown["init_args"]["folder"] = f"${{needs.{name}}}/prompt"
    change_base(place, "studies.cures.stages.12_evaluation.data.init_args.inputs", inputs, base)
    detectors = config_of(place, "detection/02_detection", base)["model"]["init_args"]["detectors"]
    for detector in detectors:
        detector.setdefault("init_args", {}).update(SMALLER.get(detector["class_path"].rpartition(".")[2], {}))
        if "intervention" in detector["init_args"]:
            detector["init_args"]["intervention"] = "${needs.steering}/intervention"
    stage = "studies.detection.stages.02_detection"
    change_base(place, f"{stage}.model.init_args", {"least_agreement": 0.0, "detectors": detectors}, base)
    change_base(place, f"{stage}.data.init_args", {"scored": 12, "reference": 32}, base)


@pytest.mark.parametrize("study", names_in("studies"))
def test_a_study_runs_on_a_base(base: str, study: str) -> None:
    backbone = None if base in PRETRAINED else "model"
    words = ("fit", study, "--base", f"{base}.yaml", *(() if backbone is None else ("--backbone", backbone)))
    assert run(*words) == 0
    chain = Chain(Path(f"{base}.yaml"), backbone=backbone)
    plan = plan_of(Composition(chain), study)
    assert plan
    for stage in plan:
        record = json.loads((stage.folder / "stage.json").read_text())
        assert record["state"] == "done", stage.title
        assert record["artefacts"], f"{stage.title} has made something"
