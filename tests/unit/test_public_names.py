"""The public names: all there, each from its room when it is first used, and an import that costs next to nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fa_lightning


def test_every_public_name_is_there_and_documented():
    assert 12 <= len(fa_lightning.__all__) <= 20
    for name in fa_lightning.__all__:
        assert getattr(fa_lightning, name).__doc__
    assert set(fa_lightning.__all__) <= set(dir(fa_lightning))
    with pytest.raises(AttributeError, match="module 'fa_lightning' has no attribute 'nothing_like_it'"):
        _ = fa_lightning.nothing_like_it


def test_type_checkers_see_the_same_objects():
    tree = ast.parse(Path(fa_lightning.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    stated = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(stated) == sorted(fa_lightning.__all__)
    for name, (module, original) in stated.items():
        __import__(module)
        assert getattr(fa_lightning, name) is getattr(sys.modules[module], original)


def test_importing_it_is_quick_and_loads_neither_torch_nor_transformers():
    code = (
        "import sys, time; start = time.perf_counter(); import fa_lightning; "
        "print(time.perf_counter() - start, *sys.modules)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    seconds, *modules = min((run.stdout.split() for run in runs), key=lambda words: float(words[0]))
    assert float(seconds) < 0.05
    assert not {"torch", "transformers", "lightning", "peft", "numpy"} & set(modules)


def test_the_reference_has_every_public_name():
    page = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    shown = [line.removeprefix("::: fa_lightning.") for line in page.splitlines() if line.startswith(":::")]
    assert sorted(shown) == sorted(fa_lightning.__all__)
