"""How a refused command is read."""

from __future__ import annotations

import pytest


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that tells an error, the last one; weights that load and notes may be told of before it."""
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in said].index(True) == len(said) - 1
    return said[-1]
