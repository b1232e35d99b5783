"""A folder of few files, here or on the Hugging Face Hub: only those that are named are fetched, and nothing runs."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from fa_lightning.errors import MissingFileError

TOKENIZER_FILES = (
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
"""Patterns of what a tokenizer is saved as."""
PICKLE_REASON = "a .bin is a pickle, which can run any code when it is read, and so is not read"
_HUB_ID = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<subfolder>[\w-][\w./-]*?))?/?")


def local_folder(name: str | Path, needed: Collection[str], kind: str, extra: Collection[str] = ()) -> Path:
    """A folder as it is; `user/repo` or `user/repo/subfolder`, where there is no such folder, fetched from the Hub.

    Args:
        name: of the folder.
        needed: files that one on the Hub must hold.
        kind: what a folder that will do is, for messages: `that Intervention.save wrote`.
        extra: patterns of further files that are fetched where they are there.

    Raises:
        MissingFileError: it is neither.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    match = _HUB_ID.fullmatch(str(name))
    if match is None or ".." in folder.parts:
        raise MissingFileError(f"there is no folder {str(name)!r}: give one {kind}, or user/repo of the Hub")
    try:
        return fetch(match["repository"], needed, kind, match["subfolder"] or "", extra=extra)
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no folder {str(name)!r} here, and {error}") from error


def fetch(
    repo_id: str,
    needed: Collection[str],
    kind: str,
    subfolder: str = "",
    revision: str | None = None,
    extra: Collection[str] = (),
) -> Path:
    """The local folder of files on the Hub, all of one commit.

    Args:
        repo_id: `user/repo`.
        needed: files that must be there.
        kind: see `local_folder`.
        subfolder: of the repository, where they lie in one.
        revision: branch, tag or commit; None is the main branch.
        extra: patterns of further files that are fetched where they are there.

    Raises:
        MissingFileError: the repository can't be reached, or lacks a file there.
    """
    import huggingface_hub

    within = f"{subfolder}/" if subfolder else ""
    patterns = [f"{within}{name}" for name in (*needed, *extra)]
    try:
        snapshot = Path(str(huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=patterns)))
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingFileError(
            f"{repo_id!r} was not fetched from the Hub: {cause}. Check its name and that you may read it, or give a "
            f"local folder {kind}"
        ) from error
    missing = [f"{within}{name}" for name in needed if not (snapshot / f"{within}{name}").is_file()]
    if missing:
        raise MissingFileError(
            f"the Hub repository {repo_id!r} holds no {' and no '.join(missing)}: name the subfolder of one {kind}, as "
            f"in {repo_id}/<subfolder>"
        )
    return snapshot / subfolder
