"""The files of a saved intervention on the Hugging Face Hub: fetched, and nothing in them runs."""

from __future__ import annotations

import re
from pathlib import Path

from fa_lightning.errors import MissingFileError
from fa_lightning.steering.artefact import SIDECAR_FILE, TENSORS_FILE

_HUB_ID = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<subfolder>[\w-][\w./-]*?))?/?")


def fetch(repo_id: str, subfolder: str = "", revision: str | None = None) -> Path:
    """The local folder of an intervention on the Hub; its two files, of one commit, and no others are fetched.

    Raises:
        MissingFileError: if the repository cannot be reached or holds no intervention there.
    """
    import huggingface_hub

    files = [f"{subfolder}/{name}" if subfolder else name for name in (TENSORS_FILE, SIDECAR_FILE)]
    try:
        snapshot = Path(str(huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=files)))
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingFileError(
            f"{repo_id!r} was not fetched from the Hub: {cause}. Check its name and that you may read it, or give a "
            "local folder that Intervention.save wrote"
        ) from error
    missing = [name for name in files if not (snapshot / name).is_file()]
    if missing:
        raise MissingFileError(
            f"the Hub repository {repo_id!r} holds no {' and no '.join(missing)}: name the subfolder of an "
            f"intervention, as in {repo_id}/<subfolder>"
        )
    return snapshot / subfolder


def local_folder(name: str | Path) -> Path:
    """A folder as it is; `user/repo` or `user/repo/subfolder`, where there is no such folder, fetched from the Hub.

    Raises:
        MissingFileError: if it is neither.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    match = _HUB_ID.fullmatch(str(name))
    if match is None or ".." in folder.parts:
        raise MissingFileError(
            f"there is no folder {str(name)!r}: give one that Intervention.save wrote, or user/repo of the Hub"
        )
    try:
        return fetch(match["repository"], match["subfolder"] or "")
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no folder {str(name)!r} here, and {error}") from error
