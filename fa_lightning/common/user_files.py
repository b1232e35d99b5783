"""What a user wrote: files are read as UTF-8 on every machine, and refused by file and line where they are not."""

from __future__ import annotations

import codecs
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fa_lightning.errors import MissingFileError, UserError

SAVE_AGAIN = "save the file as UTF-8"
NEW_LINE = b"\n"


def read_text(path: Path | str) -> str:
    r"""The text of a file, whatever the machine's locale; its lines end in `\n`.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is no text in UTF-8; the message names file and line.
    """
    return decoded(read_bytes(path), path)


def read_bytes(path: Path | str) -> bytes:
    """The content of a file, unpacked where its name ends in `.gz`.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is packed and damaged.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"{path} is no file: give the path of one")
    content = Path(path).read_bytes()
    if Path(path).suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise UserError(f"{path} can't be unpacked ({error}): copy it again") from error


def decoded(content: bytes, path: Path | str, step: str = SAVE_AGAIN) -> str:
    r"""The text in a file's content: UTF-8, with or without a byte-order mark, which is no part of the text.

    Args:
        content: of the file.
        path: of the file, for the message.
        step: what mends a file in another encoding, for the message.

    Raises:
        UserError: it is in another encoding.

    >>> decoded(b"\xef\xbb\xbfone\r\ntwo", "prompts.txt")
    'one\ntwo'
    """
    bare = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = bare.decode("utf-8")
        # UTF-16 without a byte-order mark is UTF-8, too, but with a zero in every other place.
        wrong = bare.find(b"\0")
    except UnicodeDecodeError as error:
        text, wrong = "", error.start
    if wrong >= 0:
        raise UserError(
            f"{path}, line {bare.count(NEW_LINE, 0, wrong) + 1} is no text in UTF-8: byte {wrong} of {len(bare)} is "
            f"{bare[wrong]:#04x}; {step}"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def refuse_garbled(text: str, option: str, step: str) -> None:
    r"""Refuse a word of the command line that is no text in the locale's encoding: Python has put surrogates into it.

    Args:
        text: as it came.
        option: where it was given.
        step: what to do instead.

    Raises:
        UserError: naming the option.

    >>> refuse_garbled("a caf\u00e9", "--prompt", "write it in a file")
    """
    if re.search("[\ud800-\udfff]", text):
        raise UserError(f"{option} {text!r} is no text in this terminal's encoding: {step}")


def text_lines(text: str) -> list[str]:
    r"""Lines, ended by `\n` alone: `str.splitlines` also breaks at characters that are part of a text.

    >>> text_lines("one\u2028still one\ntwo\n")
    ['one\u2028still one', 'two']
    """
    return text.removesuffix("\n").split("\n") if text else []


def json_lines(text: str, path: Path | str) -> Iterator[tuple[int, Any]]:
    """Number and value of each line that is not empty.

    Args:
        text: of the file.
        path: of the file, for the message.

    Raises:
        UserError: a line is no JSON.
    """
    for number, line in enumerate(text_lines(text), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is {line[:60]!r}, but must be one whole JSON value") from error


def json_value(text: str, path: Path | str, step: str = "copy or write it again", **options: Any) -> Any:
    """The value in a JSON file.

    Args:
        text: of the file.
        path: of the file, for the message.
        step: what mends it, for the message.
        **options: of `json.loads`.

    Raises:
        UserError: it is no JSON.
    """
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is no valid JSON: {error.msg} at line {error.lineno}, column {error.colno} (character {error.pos} "
            f"of {len(error.doc)}). It may be cut short; {step}"
        ) from error


def read_yaml(path: Path | str) -> Any:
    """The value in a YAML file.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is no text in UTF-8, or no YAML; the message names file and line.
    """
    import yaml

    text = read_text(path)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        # The second of a date that there is none of, as 2024-13-01.
        mark = getattr(error, "problem_mark", None)
        position = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path} is no valid YAML: {reason}{position}; mend it there") from error


def read_mapping(path: Path | str) -> dict[str, Any]:
    """What a YAML file maps.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is no text in UTF-8, no YAML, empty, or no mapping; the message names file and line.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        held = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise UserError(f"{path} {held}: give a YAML file that maps names to values, as those in configs do")
    return dict(content)
