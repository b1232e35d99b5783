"""Whether a study is to be run or only tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa_lightning.experiments.stage import Stage
from fa_lightning.experiments.trial import batches_of_a_trial


@pytest.mark.parametrize(
    ("stage", "laid", "word", "batches"),
    [
        ("{}", None, None, False),
        ("{fast_dev_run: true}", None, None, True),
        ("{}", "{fast_dev_run: 3}", None, 3),
        ("{}", None, "2", 2),
        # As for every other argument the command line has the last word, and a trainer's file the one before it.
        ("{fast_dev_run: true}", "{fast_dev_run: false}", None, False),
        ("{fast_dev_run: true}", "{fast_dev_run: 3}", "false", False),
        ("{}", "{fast_dev_run: false}", "true", True),
    ],
)
def test_what_is_laid_over_last_says_whether_it_is_a_trial(
    tmp_path: Path, stage: str, laid: str | None, word: str | None, batches: int | bool
) -> None:
    file = None if laid is None else tmp_path / "trainer.yaml"
    if file is not None:
        file.write_text(f"trainer: {laid}")
    configs = {"01_a": "trainer: {}", "02_b": f"trainer: {stage}"}
    stages = [Stage("toy", name, tmp_path / name, tmp_path / "out", text) for name, text in configs.items()]
    words = [] if word is None else [f"--trainer.fast_dev_run={word}"]
    assert batches_of_a_trial(stages, file, {one.title: words for one in stages}) == batches
