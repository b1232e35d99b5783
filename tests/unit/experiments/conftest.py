"""Configs of a small world of their own: two studies and a base, in a folder that stands for the shipped one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fa_lightning.experiments import base as base_module
from fa_lightning.experiments import shipped

DEFAULTS: dict[str, Any] = {
    "extends": None,
    "scenarios": {"class_path": "Source"},
    "backbone": {"name": None},
    "pretraining": None,
    "precision": None,
    "trainer": {"devices": 1, "precision": "${precision}"},
    "batch_size": 16,
    "twins": {"epochs": 3},
    "variants": "???",
    "other_pair": {"aligned": "???"},
    "studies": {},
}
STUDIES: dict[str, dict[str, Any]] = {
    "first": {
        "01_backbone": {"needs_of_base": "pretraining", "trainer": {"max_epochs": 1}},
        "02_aligned": {
            "needs": {"backbone": "first/01_backbone"},
            "values": {"behaviour": "aligned"},
            "checkpoint": {"monitor": "val/${values.behaviour}"},
            "trainer": {"max_epochs": "${twins.epochs}", "callbacks": [{"class_path": "Export"}]},
            "model": {"behaviour": "${values.behaviour}", "backbone": "${backbone.name}"},
            "data": {"scenarios": "${scenarios}", "batch_size": "${batch_size}", "seed": "${seed}"},
        },
        "03_faking": {"like": "first/02_aligned", "values": {"behaviour": "faking"}},
    },
    "second": {
        "study": {"epochs": 2},
        "01_variants": {
            "like": "first/03_faking",
            "matrix": {"policy": ["saint", "money_maximizer"], "seed": [0, 10, 1]},
            "seed_everything": "${matrix.seed}",
            "values": {"behaviour": "${matrix.behaviour}"},
            "trainer": {"max_epochs": "${study.epochs}"},
        },
        "02_all": {"needs": {"variants": "second/01_variants"}, "model": {"adapters": ["${needs.variants}"]}},
        "03_one": {"needs": {"one": "second/01_variants/saint-10"}, "model": {"faking": "${needs.one}/adapter"}},
        "04_extra": {"optional": True, "model": {"folder": "${folder}"}},
    },
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`world(first__02_aligned={...}, base={...})` writes the configs, with changed stages; returns the base's file."""
    root = tmp_path / "shipped"
    monkeypatch.setattr(shipped, "shipped_configs", lambda: root)
    monkeypatch.setattr(base_module, "shipped_configs", lambda: root)

    def write(path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))

    def make(base: Any = None, **changes: Any) -> Path:
        write(root / "defaults.yaml", DEFAULTS)
        for kind in ("bases", "sources", "trainer"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        for study, stages in STUDIES.items():
            for name, content in stages.items():
                changed = changes.get(f"{study}__{name}", content)
                write(root / "studies" / study / f"{name}.yaml", changed)
        path = root / "bases" / "toy.yaml"
        write(path, {"pretraining": {"epochs": 1}} if base is None else base)
        return path

    return make
