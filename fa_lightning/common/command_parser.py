"""Words of a command line: what argparse refuses is told in one line, with the next step."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from typing_extensions import override

from fa_lightning.errors import UserError

PROGRAM = "python -m fa_lightning "
_UNKNOWN = "unrecognized arguments: "
_NEGATIVE = re.compile(r"-\.?\d[\d.,eE+-]*")
"""A negative number, or several with commas between them."""


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, which neither prints its usage nor leaves the process over a wrong word.

    Args:
        command: of ours, as `fit` or `data label`.
        **options: of argparse's.
    """

    def __init__(self, command: str, **options: object) -> None:
        super().__init__(prog=f"{PROGRAM}{command}", **options)  # type: ignore[arg-type]

    @override
    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """argparse's, to which `--doses -0.5,0.5` and `--strength -1e1` are values and no unknown options."""
        words = list(sys.argv[1:] if args is None else args)
        joined: list[str] = []
        for word in words:
            option = joined[-1] if joined else ""
            if _NEGATIVE.fullmatch(word) and option.startswith("--") and "=" not in option and len(option) > len("--"):
                joined[-1] = f"{option}={word}"
            else:
                joined.append(word)
        return super().parse_known_args(joined, namespace)

    @override
    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the words.

        Raises:
            UserError: naming the word, and one that is close to it.
        """
        command = self.prog.removeprefix(PROGRAM)
        if not message.startswith(_UNKNOWN):
            raise UserError(f"{command}: {' '.join(message.split())} (`{command} --help` says what it takes)")
        word = message.removeprefix(_UNKNOWN).split()[0].partition("=")[0]
        if not word.startswith("-"):
            raise UserError(f"{command} can't place the word {word!r}: `{command} --help` says what it takes")
        close = difflib.get_close_matches(word, self._option_string_actions, n=1)
        raise UserError(
            f"{command} has no option {word}"
            + (f"; did you mean {close[0]}?" if close else ":")
            + f" `{command} --help` lists those there are"
        )
