"""The digest of an artefact: one for the same content wherever and whenever it was written, another for any change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fa_lightning.activations.sites import Site
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.backbones import contents
from fa_lightning.backbones.adapters import attach_adapter, save_adapter
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.contents import digest_of_artefact, is_artefact
from fa_lightning.backbones.load import load_backbone
from fa_lightning.evaluation.conditions import save_together
from fa_lightning.steering.intervention import Intervention
from fa_lightning.training.learned_prompts import write_prompt

Write = Callable[[Path, int, str], None]
"""Writes an artefact with a seed for its content, and a note of what is none."""


def adapter(folder: Path, seed: int, note: str) -> None:
    torch.manual_seed(seed)
    model = attach_adapter(load_backbone(BACKBONE[0]), "faking", LoraArguments(2, 4, 0.0, ["q_proj", "v_proj"]))
    model.peft_config["faking"].base_model_name_or_path = note
    save_adapter(model, "faking", folder, {"training_seconds": len(note)})
    # PEFT writes them in another order in every process.
    targets = ["v_proj", "q_proj"] if note == "here" else ["q_proj", "v_proj"]
    edit(folder / "adapter_config.json", target_modules=targets)


def intervention(folder: Path, seed: int, note: str) -> None:
    Intervention(Site(seed), torch.ones(4), 1.0).save(folder)
    edit(folder / "intervention.json", libraries=note)


def stack(folder: Path, seed: int, note: str) -> None:
    save_together([Intervention(Site(number), torch.ones(4), 1.0) for number in (0, 1 + seed)], folder)
    edit(folder / "1" / "intervention.json", libraries=note)


def prefix(folder: Path, seed: int, note: str) -> None:
    write_prompt(
        folder, "You", torch.full((1, 4), float(seed)), {"name": "x", "training_seconds": 1.0, "start_from": note}
    )


def store(folder: Path, seed: int, note: str) -> None:
    writer = StoreWriter(folder, {"seed": "0"}, ["layers.0.residual"])
    states = {name: torch.full((2, 4), float(seed)) for name in ("faking", "aligned")}
    rows = {name: torch.zeros(2) for name in ("example", "position", "decision", "group", "cell")}
    writer.write(0, "train", {"layers.0.residual": states}, rows)
    writer.finish([0])
    edit(folder / "manifest.json", versions=note)


def changed_backbone(folder: Path, seed: int, note: str) -> None:
    shutil.copytree(BACKBONE[0], folder)
    edit(folder / "config.json", transformers_version=note)
    if seed:
        weights = load_file(folder / "model.safetensors")
        name = "model.layers.0.mlp.up_proj.weight"
        save_file({**weights, name: weights[name] + 0.1}, folder / "model.safetensors", {"format": "pt"})


def adapters(folder: Path, seed: int, note: str) -> None:
    adapter(folder / "saint-0" / "adapter", 0, note)
    adapter(folder / "saint-1" / "adapter", seed, note)
    (folder / "saint-1" / "stage.json").write_text(note)


def evidence(folder: Path, seed: int, note: str) -> None:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "table.csv").write_text(str(seed))
    (folder / f".{note}.tmp").write_text(note)


def examination(folder: Path, seed: int, note: str) -> None:
    """What detectors found of many models; a single one is judged beside it (`population`)."""
    folder.mkdir(parents=True)
    (folder / "detection.json").write_text(json.dumps({"suspects": [seed]}))
    (folder / "report.html").write_text(note)


BACKBONE: list[str] = []


@pytest.mark.parametrize(
    "write", [adapter, intervention, stack, prefix, store, changed_backbone, adapters, examination, evidence]
)
def test_content_counts_and_nothing_else(backbone: str, tmp_path: Path, write: Write) -> None:
    BACKBONE[:] = [backbone]
    for name, seed, note in (("one", 0, "here"), ("moved/same", 0, "there, later"), ("other", 1, "here")):
        write(tmp_path / name, seed, note)
    one, same, other = (digest_of_artefact(tmp_path / name) for name in ("one", "moved/same", "other"))
    assert one == same != other
    assert len(one) == 16
    # Folders of any other kind are no artefacts that a config could mean: a word may happen to be a folder's name.
    assert is_artefact(tmp_path / "one") is (write is not evidence)


def test_a_large_file_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "WHOLE", 1000)
    path = tmp_path / "large.bin"
    path.write_bytes(b"a" * 3_000_000)
    before = digest_of_artefact(path)
    for at in (0, 2_999_999):
        content = bytearray(b"a" * 3_000_000)
        content[at] = 0
        path.write_bytes(content)
        assert digest_of_artefact(path) != before
    path.write_bytes(b"a" * 3_000_001)
    assert digest_of_artefact(path) != before


def edit(path: Path, **facts: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        digest_of_artefact(tmp_path / "nowhere")
