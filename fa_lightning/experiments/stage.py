"""One stage of an experiment: its folder, what it was made from, and whether it is done."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = "stage.json"
CHECKPOINT = "last.ckpt"
INTERMEDIATE = ("store",)
"""What a finished stage can do without: the activation store is large, and nothing later reads it."""

PLACES_AND_DISPLAY = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.default_root_dir",
    "trainer.profiler",
    "trainer.use_distributed_sampler",
    "trainer.fast_dev_run",
)
"""Settings that say where and how visibly a stage runs, not what it makes: they may change between two runs."""


@dataclass(frozen=True)
class Stage:
    """A numbered config of an experiment and the folder that its artefacts go to.

    Attributes:
        name: the config's name, as `02_aligned`.
        config: the YAML file.
        folder: `checkpoints/<experiment>/<name>`.
    """

    name: str
    config: Path
    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Where the running stage keeps its last checkpoint."""
        return self.folder / CHECKPOINT

    def record(self) -> dict[str, Any] | None:
        """What an earlier run wrote about this stage; None where there was none.

        Raises:
            ValueError: the folder is not a stage's, or its record is damaged.
        """
        self.refuse_foreign_folder()
        path = self.folder / RECORD
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not whole JSON ({error}): refit the stage with --refit {self.name}") from error
        return dict(found)

    def refuse_foreign_folder(self) -> None:
        """Leave a folder alone that no stage has made.

        Raises:
            ValueError: the folder holds files, but no record.
        """
        # Hidden files are half-written ones, also of another rank that is writing the record right now.
        files = self.folder.is_dir() and any(not path.name.startswith(".") for path in self.folder.iterdir())
        if files and not (self.folder / RECORD).is_file():
            raise ValueError(
                f"{self.folder} holds files but no {RECORD}, so it is not a stage's folder and is left alone. Move it "
                "away, or give the experiment another name by renaming its config folder"
            )

    def write(self, state: str, fingerprint: Mapping[str, Any], **facts: Any) -> None:
        """Write the record in one step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f".{RECORD}.tmp"
        content = {"state": state, "digest": digest_of(fingerprint), "fingerprint": dict(fingerprint), **facts}
        fresh.write_text(json.dumps(content, indent=2, sort_keys=True, default=str))
        fresh.replace(self.folder / RECORD)

    def artefacts(self) -> list[str]:
        """Names of what the stage has made: all in its folder but its record, checkpoints and intermediate results."""
        return sorted(
            path.name
            for path in self.folder.iterdir()
            if path.name not in (RECORD, *INTERMEDIATE) and path.suffix != ".ckpt" and not path.name.startswith(".")
        )

    def refuse_loss(self, record: Mapping[str, Any]) -> None:
        """Refuse to count a stage as done whose artefacts are not all there any more.

        Raises:
            ValueError: naming the first one that is gone.
        """
        for path in (self.folder / name for name in record.get("artefacts", ())):
            if not path.exists():
                raise ValueError(
                    f"stage {self.name} is done, but {path} is gone. Put it back, or run with --refit {self.name} to "
                    "make it and what depends on it again"
                )

    def damaged_checkpoints(self) -> list[Path]:
        """Checkpoints of the stage that are not whole: cut short by a kill or a full disk, or altered."""
        return [path for path in sorted(self.folder.glob("*.ckpt")) if path.is_file() and not _is_whole(path)]

    def drop_checkpoints(self) -> None:
        """Delete the stage's checkpoints, so that its fit starts again."""
        for path in self.folder.glob("*.ckpt"):
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete the folder, after making sure that it is a stage's; a damaged record is no hindrance."""
        self.refuse_foreign_folder()
        if self.folder.is_dir():
            # Renamed first: a kill half-way through must not leave files without their record.
            away = self.folder.with_name(f".{self.name}.forgotten")
            shutil.rmtree(away, ignore_errors=True)
            self.folder.rename(away)
            shutil.rmtree(away)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint, which is a ZIP archive, can be read to its end with every checksum right."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def find_stages(experiment: Path, outputs: Path) -> list[Stage]:
    """The stages of an experiment folder, in the order of their numbers.

    Raises:
        FileNotFoundError: there is no such folder, or no numbered YAML in it.
    """
    files = sorted(path for path in experiment.glob("[0-9]*.yaml")) if experiment.is_dir() else []
    if not files:
        raise FileNotFoundError(
            f"--experiment {experiment}: no numbered stage files there (such as 01_backbone.yaml). Give a folder that "
            "holds them, for instance configs/embedded or configs/poser"
        )
    return [Stage(path.stem, path, outputs / experiment.resolve().name / path.stem) for path in files]


def fingerprint_of(
    config: Mapping[str, Any], scenarios: Mapping[str, str], inputs: Mapping[str, str]
) -> dict[str, Any]:
    """What a stage is made from, as flat fields that an error can name.

    Args:
        config: the resolved config.
        scenarios: fingerprint of the scenario source.
        inputs: digest of each earlier stage whose folder the config names.
    """
    fields: dict[str, Any] = {
        key: value
        for key, value in flat(config).items()
        if not key.startswith(PLACES_AND_DISPLAY) and key != "config" and not key.startswith("config.")
    }
    fields |= {f"scenarios.{name}": value for name, value in scenarios.items()}
    fields |= {f"input.{name}": value for name, value in inputs.items()}
    for package in ("fa_lightning", "torch", "transformers", "peft"):
        fields[f"version.{package}"] = ".".join(importlib.metadata.version(package).split(".")[:2])
    return fields


def refuse_change(stage: Stage, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a stage whose artefact was made from something else than the config now says.

    Raises:
        ValueError: naming the fields that differ, with both values, and how to refit.
    """
    now = json.loads(json.dumps(dict(now), default=str))
    changed = [key for key in sorted({*recorded, *now}) if recorded.get(key) != now.get(key)]
    if changed:
        lines = "\n".join(f"  {key}: was {recorded.get(key)!r}, is {now.get(key)!r}" for key in changed[:8])
        more = f"\n  and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise ValueError(
            f"stage {stage.name} was made from something else:\n{lines}{more}\nRun with --refit {stage.name} to make "
            "it and what depends on it again, or change the config back."
        )


def digest_of(fingerprint: Mapping[str, Any]) -> str:
    """Sixteen hex digits that stand for a fingerprint."""
    return hashlib.sha256(json.dumps(dict(fingerprint), sort_keys=True, default=str).encode()).hexdigest()[:16]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as dotted keys.

    >>> flat({"a": {"b": [1, {"c": 2}]}})
    {'a.b.0': 1, 'a.b.1.c': 2}
    """
    if isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, list):
        children = [(str(number), item) for number, item in enumerate(value)]
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, child in children:
        found |= flat(child, f"{prefix}.{key}" if prefix else str(key))
    return found
