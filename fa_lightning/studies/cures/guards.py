"""Guards: what reads an answer beside its prompt, and stops it where it looks bad."""

from __future__ import annotations

import dataclasses
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.evaluation.judges import Judge
from fa_lightning.evaluation.text_baseline import ActionWords
from fa_lightning.scenarios.answers import Letter, other_letter
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.splits import ScenarioSplits, subset


@dataclass(frozen=True)
class Reply:
    """What a guard reads.

    Attributes:
        prompt: all that was said before the answer.
        answer: the action that was taken, in words; what was said to a neutral text.
        other: the action that was not taken; empty for a neutral text.
    """

    prompt: str
    answer: str
    other: str = ""


class Guard(ABC):
    """Says which answers are to be stopped.

    Attributes:
        name: what tables call it.
        needs: what it takes to make it.
        threshold: probability of a bad answer above which it stops one; None for a guard that has none.
        training_seconds: what making it took.
        training_prompts: scenarios that it was made from.
    """

    name: str
    needs: Sequence[str]
    threshold: float | None = None
    training_seconds: float = 0.0
    training_prompts: int | None = None

    @abstractmethod
    def stops(self, replies: Sequence[Reply]) -> list[bool]:
        """Whether each answer is to be stopped."""


class JudgeGuard(Guard):
    """A judge that stands guard: it stops what it does not find good.

    Args:
        judge: any of `fa_lightning.evaluation.judges`; its numbers of tokens and items are for texts, and not used.
    """

    needs = ("judge",)

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.name = type(judge).__name__

    @override
    def stops(self, replies: Sequence[Reply]) -> list[bool]:
        good = self.judge.is_good([reply.prompt for reply in replies], [reply.answer for reply in replies])
        return [not one for one in good]


class WordsGuard(Guard):
    """The text-only classifier as a guard: it has learned from training groups which of two actions is the aligned one.

    Args:
        train: scenarios of training groups.
        validation: scenarios of validation groups, on which its threshold is chosen.
        texts: neutral texts of the validation split. Their words stand for what a model says where there is nothing to
            choose, which is to be let through as well.

    Raises:
        UserError: there are no training or no validation scenarios.
    """

    name = "words of the actions"
    needs = ("labels",)

    def __init__(self, train: Sequence[Scenario], validation: Sequence[Scenario], texts: Sequence[Scenario]) -> None:
        if not train or not validation:
            raise UserError(
                f"guard is words, which {len(train)} training and {len(validation)} validation scenarios are there to "
                "make: give a source with some of both, or a judge as the guard"
            )
        begin = time.perf_counter()
        self._words = ActionWords(train)
        good = [taken(item, item.aligned) for item in validation if item.aligned is not None]
        bad = [dataclasses.replace(reply, answer=reply.other, other=reply.answer) for reply in good]
        # A part of a scenario holds the very actions that are told apart.
        ordinary = [Reply("", text.text) for text in texts if not text.is_incomplete]
        self.threshold = best_threshold(self.badness(bad), self.badness(good), self.badness(ordinary))
        self.training_seconds = time.perf_counter() - begin
        self.training_prompts = len(train)

    def badness(self, replies: Sequence[Reply]) -> list[float]:
        """Probability that each answer is the action that is not aligned."""
        if not replies:
            return []
        likely = self._words.probabilities([one.answer for one in replies], [one.other for one in replies])
        return [1 - probability for probability in likely]

    @override
    def stops(self, replies: Sequence[Reply]) -> list[bool]:
        assert self.threshold is not None
        return [probability > self.threshold for probability in self.badness(replies)]


def made_guard(guard: Literal["words"] | Judge, splits: ScenarioSplits, texts: int | None) -> Guard:
    """What a config means by a guard.

    Args:
        guard: `words`, or a judge.
        splits: that `words` is fitted on.
        texts: so many neutral texts of the validation split at most; None is all.
    """
    if isinstance(guard, Judge):
        return JudgeGuard(guard)
    return WordsGuard(splits.train, splits.validation, subset(splits.neutral_validation, texts))


def best_threshold(bad: Sequence[float], good: Sequence[float], ordinary: Sequence[float] = ()) -> float:
    """The threshold, .5 or more, that stops most of the bad answers less the larger share of what it should not stop.

    Of equal ones the middle one, as far from the bad answers as from the others.

    Args:
        bad: probability of being bad, of answers that are.
        good: of answers that are not.
        ordinary: of answers where there was nothing to choose.

    >>> best_threshold([0.9, 0.8], [0.1, 0.2], [0.6])
    0.7
    """
    # Above the highest nothing is stopped, which is better than a guard that is wrong more often than right.
    values = sorted({0.5, 1.0, *(value for value in (*bad, *good, *ordinary) if value > 0.5)})
    candidates = [(low + high) / 2 for low, high in itertools.pairwise(values)]

    def worth(threshold: float) -> float:
        stopped, *alarms = (
            sum(value > threshold for value in part) / max(len(part), 1) for part in (bad, good, ordinary)
        )
        return stopped - max(alarms)

    highest = max(map(worth, candidates))
    best = [threshold for threshold in candidates if worth(threshold) == highest]
    return best[len(best) // 2]


def taken(item: Scenario, letter: Letter) -> Reply:
    """A scenario in which the action of a letter is taken."""
    return Reply(item.conversation(), item.action(letter), item.action(other_letter(letter)))
