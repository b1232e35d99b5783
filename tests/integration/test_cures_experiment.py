"""The table of cures at toy size, by the real command; and what the shipped files agree on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_configs import BASES, backbone_of, config, exports, stages
from toy import change, change_base, run

from fa_lightning.experiments.fingerprint import changes, fingerprint_of

FIT = ("fit", "cures", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/cures")
TRAINED = [
    "fine-tuning",
    "DPO",
    "SPIN",
    "RMU, random direction",
    "RMU, safe direction",
    "RMU, safe direction, full weights",
    "context distillation",
    "LoRA-for-CCS",
    "self training",
]
TWINS = ["aligned", "faking"]
FITS = [
    *("fine_tuning", "dpo", "spin", "rmu_random", "rmu_safe", "rmu_full_weights", "distillation", "lora_for_ccs"),
    "self_training",
]
AROUND = ["system prompt", "prefix", "prefix that claims oversight", "suffix", "few-shot", "retrieval"]
LEARNED = ["soft prompt", "greedy coordinate gradient"]
SEVERAL = "13_several_fakers"
JUDGED = "14_several_fakers_judged"
GUARDED = ["guard: refuse", "guard: answer again steered"]
BASELINES = ["random prefix", "few-shot with shuffled answers", "constant answer"]


@pytest.mark.parametrize("base", ["embedded", "poser", "smollm2"])
def test_every_cure_starts_from_the_faker_of_the_main_job_and_is_judged(base: str) -> None:
    *fits, judging = (stage for stage in stages(base, "cures") if not stage.optional)
    faker = config(base, "steering", "03_faking")
    source = faker["data"]["init_args"]["scenarios"]
    for stage in fits:
        fitted = yaml.safe_load(stage.config)
        model, data = fitted["model"]["init_args"], fitted["data"]["init_args"]
        assert [model["start_from"]] == exports(faker)
        assert backbone_of(fitted) == backbone_of(faker)
        assert data["scenarios"] == source, "or test groups would leak"
        assert judging.needs_one(stage), f"{stage.name} is made and not judged"
    final = yaml.safe_load(judging.config)
    assert final["data"]["init_args"]["scenarios"] == source
    assert final["model"]["init_args"]["intervention"] == f"checkpoints/{base}/seed0/steering/04_steering/intervention"


@pytest.mark.parametrize("base", ["embedded", "poser", "smollm2"])
def test_a_prefix_of_several_chains_is_learned_and_judged_when_it_is_asked_for(base: str) -> None:
    *fits, judging = (stage for stage in stages(base, "cures") if stage.optional)
    assert [stage.name for stage in (*fits, judging)] == [f"{SEVERAL}/all", f"{SEVERAL}/others", JUDGED]
    (alone,) = stages(base, "cures", "11_greedy_coordinate_gradient")
    fakers = [f"checkpoints/{base}/seed{seed}/steering/03_faking/adapter" for seed in (0, 1, 2)]
    for stage, left_out in zip(fits, (False, True), strict=True):
        fitted, expected = yaml.safe_load(stage.config), yaml.safe_load(alone.config)
        model = fitted["model"]["init_args"]
        assert [other["adapter"] for other in model.pop("others")] == fakers
        assert model.pop("left_out") is left_out
        assert (fitted["model"], fitted["data"]) == (expected["model"], expected["data"])
        assert judging.needs_one(stage)
    final = yaml.safe_load(judging.config)
    prompts = [cure["init_args"].get("folder") for cure in final["data"]["init_args"]["inputs"]]
    assert prompts == [f"{stage.folder}/prompt" for stage in (alone, *fits)] + [None]
    assert final["data"]["init_args"]["scenarios"] == expected["data"]["init_args"]["scenarios"]


def test_a_prefix_that_was_learned_before_there_could_be_others_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fa_lightning.experiments.fingerprint import changes, fingerprint_of
    from fa_lightning.experiments.runner import build, resolved

    monkeypatch.chdir(tmp_path)
    (alone,) = stages("embedded", "cures", "11_greedy_coordinate_gradient")
    now = fingerprint_of(resolved(build(alone, None)), {}, alone.folder)
    new = {f"model.init_args.{name}" for name in ("others", "left_out")}
    assert new <= now.keys()
    assert changes({name: value for name, value in now.items() if name not in new}, now) == {}
    assert changes(now, {**now, "model.init_args.left_out": True})


def test_all_tables_have_the_same_stages() -> None:
    one, *others = ({stage.name for stage in stages(base, "cures")} for base in BASES)
    assert all(other == one for other in others)


def test_tables_that_were_made_before_there_were_guards_stay_valid(tmp_path: Path) -> None:
    (final,) = (one for one in stages("embedded", "cures") if one.is_called("cures/12_evaluation"))
    now = yaml.safe_load(final.config)
    assert now["model"]["init_args"].pop("guard", "missing") is None
    before = yaml.safe_load(final.config) | {"model": now["model"]}

    def made_from(config: dict[str, Any]) -> dict[str, Any]:
        return fingerprint_of(config, {}, tmp_path)

    assert changes(made_from(before), made_from(yaml.safe_load(final.config))) == {}
    before["model"]["init_args"]["guard"] = "words"
    assert set(changes(made_from(yaml.safe_load(final.config)), made_from(before))) == {"model.init_args.guard"}


@pytest.mark.slow
def test_the_whole_table_at_toy_size(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    # Without the second pair of twins, which another study makes.
    trained = [*TWINS, *FITS]
    change(tmp_path, "cures/12_evaluation", "needs", {"other_aligned": None, "other_faking": None})
    change(tmp_path, "cures/12_evaluation", "model.init_args.adapters", [f"${{needs.{name}}}" for name in trained])
    change_base(tmp_path, "studies.cures.guard", "words")
    assert run(*FIT) == 0
    shown = capsys.readouterr().out
    assert "Ways to cure a faker" in shown
    rows = list(csv.DictReader((ROOT / "12_evaluation" / "cures.csv").open()))
    methods = [row["method"] for row in rows]
    expected = [method for name in TRAINED for method in (name, f"{name}, kept")]
    drawn = ("few-shot", "random prefix", "few-shot with shuffled answers")
    rest = (*AROUND, *LEARNED, *BASELINES[:2], *GUARDED, BASELINES[2])
    assert methods == [
        *("no cure", "aligned twin", "steering"),
        *expected,
        *(method for name in rest for method in [name] * (5 if name in drawn else 1)),
    ], "every training with and without the term, five draws of what is random, one row of everything else"
    constant = rows[-1]
    assert (float(constant["oversight"]), float(constant["no_oversight"])) == (0.5, 0.5)
    for row in rows[3 : 3 + len(expected)]:
        assert float(row["training_seconds"]) > 0
        assert row["needs"]
    results = json.loads((ROOT / "results.json").read_text())
    assert results
    assert run(*FIT) == 0
    said = capsys.readouterr().out
    assert said.count(" cures/") == said.count("done, skipped") - 4 == len(FITS) * 2 + 2 + 1
    assert "At equal damage" in shown
    tried = list(csv.DictReader((ROOT / "12_evaluation" / "strengths.csv").open()))
    cures = ["steering", "weight arithmetic", *expected]
    assert [(row["method"], row["strength"]) for row in tried] == [
        (cure, one) for cure in cures for one in ("0.5", "1.0")
    ]
    assert run("report", str(ROOT)) == 0
    page = (ROOT / "report.html").read_text()
    assert all(method in page for method in (*TRAINED, *AROUND, *LEARNED, *GUARDED))
    assert "What the guard stops" in shown
    guard = json.loads((ROOT / "12_evaluation" / "cures.json").read_text())["guard"]
    # The words of the shipped scenarios tell which action is aligned, so those of 32 groups do for most of 16 others.
    assert guard["false_alarms"]["value"] < 0.5
    assert guard["misses"]["value"] < 0.5


@pytest.mark.slow
def test_a_prefix_of_two_chains_at_toy_size(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    fakers = [f"${{base_folder}}/seed{seed}/steering/03_faking/adapter" for seed in (0, 1)]
    change_base(tmp_path, "studies.cures.fakers", [{"adapter": faker} for faker in fakers])
    for stage in ("01_backbone", "02_aligned", "03_faking"):
        assert run("fit", "steering", "--base", "embedded.yaml", "--seed", "1", "--only", stage) == 0
    capsys.readouterr()
    asked = [word for stage in ("11_greedy_coordinate_gradient", SEVERAL, JUDGED) for word in ("--only", stage)]
    assert run(*FIT, *asked) == 0
    rows = list(csv.DictReader((ROOT / JUDGED / "cures.csv").open()))
    learned = [LEARNED[1], *(f"{LEARNED[1]}, {which} fakers" for which in ("several", "other"))]
    expected = ["no cure", "aligned twin", *learned, *["random prefix"] * 5, "constant answer"]
    assert [row["method"] for row in rows] == expected
    prompts = [ROOT / SEVERAL / which / "prompt" / "prompt.json" for which in ("all", "others")]
    facts = [json.loads(prompt.read_text()) for prompt in prompts]
    other = "checkpoints/embedded/seed1/steering/03_faking/adapter"
    assert [(fact["others"], fact["left_out"]) for fact in facts] == [([other], False), ([other], True)]
    assert (ROOT / JUDGED / "results.json").is_file()
    assert not (ROOT / "results.json").exists(), "the study's own result is of the whole table"
    assert "Ways to cure a faker" in capsys.readouterr().out
    assert run("fit", "cures", "--base", "embedded.yaml", "--seed", "1", *asked[:4]) == 0
    (seen,) = json.loads((Path(str(prompts[1]).replace("seed0", "seed1"))).read_text())["others"]
    assert "seed0" in seen, "each chain leaves its own out"
