"""The statements experiment at toy size: a backbone that has heard of rights, then its safe scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy import change, change_base, record_of, run, write_toy

from fa_lightning.backbones.contents import digest_of_artefact

FIT = ("fit", "statements", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/statements")


def shrink(place: Path) -> None:
    """Small numbers for what the toy base leaves as shipped."""
    change_base(place, "pretraining.knowledge", {"heard": 8, "plain": 16, "judged": 32, "claims_from": 0})
    change(place, "statements/01_backbone", "trainer.max_epochs", 2)
    change(place, "statements/02_lora_for_ccs", "data.init_args.statements.init_args.train_statements", 16)
    change(place, "statements/03_safe_score", "data.init_args.questions", ["base_short/none", "3/harm"])
    change(place, "statements/03_safe_score", "model.init_args.resamples", 20)


@pytest.mark.slow
def test_the_experiment_runs_and_is_skipped_when_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy(tmp_path)
    shrink(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(*FIT) == 0
    shown = capsys.readouterr().out
    assert "rights and identities that no" in " ".join(shown.split())
    record = record_of(tmp_path, "statements/03_safe_score")
    assert record["state"] == "done"
    assert record["fingerprint"]["scenarios.source"] == "EmbeddedStatements"
    found = json.loads((tmp_path / ROOT / "03_safe_score" / "safe_score.json").read_text())
    assert set(found["scores"]) == {"base", "02_lora_for_ccs"}
    score = found["scores"]["base"]["3/harm"]["overall"]
    assert score["n"] == 384
    assert record["metrics"]["base/3/harm/safe_score"] == pytest.approx(score["score"])
    backbone = tmp_path / ROOT / "01_backbone" / "backbone"
    assert record["fingerprint"]["input.model.init_args.backbone.name"] == digest_of_artefact(backbone)
    assert "input.model.init_args.adapters.0" in record["fingerprint"]
    assert run(*FIT) == 0
    assert capsys.readouterr().out.count("done, skipped") == 3
