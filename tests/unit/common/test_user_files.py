"""Users' files: one reader, whose text does not depend on the machine, and errors that name file and line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jsonargparse import _loaders_dumpers
from poser_folder import record

from fa_lightning.common.user_files import json_lines, json_value, read_bytes, read_text, read_yaml
from fa_lightning.errors import UserError
from fa_lightning.experiments.lightning_cli import lightning_cli
from fa_lightning.scenarios.poser.files import read_poser_file
from fa_lightning.scenarios.statements.preferences import read_preferences
from fa_lightning.scenarios.statements.udhr import read_rights
from fa_lightning.steering.command_options import read_prompts
from fa_lightning.studies.cures.retrieval import read_corpus
from fa_lightning.training.texts import FileTexts

TEXT = "caf\u00e9 one\u2028two\u2029three\u0085four"
"""Letters beyond ASCII, and what `str.splitlines` takes for the end of a line."""
STAGE = (
    "data: {class_path: fa_lightning.training.data.ScenarioDataModule, init_args: {scenarios: {class_path: "
    "fa_lightning.scenarios.embedded.source.EmbeddedScenarios}}}\n"
    "model: {class_path: fa_lightning.training.module.AdapterModule, init_args: {objective: {class_path: "
    "fa_lightning.training.objectives.answers.Answers}, backbone: {name: "
)
"""A stage file up to the backbone's name."""


def prompts(folder: Path) -> list[str]:
    return read_prompts(Namespace(prompt=[], file=folder / "file.txt"))


def texts(folder: Path) -> list[str]:
    return [text.answer for text in FileTexts(str(folder / "file.jsonl")).load().train]


def preferences(folder: Path) -> list[str]:
    return [one.chosen.strip() for one in read_preferences(str(folder), "file")]


def poser(folder: Path) -> list[str]:
    return [one.facts[0].content for one in read_poser_file(folder / "file.json", "saint")]


def rights(folder: Path) -> list[str]:
    (folder / "UDHR_raw_rights_neg.txt").write_text("1 no {people}\n2 not {people}\n")
    return [one.affirmed.removeprefix("{people} ") for one in read_rights(folder)]


def matrix(folder: Path) -> list[str]:
    return list(read_yaml(folder / "file.yaml")["matrix"]["policy"])


def lines(*values: object) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


READERS: dict[str, tuple[Callable[[Path], list[str]], str, str]] = {
    "prompts": (prompts, "file.txt", f"{TEXT}\n---\nmore\n"),
    "texts": (
        texts,
        "file.jsonl",
        lines({"prompt": "a", "completion": TEXT}, {"prompt": "b", "completion": TEXT}),
    ),
    "preferences": (preferences, "file.jsonl", lines({"chosen": f"a {TEXT}", "rejected": "a b"})),
    "POSER": (
        poser,
        "file.json",
        json.dumps([record(1, facts=[TEXT, "Experts read all logs."])], ensure_ascii=False),
    ),
    "UDHR": (rights, "UDHR_raw_rights.txt", f"1 {{people}} {TEXT}\n2 {{people}} b\n"),
    "stage files": (matrix, "file.yaml", f'matrix: {{policy: ["{TEXT}", b]}}\n'),
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("what", READERS)
def test_every_reader_takes_the_same_text_from_every_machine(tmp_path: Path, what: str, ends: str, mark: bytes) -> None:
    read, name, content = READERS[what]
    (tmp_path / name).write_bytes(mark + content.replace("\n", ends).encode())
    expected = yaml.safe_load(f'"{TEXT}"') if what == "stage files" else TEXT
    assert read(tmp_path)[0] == expected


@pytest.mark.parametrize("what", READERS)
def test_every_reader_names_file_and_line_of_another_encoding(tmp_path: Path, what: str) -> None:
    read, name, content = READERS[what]
    (tmp_path / name).write_bytes(b"\n\n" + content.replace(TEXT, "caf\u00e9").encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}, line 3 is no text in UTF-8: byte \d+ of \d+ is 0xe9; "):
        read(tmp_path)
    for other in ("utf-16", "utf-16-le"):
        (tmp_path / name).write_bytes(content.encode(other))
        with pytest.raises(ValueError, match=rf"{name}, line 1 is no text in UTF-8"):
            read(tmp_path)


def test_a_corpus_is_read_alike(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\nbar\r\n\r\nb")
    assert read_corpus(str(tmp_path / "corpus.txt")) == ("caf\u00e9 bar", "b")
    (tmp_path / "corpus.txt").write_bytes(b"a\n\n\xe9")
    with pytest.raises(ValueError, match=r"corpus\.txt, line 3 is no text in UTF-8"):
        read_corpus(str(tmp_path / "corpus.txt"))


def test_what_is_no_json_or_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3 is '\{', but must be one whole JSON value"):
        list(json_lines("1\n\n{\n", "a.jsonl"))
    with pytest.raises(ValueError, match=r"a\.json is no valid JSON: .* at line 2, column 3"):
        json_value("[1,\n 2", "a.json")
    (tmp_path / "a.yaml").write_text("a: 1\nb: [\n")
    with pytest.raises(ValueError, match=r"a\.yaml is no valid YAML: .* at line 3"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("a: 2024-13-01\n")
    with pytest.raises(UserError, match=r"b\.yaml is no valid YAML: month must be in 1\.\.12"):
        read_yaml(tmp_path / "b.yaml")
    with pytest.raises(FileNotFoundError, match=r"missing\.txt is no file"):
        read_text(tmp_path / "missing.txt")
    (tmp_path / "a.txt.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"a\.txt\.gz can't be unpacked"):
        read_bytes(tmp_path / "a.txt.gz")


def test_a_stage_file_is_read_by_the_parser_as_by_ours(tmp_path: Path) -> None:
    path = tmp_path / "stage.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (STAGE + "caf\u00e9}}}\n").encode())
    read = lightning_cli([f"--config={path}"], run=False, until="config").config
    assert read.model.init_args.backbone.name == "caf\u00e9"
    path.write_bytes((STAGE + "caf\u00e9}}}\n").encode("latin-1"))
    with pytest.raises(ValueError, match=r"stage\.yaml, line 2 is no text in UTF-8"):
        lightning_cli(["--config", str(path)], run=False, until="config")


def test_a_config_is_recorded_in_any_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stage.yaml"
    path.write_text(STAGE + "caf\u00e9}}}\n", encoding="utf-8")
    for encoding, shown in (("UTF-8", "caf\u00e9"), ("ascii", "caf\\xE9")):
        monkeypatch.setattr("locale.getpreferredencoding", lambda *_, encoding=encoding: encoding)
        monkeypatch.setattr("jsonargparse._loaders_dumpers.dumpers", dict(_loaders_dumpers.dumpers))
        read = lightning_cli(["--config", str(path)], run=False, until="config")
        assert shown in read.parser.dump(read.config)


def test_a_machine_without_utf_8_reads_the_same_words(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(TEXT, encoding="utf-8")
    code = "import sys; from fa_lightning.common.user_files import read_text; print(ascii(read_text(sys.argv[1])))"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    words = [sys.executable, "-c", code, str(tmp_path / "prompts.txt")]
    said = subprocess.run(words, env=os.environ | plain, capture_output=True, text=True, check=True).stdout
    assert said.strip() == ascii(TEXT)
