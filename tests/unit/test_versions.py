"""What the project says about the versions of others, and about how it is tested, agrees in all places."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
REACHED_INTO = ("torch", "lightning", "jsonargparse", "transformers", "peft", "bitsandbytes")


@pytest.mark.parametrize("library", REACHED_INTO)
def test_a_library_whose_insides_are_touched_is_capped_at_a_minor_release(library: str) -> None:
    # Not the installed metadata, which is as old as the installation; and tomllib is not in Python 3.10.
    declared = re.findall(
        r'"([\w-]+(?:\[[\w,]+\])?>=[^"]+)"', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    )
    (found,) = [one for one in map(Requirement, declared) if one.name == library]
    bounds = {one.operator: one.version for one in found.specifier}
    assert set(bounds) == {">=", "<"}
    assert re.fullmatch(r"\d+\.\d+", bounds["<"])
    assert version(library) in found.specifier


def test_names_that_the_package_reads_quietly_are_there() -> None:
    """Each is looked up with a default, as not every object has it: renamed, it would be missed in silence."""
    import bitsandbytes
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
    from transformers import Gemma3nTextConfig

    assert _SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1).procs == []
    assert Gemma3nTextConfig().num_kv_shared_layers > 0
    # Older releases have no way of their own for such CPUs.
    layer = bitsandbytes.nn.Linear4bit(64, 64)
    assert hasattr(layer, "support_avx512bf16_for_cpu") == ("avx512" in inspect.getsource(type(layer)))


def test_the_readmes_commands_are_those_that_the_scripts_run() -> None:
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    (install, test) = next(line for line in lines if "pytest" in line).split(" && ")
    for name in ("run", "oldest"):
        script = (REPOSITORY / ".ci" / name).read_text(encoding="utf-8").splitlines()
        assert script[-1] == test
        assert any(line.endswith(' -e ".[dev]"') for line in script)
    assert install == 'pip install -e ".[dev]"'
