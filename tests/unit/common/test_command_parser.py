"""Wrong words of a command line: one line, which names the word and the next step."""

from __future__ import annotations

import pytest

from fa_lightning.common.command_parser import CommandParser
from fa_lightning.errors import UserError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--colum", "a=b"], "grow has no option --colum; did you mean --column? `grow --help` lists those there are"),
        (["--zz=3"], "grow has no option --zz: `grow --help` lists those there are"),
        (["one", "two"], "grow can't place the word 'two': `grow --help` says what it takes"),
        (["--seed", "x"], "grow: argument --seed: invalid int value: 'x' (`grow --help` says what it takes)"),
        (["--kind", "c"], "grow: argument --kind: invalid choice: 'c'"),
        (["--seed"], "grow: argument --seed: expected one argument (`grow --help` says what it takes)"),
    ],
)
def test_a_wrong_word_is_told_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser("grow", description="Grows.", allow_abbrev=False)
    parser.add_argument("what", nargs="?")
    parser.add_argument("--column")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--kind", choices=["a", "b"])
    with pytest.raises(UserError) as refused:
        parser.parse_args(words)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("value", ["-0.5,-0.2,0.8", "-1e1", "-.5", "-3"])
def test_a_value_may_begin_with_a_minus(value: str) -> None:
    parser = CommandParser("grow")
    parser.add_argument("--doses")
    parser.add_argument("--seed", type=int)
    told = parser.parse_args(["--doses", value, "--seed", "-4"])
    assert (told.doses, told.seed) == (value, -4)
