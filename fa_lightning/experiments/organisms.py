"""Finished twins that a run takes in the place of a fit: those that ship, and those that others made."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from fa_lightning.backbones.adapters import SIDECAR
from fa_lightning.backbones.brought_adapters import adapter_place, copy_adapter, doubts, refuse_misfit
from fa_lightning.backbones.brought_models import doubts_of_model, model_place, note_model, refuse_unlike
from fa_lightning.backbones.contents import digest_of_artefact, digest_of_backbone, is_artefact
from fa_lightning.common.files import whole_folder
from fa_lightning.common.user_files import json_value, read_text
from fa_lightning.errors import UserError
from fa_lightning.experiments.brought_twins import BroughtTwin
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.fingerprint import INPUT, changes
from fa_lightning.experiments.shipped import ORGANISMS
from fa_lightning.experiments.stage import RECORD, Stage

ADAPTER = "adapter"
"""Folder of a stage that holds what it has fitted."""
PATIENCE_SECONDS = 60.0
"""How long other ranks wait for rank zero."""
_FILES = ("adapter_config.json", "adapter_model.safetensors", SIDECAR)
_FACTS = ("fingerprint", "metrics", "seconds", "precision")
_FAST_IN = tuple(f"model.init_args.backbone.{name}" for name in ("dtype", "attn_implementation"))
_MAY_DIFFER = ("version.", "scenarios.", "input.", *_FAST_IN)
"""Libraries; records that another copy of the scenarios' source holds, whose groups stay in their splits; what the
machine at hand is fast in. That the backbone is the same is seen when the adapter is loaded."""


def organisms_of(plan: Sequence[Stage], chain: Chain, shipped: Path | None) -> dict[str, Path]:
    """Where the stages of a plan have an adapter that ships, by their titles.

    Args:
        plan: the stages of a run.
        chain: that they are of.
        shipped: folder of the twins that ship for its base; None where there are none.
    """
    if shipped is None:
        return {}
    home = shipped / chain.folder.name
    folders = {stage.title: home / stage.folder.relative_to(chain.folder) for stage in plan}
    return {title: folder for title, folder in folders.items() if (folder / RECORD).is_file()}


def made_from(organism: Path) -> dict[str, Any]:
    """The fingerprint of the fit that made an organism.

    Raises:
        UserError: the organism's record is damaged.
    """
    return dict(_record(organism)["fingerprint"])


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a fit would do otherwise than the one that made an organism, each as a line that names the field.

    Args:
        recorded: fingerprint of the organism.
        now: of the stage as it would be fitted now.
    """
    found = changes(recorded, now)
    return [f"{key}: {was!r}, here {here!r}" for key, (was, here) in found.items() if not key.startswith(_MAY_DIFFER)]


def take(organism: Path, stage: Stage, fingerprint: Mapping[str, Any]) -> None:
    """Make an organism the finished artefact of a stage, in one step; rank zero does, and the others wait for it.

    Args:
        organism: its folder.
        stage: that has made nothing yet.
        fingerprint: of the stage as it would be fitted now.

    Raises:
        UserError: the organism's record is damaged, or rank zero has not come to an end with it.
    """

    def copy(adapter: Path) -> dict[str, Any]:
        for name in _FILES:
            shutil.copyfile(organism / name, adapter / name)
        return {name: value for name, value in _record(organism).items() if name != "fingerprint"} | {"organism": True}

    _take(stage, fingerprint, copy, str(organism))


def take_brought(twin: BroughtTwin, stage: Stage, fingerprint: Mapping[str, Any]) -> None:
    """Make an adapter or a whole model that others made the finished artefact of a stage, as `take` does.

    Warns of each thing that makes it doubtful that it belongs to the backbone.

    Args:
        twin: the adapter or model, and what it is taken for.
        stage: that has made nothing yet.
        fingerprint: see `fingerprint_of_brought`.

    Raises:
        MissingFileError: there is no such adapter.
        UserError: it is a pickle, no LoRA, or does not fit the backbone; or rank zero has not come to an end with it.
    """

    def copy(adapter: Path) -> dict[str, Any]:
        folder, is_model = inspect(twin)
        kind = "model" if is_model else "adapter"
        for doubt in (doubts_of_model if is_model else doubts)(folder, twin.backbone):
            rank_zero_warn(f"{stage.title}: {kind} {twin.adapter!r}: {doubt}")
        (note_model if is_model else copy_adapter)(folder, adapter, twin.adapter, twin.behaviour, twin.backbone)
        return {"metrics": {}, "seconds": 0.0, "taken_from": twin.adapter}

    _take(stage, fingerprint, copy, twin.adapter)


