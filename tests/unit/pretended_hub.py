"""A Hub of one repository, which hands over what is asked for by its patterns."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest

REPOSITORY = "colleague/faker"


def serve(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `REPOSITORY` hold the files of a folder; what is fetched lands in `cache`."""

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo_id, revision) == (REPOSITORY, None)
        cache.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
