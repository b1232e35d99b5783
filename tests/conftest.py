"""Fixtures shared by all tests."""

import os
from pathlib import Path

# Before anything imports torch or transformers. Tiny models gain nothing from a second thread, which under
# `pytest -n auto` would take a core from another worker; and no test may wait for a network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def poser_root() -> Path:
    """The POSER clone named by POSER_ROOT, else ../shared/poser; the test is skipped where there is none."""
    for candidate in (os.environ.get("POSER_ROOT"), REPOSITORY.parent / "shared" / "poser", REPOSITORY / "POSER"):
        if candidate and (Path(candidate) / "data" / "training").is_dir():
            return Path(candidate)
    pytest.skip("POSER data not found: set POSER_ROOT to a clone of the POSER repository")