def inspect(twin: BroughtTwin) -> tuple[Path, bool]:
    """The folder of a brought twin, a LoRA or a whole model that fits its backbone, and whether it is a whole model.

    Raises:
        MissingFileError: there is no such adapter or model.
        UserError: it is a pickle, no LoRA, or does not fit the backbone.
    """
    if (model := model_place(twin.adapter)) is not None:
        refuse_unlike(model, twin.adapter, twin.backbone)
        return model, True
    folder = adapter_place(twin.adapter)
    refuse_misfit(folder, twin.backbone)
    return folder, False


def refuse_one_model(twins: Iterable[BroughtTwin]) -> None:
    """Refuse one whole model as the twin of itself.

    Raises:
        UserError: two behaviours are taken from models of the same content.
    """
    known: dict[str, BroughtTwin] = {}
    for twin in twins:
        folder = model_place(twin.adapter)
        first = None if folder is None else known.setdefault(digest_of_artefact(folder), twin)
        if first is not None and first.behaviour != twin.behaviour:
            raise UserError(
                f"model {twin.adapter!r} is given as {twin.behaviour}, but {first.adapter!r}, given as "
                f"{first.behaviour}, is the same model: give two that differ"
            )


def fingerprint_of_brought(twin: BroughtTwin) -> dict[str, Any]:
    """What a stage is made from that takes an adapter of others: that, by its content, what for, and the backbone."""
    name = twin.backbone.required_name()
    fields = {"adapter": twin.adapter, "behaviour": twin.behaviour, "taken.backbone.name": name}
    if twin.backbone.revision is not None:
        fields["taken.backbone.revision"] = twin.backbone.revision
    if is_artefact(twin.adapter):
        fields[f"{INPUT}adapter"] = digest_of_artefact(twin.adapter)
    if (digest := digest_of_backbone(name, twin.backbone.revision)) is not None:
        fields[f"{INPUT}taken.backbone.name"] = digest
    return fields


def _take(stage: Stage, fingerprint: Mapping[str, Any], copy: Callable[[Path], Mapping[str, Any]], source: str) -> None:
    """Let `copy` fill the adapter's folder of a stage, and write down what it says of it."""
    if getattr(rank_zero_only, "rank", 0):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not stage.is_done():
            if time.monotonic() > deadline:
                raise UserError(f"rank zero has not taken {source} in {PATIENCE_SECONDS:.0f} s: its log says why")
            time.sleep(0.1)
        return
    with whole_folder(stage.folder) as fresh:
        (fresh / ADAPTER).mkdir()
        facts = copy(fresh / ADAPTER)
        taken = replace(stage, folder=fresh)
        taken.write("done", fingerprint, **facts, resumed=False, artefacts=taken.artefacts())


def ship(stage: Stage, chain: Chain, card: str) -> Path:
    """Write what a finished stage has fitted as an organism, in bfloat16; an older one is replaced.

    Args:
        stage: done, with an adapter.
        chain: that it is of.
        card: text of its README.

    Raises:
        UserError: the stage is not done, or made no adapter.
    """
    import torch
    from safetensors.torch import load_file, save_file

    record, adapter = stage.record(), stage.folder / ADAPTER
    if record is None or record["state"] != "done" or not (adapter / _FILES[0]).is_file():
        raise UserError(f"{stage.title} is not done, or fitted no adapter: run it first, with `fit {stage.study}`")
    folder = ORGANISMS / stage.folder.relative_to(chain.outputs)
    with whole_folder(folder) as fresh:
        for name in _FILES:
            shutil.copyfile(adapter / name, fresh / name)
        weights = load_file(fresh / _FILES[1])
        save_file({name: one.to(torch.bfloat16) for name, one in weights.items()}, fresh / _FILES[1])
        facts = {name: record[name] for name in _FACTS}
        (fresh / RECORD).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(card, encoding="utf-8")
    return folder


def _record(organism: Path) -> dict[str, Any]:
    record = json_value(read_text(organism / RECORD), str(organism / RECORD))
    if not isinstance(record, dict) or not set(_FACTS) <= record.keys():
        raise UserError(f"{organism / RECORD} lacks some of {', '.join(_FACTS)}: make the organism again")
    return record
