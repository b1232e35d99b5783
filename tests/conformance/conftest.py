"""Random models, made once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.models import FAMILIES, make_model


@pytest.fixture(scope="session")
def model_of() -> Callable[[str], Any]:
    """A fresh copy of a family's random model, so that what one test breaks no other test sees."""
    made: dict[str, Any] = {}

    def copy_of(family: str) -> Any:
        if family not in made:
            made[family] = make_model(family)
        return copy.deepcopy(made[family])

    return copy_of


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, model_of: Callable[[str], Any]) -> Any:
    return model_of(request.param)


@pytest.fixture
def llama(model_of: Callable[[str], Any]) -> Any:
    return model_of("llama")
