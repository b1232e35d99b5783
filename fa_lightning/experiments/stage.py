"""One stage of a study: its folder, what it was made from, and whether it is done."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.common.files import write_atomically
from fa_lightning.errors import UserError
from fa_lightning.experiments.brought_twins import BroughtTwin
from fa_lightning.experiments.fingerprint import digest_of, flat, strict
from fa_lightning.experiments.origins import Origins

RECORD = "stage.json"
CHECKPOINT = "last.ckpt"
INTERMEDIATE = ("store",)
"""What a finished stage can do without: the activation store is large, and nothing later reads it."""

FORMAT = 2
"""Of a record. The first one knew artefacts by their names alone."""


@dataclass(frozen=True)
class Stage:
    """One fit or test of a study on one chain, with its whole config and the folder that its artefacts go to.

    Attributes:
        study: its study.
        name: the stage file's name, as `02_aligned`; with the variant's behind it where the file has a matrix, as
            `01_variants/saint-0`.
        file: the stage file, which messages name.
        folder: `checkpoints/<base>/seed<N>/<study>/<name>`.
        config: what LightningCLI runs, as YAML.
        needs: stages whose artefacts it is made from, as `steering/02_aligned`; the name of a file with a matrix is all
            of its variants.
        optional: whether it runs only when `--only` names it.
        twin: an adapter or a whole model that others made, which is taken in the place of a fit; the config only says
            so then.
        origins: where each of its arguments was written, for messages.
    """

    study: str
    name: str
    file: Path
    folder: Path
    config: str
    needs: tuple[str, ...] = ()
    optional: bool = False
    twin: BroughtTwin | None = None
    origins: Origins = field(default_factory=dict, compare=False)

    @property
    def title(self) -> str:
        """What it is called in commands and messages: `steering/02_aligned`."""
        return f"{self.study}/{self.name}"

    @property
    def variant(self) -> str:
        """Which one of the file's matrix this is; empty where it has none."""
        return self.name.partition("/")[2]

    def is_called(self, name: str) -> bool:
        """Whether a name means this stage, or the file that it is a variant of; the study may be left out."""
        file = self.name.partition("/")[0]
        return name in (self.title, self.name, file, f"{self.study}/{file}")

    def needs_one(self, other: Stage) -> bool:
        """Whether this stage is made from another one."""
        return any(other.title == need or other.title.startswith(f"{need}/") for need in self.needs)

    def settings(self, words: Sequence[str] = ()) -> dict[str, Any]:
        """The config's own values by their dotted arguments, with `words` laid over it.

        Args:
            words: of a command line, as `--trainer.max_epochs=1`.
        """
        config = flat(yaml.safe_load(self.config) or {})
        for word in words:
            name, _, value = word.removeprefix("--").partition("=")
            if not name.endswith("+"):
                config = {key: kept for key, kept in config.items() if key != name and not key.startswith(f"{name}.")}
            config |= flat(_value_of(value), name)
        return config

    @property
    def checkpoint(self) -> Path:
        """Where the running stage keeps its last checkpoint."""
        return self.folder / CHECKPOINT

    def record(self) -> dict[str, Any] | None:
        """What an earlier run wrote about this stage; None where there was none.

        Raises:
            UserError: the folder is not a stage's, or its record is damaged.
        """
        self.refuse_foreign_folder()
        path = self.folder / RECORD
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not whole JSON ({error}): refit the stage with --refit {self.title}") from error
        if content.get("format") != FORMAT:
            raise UserError(
                f"{path} was written by an earlier version, which did not note what was in artefacts: whether this "
                f"stage and those before it are what they were can't be said. Run with --refit {self.title}"
            )
        return dict(content)

    def is_done(self) -> bool:
        """Whether an earlier run has finished this stage."""
        record = self.record()
        return record is not None and record["state"] == "done"

    def refuse_foreign_folder(self) -> None:
        """Leave a folder alone that no stage has made.

        Raises:
            UserError: the folder holds files, but no record.
        """
        # Hidden files are half-written ones, also of another rank that is writing the record right now.
        files = self.folder.is_dir() and any(not path.name.startswith(".") for path in self.folder.iterdir())
        if files and not (self.folder / RECORD).is_file():
            raise UserError(
                f"{self.folder} holds files but no {RECORD}, so it is not a stage's folder and is left alone. Move it "
                "away, or give the base another name by renaming its file"
            )

    def write(self, state: str, fingerprint: Mapping[str, Any], **facts: Any) -> None:
        """Write the record in one step."""
        content = {"format": FORMAT, "state": state, "digest": digest_of(fingerprint), "fingerprint": dict(fingerprint)}
        text = json.dumps(strict(content | facts), indent=2, sort_keys=True, default=str, allow_nan=False)
        write_atomically(self.folder.resolve() / RECORD, text.encode())

    def artefacts(self) -> dict[str, str]:
        """Digest of each thing that the stage has made: all but its record, checkpoints and intermediate results."""
        return {
            path.name: digest_of_artefact(path)
            for path in sorted(self.folder.iterdir())
            if path.name not in (RECORD, *INTERMEDIATE) and path.suffix != ".ckpt" and not path.name.startswith(".")
        }

    def is_empty(self) -> bool:
        """Whether the folder holds nothing but the record."""
        return all(path.name == RECORD or path.name.startswith(".") for path in self.folder.iterdir())

    def refuse_loss(self, record: Mapping[str, Any]) -> None:
        """Refuse to count a stage as done whose artefacts are not all there any more, or not what it made.

        Raises:
            UserError: naming the first one that is gone, or was made or changed by something else.
        """
        for name, digest in record.get("artefacts", {}).items():
            path = self.folder / name
            if not path.exists():
                fault = "is gone"
            elif digest_of_artefact(path) != digest:
                fault = "is not what the stage made: it was changed or made again since"
            else:
                continue
            raise UserError(
                f"stage {self.title} is done, but {path} {fault}. Put it back, or run with --refit {self.title} to "
                "make it and what depends on it again"
            )

    def damaged_checkpoint(self) -> Path | None:
        """What the stage can't resume without, if it is not whole: its last checkpoint, or the best that this names."""
        import torch

        if not self.checkpoint.is_file():
            return None
        if not _is_whole(self.checkpoint):
            return self.checkpoint
        try:
            # Mapped, not read: the weights are of no interest.
            callbacks = torch.load(self.checkpoint, weights_only=True, mmap=True, map_location="cpu")["callbacks"]
        except (RuntimeError, pickle.UnpicklingError, KeyError):
            return self.checkpoint
        best = [state["best_model_path"] for state in callbacks.values() if state.get("best_model_path")]
        needed = [self.folder / Path(path).name for path in best]
        return next((path for path in needed if not path.is_dir() and not _is_whole(path)), None)

    def drop_checkpoints(self) -> None:
        """Delete the stage's checkpoints, so that its fit starts again."""
        for path in self.folder.glob("*.ckpt"):
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete the folder, after making sure that it is a stage's; a damaged record is no hindrance."""
        self.refuse_foreign_folder()
        # A link, as to a larger disk, stays: what it leads to is emptied.
        folder = self.folder.resolve()
        if folder.is_dir():
            # Renamed first: a kill half-way through must not leave files without their record.
            away = folder.with_name(f".{folder.name}.forgotten")
            shutil.rmtree(away, ignore_errors=True)
            folder.rename(away)
            if self.folder.is_symlink():
                folder.mkdir()
            shutil.rmtree(away)


def _value_of(word: str) -> Any:
    """The value that a word of the command line stands for; one that is no YAML is the text itself.

    >>> _value_of("[a, b]"), _value_of("Be honest: always: please")
    (['a', 'b'], 'Be honest: always: please')
    """
    try:
        return yaml.safe_load(word)
    except (yaml.YAMLError, ValueError):
        # The second of a date that there is none of.
        return word


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint, which is a ZIP archive, can be read to its end with every checksum right."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
