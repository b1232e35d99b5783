"""What the README, the docs and the studies' pages name exists: links, files, studies, bases, stages, options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from fa_lightning.cli import main
from fa_lightning.experiments.shipped import names_in, study_folder

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("fa_lightning/studies/*/README.md"),
        REPOSITORY / "benchmarks/README.md",
    ]
)
BY_NAME = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
PLACEHOLDER = re.compile(r"[A-Z_]+|.*\.ya?ml|BASE.*")
"""What a reader puts a word of their own in the place of, such as STUDY, BASE or mine.yaml."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=BY_NAME)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = (document.parent / name) if name else document
        if name.startswith("docs/images/"):  # made by a run
            continue
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, link


@pytest.mark.parametrize("document", DOCUMENTS, ids=BY_NAME)
def test_files_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|sbatch|md))`", text):
        if not name.startswith(("checkpoints/", "logs/")):
            roots = (REPOSITORY, REPOSITORY / "fa_lightning", document.parent)
            assert any((root / name).exists() for root in roots), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=BY_NAME)
def test_code_that_is_named_is_in_its_file(document: Path) -> None:
    for name, file in re.findall(r"`([\w.]+)`(?: in | \()`(\w+/[\w/]+\.py)`", document.read_text(encoding="utf-8")):
        path = next(root / file for root in (REPOSITORY, REPOSITORY / "fa_lightning") if (root / file).exists())
        code = path.read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"(def|class) {part}\b|^{part}\b", code, re.MULTILINE), (name, file)


@pytest.mark.parametrize("document", DOCUMENTS, ids=BY_NAME)
def test_commands_name_what_there_is(document: Path) -> None:
    for command, *words in commands_of(document.read_text(encoding="utf-8")):
        if "--config" in words and command in ("fit", "validate", "test"):
            continue
        options = help_of(*(("data", "label") if [command, *words[:1]] == ["data", "label"] else (command,)))
        for word in words:
            if word.startswith("--") and "." not in word:
                assert word in options, (command, word)
        if command in ("fit", "config"):
            study, base = operand(words, 0) or "steering", value_of(words, "--base") or "embedded"
            assert base in names_in("bases") or PLACEHOLDER.fullmatch(base), words
            if PLACEHOLDER.fullmatch(study):
                continue
            assert study in names_in("studies"), words
            stages = {path.stem for path in study_folder(study).glob("[0-9]*.yaml")}
            named = [operand(words, 1), value_of(words, "--only"), value_of(words, "--refit")]
            assert {stage.partition("/")[0] for stage in named if stage} <= {*stages, "STAGE"}, words


def commands_of(text: str) -> Iterator[list[str]]:
    """The words behind `python -m fa_lightning` of every command in a text's blocks and in its lines."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]*python -m fa_lightning [^`\n]*)`", text)
    for line in lines:
        for part in re.split(r"&&|;|\|\s|\s{3,}|\s#\s|>", line):
            match = re.search(r"python -m fa_lightning (.+)", part)
            if match:
                command, *words = shlex.split(re.sub(r"\[([^\]|]*)\]", r"\1", match[1]))
                yield [command.partition("|")[0], *words]


@cache
def help_of(*command: str) -> str:
    """What a command prints about its options."""
    with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
        main([*command, "--help"])
    return printed.getvalue()


def operand(words: list[str], number: int) -> str | None:
    """The word at this place among those that are no options and no options' values."""
    plain = [
        word
        for place, word in enumerate(words)
        if not word.startswith("--") and (place == 0 or not words[place - 1].startswith("--"))
    ]
    return plain[number] if len(plain) > number else None


def value_of(words: list[str], option: str) -> str | None:
    """What stands behind an option."""
    return words[words.index(option) + 1] if option in words else None
