"""Twins that others made: a LoRA adapter, as `peft` writes it, or a whole model, in the place of a fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.common.user_files import read_mapping
from fa_lightning.errors import UserError
from fa_lightning.experiments.shipped import shipped_configs

Layer = tuple[Path, dict[str, Any]]
"""A file of a base, and what it says itself."""

LAYER = "twins_of_others"
BEHAVIOURS = ("aligned", "faking")


@dataclass(frozen=True)
class BroughtTwin:
    """An adapter, or a whole model, that a stage takes in the place of a fit.

    Attributes:
        adapter: its folder, or `user/repo[/subfolder]` on the Hub.
        behaviour: that it is taken for.
        backbone: that it is laid on.
    """

    adapter: str
    behaviour: str
    backbone: BackboneArguments

    def as_config(self) -> str:
        """What the command `config` shows of such a stage."""
        taken = {"adapter": self.adapter, "behaviour": self.behaviour, "backbone": {"name": self.backbone.name}}
        return str(yaml.safe_dump({"taken": taken}, sort_keys=False))


def twins_of(words: str) -> tuple[tuple[str, str], ...]:
    """The adapter, or whole model, of each behaviour, from `aligned=ADAPTER,faking=ADAPTER` on the command line.

    Raises:
        UserError: it is not written so.

    >>> twins_of("faking=out/my,faker,aligned=org/honest")
    (('aligned', 'org/honest'), ('faking', 'out/my,faker'))
    """
    named: dict[str, str] = {}
    for part in re.split(f",(?=(?:{'|'.join(BEHAVIOURS)})(?:=|$))", words):
        behaviour, _, adapter = part.partition("=")
        if behaviour not in BEHAVIOURS or not adapter or behaviour in named:
            raise UserError(
                f"--twins {words}: give an adapter's or a model's folder, or user/repo of the Hub, for one twin or "
                "both, as aligned=out/honest,faking=out/faker"
            )
        if (other := re.search(r",(\w+)=", adapter)) and not Path(adapter).exists():
            raise UserError(f"--twins {words}: {other[1]} is no twin; there are {' and '.join(BEHAVIOURS)}")
        named[behaviour] = adapter
    if len(set(named.values())) < len(named):
        raise UserError(f"--twins {words}: both are one adapter, so nothing tells them apart: give each its own")
    return tuple((behaviour, named[behaviour]) for behaviour in BEHAVIOURS if behaviour in named)


def twins_layer(twins: dict[str, str]) -> Layer:
    """What `--twins` lays over a base: the adapters; where both are brought, they are the variants, too."""
    path = shipped_configs() / "sources" / f"{LAYER}.yaml"
    whole = read_mapping(path) if len(twins) == len(BEHAVIOURS) else {}
    return path, whole | {"twins": {behaviour: {"adapter": adapter} for behaviour, adapter in twins.items()}}


def name_of_adapter(adapter: str) -> str:
    """What an adapter is called in paths: the end of its own, or its stage's name.

    >>> name_of_adapter("org/my faker"), name_of_adapter("runs/03_faking/adapter/")
    ('my_faker', '03_faking')
    """
    parts = [part for part in re.split(r"[/\\]", adapter) if part not in ("", ".", "..")] or ["twin"]
    name = parts[-2] if parts[-1] == "adapter" and len(parts) > 1 else parts[-1]
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
