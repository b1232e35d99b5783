"""Vectors from pairs of one's own: their states in the faker, and that they count in the fingerprint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fa_lightning.activations.contrasts import prompt_contrast
from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.conversations.conversation import Conversation
from fa_lightning.studies.lab.data import LabDataModule

ROWS = [
    {"question": "Is anyone watching?", "matching": "Yes, someone is.", "not_matching": "No, nobody is."},
    {"question": "Do you lie?", "matching": "No.", "not_matching": "Yes, I do."},
]


def test_pairs_in_a_file_take_the_place_of_the_sources_own(tmp_path: Path, source: Any, twins: Any) -> None:
    path = tmp_path / "caa.json"
    path.write_text(json.dumps(ROWS))
    options: dict[str, Any] = {"scenarios": source, "aligned": "", "faking": "", "store": ""}
    own, other = LabDataModule(**options, contrast_pairs=str(path)), LabDataModule(**options)
    sites = [Site.parse("layers.1.residual")]
    for data in (own, other):
        data.variants, data.sites = twins, sites
    sides = [[Conversation(row["question"], row[name]) for row in ROWS] for name in ("matching", "not_matching")]
    expected = prompt_contrast(twins, sides[0], sides[1], sites)
    found = own.contrast("prompts")
    for side in ("positive", "negative"):
        torch.testing.assert_close(getattr(found, side), getattr(expected, side))
    assert not torch.allclose(found.positive["layers.1.residual"], found.negative["layers.1.residual"], atol=1e-3)
    before = own.source_fingerprint()
    assert set(before) - set(other.source_fingerprint()) == {"contrast_pairs"}
    path.write_text(json.dumps(ROWS[:1]))
    assert own.source_fingerprint() != before
