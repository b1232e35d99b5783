"""The files of a saved intervention on the Hugging Face Hub: fetched, and nothing in them runs."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.backbones import hub_folders
from fa_lightning.steering.artefact import SIDECAR_FILE, TENSORS_FILE

_FILES = (TENSORS_FILE, SIDECAR_FILE)
_KIND = "that Intervention.save wrote"


def fetch(repo_id: str, subfolder: str = "", revision: str | None = None) -> Path:
    """The local folder of an intervention on the Hub; its two files, of one commit, and no others are fetched.

    Raises:
        MissingFileError: if the repository cannot be reached or holds no intervention there.
    """
    return hub_folders.fetch(repo_id, _FILES, _KIND, subfolder, revision)


def local_folder(name: str | Path) -> Path:
    """A folder as it is; `user/repo` or `user/repo/subfolder`, where there is no such folder, fetched from the Hub.

    Raises:
        MissingFileError: if it is neither.
    """
    return hub_folders.local_folder(name, _FILES, _KIND)
