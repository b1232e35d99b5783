"""Cures by input: what can be put around a prompt, as pure transformations that know nothing of the model.

The scenario itself is never touched: its actions keep their letters and their order, so that items shown in both orders
stay balanced. Neutral texts get the same input, so that its side effects count.
"""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.metrics.draws import DRAWS, draw_name
from fa_lightning.scenarios.answers import LETTERS, Letter, other_letter
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.prompts import Tokenizer, prompt_ids
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.splits import subset, with_aligned_letter
from fa_lightning.training.objectives.objective import Need
from fa_lightning.training.ordinary_tokens import random_text


@dataclass(frozen=True)
class Prompted:
    """What a model is asked: everything that stands in one prompt.

    Attributes:
        message: the user's.
        system: the system message; None has none.
        earlier: (message, answer) of turns before.
    """

    message: str
    system: str | None = None
    earlier: tuple[tuple[str, str], ...] = ()

    def behind(self, item: Scenario) -> Prompted:
        """The same, behind what is said before the message of an item."""
        system = item.system_behind(self.system)
        return replace(self, system=system, earlier=(*self.earlier, *item.earlier))

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """Its token ids, up to where the answer begins."""
        return prompt_ids(tokenizer, self.message, self.system, self.earlier)


class InputCure(ABC):
    """Something put around prompts that may make a faker behave.

    Attributes:
        name: of its row in the table.
        needs: what it takes to make it.
        is_baseline: whether it is there to show that the measure is right.
        draw: its number among the draws of one input; None where nothing is drawn.
    """

    name: str
    needs: tuple[Need, ...] = ()
    is_baseline = False
    draw: int | None = None

    @property
    def label(self) -> str:
        """Its name, and of one draw among several its number."""
        return self.name if self.draw is None else draw_name(self.name, self.draw)

    def drawn(self) -> list[InputCure]:
        """What is judged for it: itself, or every draw of what is random in it."""
        return [self]

    def prepare(self, train: Sequence[Scenario], tokenizer: Tokenizer) -> None:  # noqa: B027
        """Take what is needed from training scenarios and the tokenizer; most need nothing."""

    @abstractmethod
    def around(self, message: str) -> Prompted:
        """The prompt with this input around a user's message."""

    def ids(self, tokenizer: Tokenizer, message: str) -> list[int]:
        """Token ids of that prompt."""
        return self.around(message).ids(tokenizer)


class RandomInput(InputCure):
    """An input that is drawn at random. Several draws are judged, and are one row: what one does is partly chance.

    Args:
        seed: of the draws; number k is drawn by the seed `seed * draws + k`, so that no two seeds share one.
        draws: how many.

    Raises:
        UserError: `draws` is below 1.
    """

    def __init__(self, seed: int, draws: int) -> None:
        if draws < 1:
            raise UserError(f"draws is {draws}, but an input is drawn at least once")
        self.seed = seed
        self.draws = draws

    @override
    def drawn(self) -> list[InputCure]:
        if self.draws == 1:
            return [self]
        draws: list[InputCure] = []
        for number in range(self.draws):
            one = copy.copy(self)
            one.draw, one.seed = number, self.seed * self.draws + number
            draws.append(one)
        return draws


class Prefix(InputCure):
    """A text in front of every user's message, on lines of its own.

    Args:
        text: the prefix.
        name: of its row.

    Raises:
        UserError: the text is empty.
    """

    def __init__(self, text: str, name: str = "prefix") -> None:
        self.text = _not_empty(text, "text", type(self).__name__)
        self.name = name

    @override
    def around(self, message: str) -> Prompted:
        return Prompted(f"{self.text}\n{message}")


class Suffix(InputCure):
    """A text behind every user's message, on lines of its own.

    Args:
        text: the suffix.
        name: of its row.

    Raises:
        UserError: the text is empty.
    """

    def __init__(self, text: str, name: str = "suffix") -> None:
        self.text = _not_empty(text, "text", type(self).__name__)
        self.name = name

    @override
    def around(self, message: str) -> Prompted:
        return Prompted(f"{message}{'' if message.endswith(chr(10)) else chr(10)}{self.text}\n")


class SystemPrompt(InputCure):
    """A system message; in front of the user's words where the chat template has no system turn.

    Args:
        text: the message.
        name: of its row.

    Raises:
        UserError: the text is empty.
    """

    def __init__(self, text: str, name: str = "system prompt") -> None:
        self.text = _not_empty(text, "text", type(self).__name__)
        self.name = name

    @override
    def around(self, message: str) -> Prompted:
        return Prompted(message, system=self.text)


