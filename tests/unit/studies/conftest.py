"""Fixtures of the studies' tests: a made-up comparison of the lab, and results that hold it."""

import pytest
from synthetic_lab import synthetic_lab

from fa_lightning.studies.lab.result import LabResults


@pytest.fixture(scope="session")
def lab():
    return synthetic_lab()


@pytest.fixture
def lab_results(results, lab):
    """Results of an experiment that compared methods."""
    counts = {"oversight": (490, 8, 2), "no_oversight": (470, 10, 0)}
    return LabResults(**{**vars(results), "answers": dict.fromkeys(results.cells, counts)}, lab=lab)
