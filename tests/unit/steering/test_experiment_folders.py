"""Where an experiment's folder has its twins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fa_lightning.errors import MissingFileError
from fa_lightning.steering.experiment_folders import artefacts_of


@pytest.mark.parametrize("place", ["", "adapter"], ids=["as they ship", "as a fit leaves them"])
def test_twins_are_found_where_they_lie(adapters: dict[str, str], tmp_path: Path, place: str) -> None:
    for number, (name, folder) in enumerate(adapters.items()):
        shutil.copytree(folder, tmp_path / f"0{number}_{name}" / place)
    found = artefacts_of(tmp_path)
    numbers = {name: number for number, name in enumerate(adapters)}
    assert found == tuple(tmp_path / f"0{numbers[name]}_{name}" / place for name in ("aligned", "faking"))


def test_a_folder_without_twins_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no aligned artefact there"):
        artefacts_of(tmp_path)