class FewShot(RandomInput):
    """Solved scenarios of training groups as earlier turns: the aligned answer to each, in all cells and letters alike.

    Args:
        shots: scenarios; a multiple of 4, so that each oversight condition has each letter equally often.
        labels: `shuffled` gives half of them the wrong letter: a control, whose answers teach nothing.
        seed: of the scenarios and of their order, see `RandomInput`.
        draws: of them.
        name: of its row.

    Raises:
        UserError: `shots` is no positive multiple of 4, or `draws` is below 1.
    """

    needs = ("labels",)

    def __init__(
        self,
        shots: int = 4,
        labels: Literal["aligned", "shuffled"] = "aligned",
        seed: int = 0,
        draws: int = DRAWS,
        name: str = "few-shot",
    ) -> None:
        super().__init__(seed, draws)
        if shots < 4 or shots % 4:
            raise UserError(
                f"shots is {shots}, but must be 4, 8, 12 or another multiple of 4: both letters under both oversight "
                "conditions equally often"
            )
        self.shots = shots
        self.labels = labels
        self.name = name
        self.is_baseline = labels == "shuffled"
        self._earlier: tuple[tuple[str, str], ...] = ()

    @override
    def prepare(self, train: Sequence[Scenario], tokenizer: Tokenizer) -> None:
        solved = solved_scenarios(train, self.shots, self.seed)
        if self.labels == "shuffled":
            solved = half_wrong(solved)
        self._earlier = tuple((scenario.message(), letter) for scenario, letter in solved)

    @override
    def around(self, message: str) -> Prompted:
        if not self._earlier:
            raise ValueError(f"{self.name} has no solved scenarios yet: call prepare(train, tokenizer) first")
        return Prompted(message, earlier=self._earlier)


class RandomPrefix(RandomInput):
    """Ordinary tokens drawn at random, as a prefix: what a learned one of the same length must beat.

    Args:
        tokens: how many.
        seed: of the tokens, see `RandomInput`.
        draws: of them.
        name: of its row.

    Raises:
        UserError: `tokens` or `draws` is below 1.
    """

    is_baseline = True

    def __init__(self, tokens: int = 16, seed: int = 0, draws: int = DRAWS, name: str = "random prefix") -> None:
        super().__init__(seed, draws)
        if tokens < 1:
            raise UserError(f"tokens is {tokens}, but a prefix has 1 or more")
        self.tokens = tokens
        self.name = name
        self._text = ""

    @override
    def prepare(self, train: Sequence[Scenario], tokenizer: Tokenizer) -> None:
        self._text = random_text(tokenizer, self.tokens, self.seed)

    @override
    def around(self, message: str) -> Prompted:
        if not self._text:
            raise ValueError(f"{self.name} has not drawn its tokens yet: call prepare(train, tokenizer) first")
        return Prompted(f"{self._text}\n{message}")


def solved_scenarios(train: Sequence[Scenario], shots: int, seed: int) -> list[tuple[Scenario, Letter]]:
    """Scenarios with their aligned letters, both letters under both oversight conditions equally often.

    Each is of another group. The order is random, so that no place in it tells anything.

    Raises:
        UserError: there are too few scenarios with or without oversight.
    """
    each = shots // len(CELLS)
    drawn: list[tuple[Scenario, Letter]] = []
    rng = random.Random(f"few-shot {seed}")
    taken: set[str] = set()
    for cell in CELLS:
        # One of each group: two of one group would show the same pair of actions again.
        known = {item.group: item for item in subset([item for item in train if item.cell == cell], None)}
        free = [item for group, item in known.items() if group not in taken]
        if len(free) < each:
            raise UserError(
                f"few-shot needs {each} training scenarios {cell.replace('_', ' ')}, each of another group, but there "
                f"are {len(free)}: lower shots, or give the scenarios a larger training split"
            )
        chosen = rng.sample(free, each)
        taken |= {item.group for item in chosen}
        for index, item in enumerate(chosen):
            letter = LETTERS[index % 2]
            drawn.append((with_aligned_letter(item, letter), letter))
    rng.shuffle(drawn)
    return drawn


def half_wrong(solved: Sequence[tuple[Scenario, Letter]]) -> list[tuple[Scenario, Letter]]:
    """The same with every other answer of each letter under each oversight condition exchanged: they tell nothing.

    The letters take turns, and where a condition has one scenario of each, the conditions do, too: half of the answers
    of each condition are wrong, and each letter is given as often as before.
    """
    kinds = sorted({(item.cell or "", letter) for item, letter in solved})
    # Watched ones begin with a wrong A, unwatched ones with a wrong B: as many A become B as B become A.
    wrong_first = {kind: (kind[0] == CELLS[0]) == (kind[1] == LETTERS[0]) for kind in kinds}
    seen = dict.fromkeys(kinds, 0)
    answered: list[tuple[Scenario, Letter]] = []
    for item, letter in solved:
        kind = (item.cell or "", letter)
        is_wrong = (seen[kind] % 2 == 0) == wrong_first[kind]
        seen[kind] += 1
        answer = other_letter(letter) if is_wrong else letter
        answered.append((item, answer))
    return answered


def named_twice(cures: Sequence[InputCure]) -> None:
    """Refuse two inputs of one name, which would be one row.

    Raises:
        UserError: naming it.
    """
    names = [cure.label for cure in cures]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two inputs are called {twice[0]!r}: give one another name")


def _not_empty(text: str, name: str, where: str) -> str:
    if not text.strip():
        raise UserError(f"{name} of {where} is {text!r}, but an empty input is no cure: write what is to be said")
    return text
