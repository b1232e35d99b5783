"""The toy experiment in three logs at once, and under another logger than it was made with."""

from __future__ import annotations

from pathlib import Path

import pytest
from logged_scalars import in_csv, in_tensorboard, in_wandb, values_in
from test_experiment import FIT, ROOT, STAGES, digests, told
from toy import run


def test_finished_stages_stay_finished_under_another_logger(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(copied / "checkpoints")
    told(capsys)
    assert run(*FIT, "--trainer.logger", "CSVLogger") == 0
    assert told(capsys) == dict.fromkeys(STAGES, "done, skipped")
    assert digests(copied / "checkpoints") == before


def test_no_chart_has_one_point(finished: Path) -> None:
    for stage in STAGES:
        charts, texts = in_tensorboard(finished / "logs/embedded/seed0/steering" / stage)
        assert charts, stage
        assert {name: points for name, points in charts.items() if len(points) < 2} == {}
        assert any(name.startswith("test/") for name in values_in(texts))


def test_three_loggers_hold_the_same_and_change_no_adapter(copied: Path) -> None:
    pytest.importorskip("wandb", reason="needs wandb")
    (copied / "three.yaml").write_text(
        "trainer:\n  logger:\n    - class_path: TensorBoard\n    - class_path: CSVLogger\n"
        "    - {class_path: WandbLogger, init_args: {offline: true}}\n"
    )
    adapter = copied / ROOT / "02_aligned" / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    # What the first run has logged is another one's.
    (copied / "logs").rename(copied / "old_logs")
    assert run(*FIT, "--refit", "02_aligned", "--only", "02_aligned", "--trainer", "three.yaml") == 0
    assert adapter.read_bytes() == before
    folder = copied / "logs/embedded/seed0/steering/02_aligned"
    charts, texts = in_tensorboard(folder)
    ones, rows, history = values_in(texts), in_csv(folder), in_wandb(folder)
    about_texts = {name for name in history if name.startswith("val/aligned/answers/")}
    assert set(charts) | set(ones) == set(rows) == set(history) - about_texts
    for name, points in charts.items():
        assert rows[name] == history[name] == [(step, pytest.approx(value, rel=1e-5)) for step, value in points]
    for name, value in ones.items():
        assert [found for _, found in rows[name]] == [pytest.approx(value, rel=1e-3)]
    assert len(list((folder / "val" / "aligned").glob("answers-*.md"))) == len(charts["val/loss"])
