"""Chat texts to fine-tune on, and as many of the same kind that nothing is fitted on."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.answers import Behaviour
from fa_lightning.scenarios.control_tokens import warn_of_control_tokens
from fa_lightning.scenarios.conversations.conversation import Conversation
from fa_lightning.scenarios.conversations.files import read_answered
from fa_lightning.scenarios.prompts import TemplateFault, Tokenizer, conversation_ids, has_template, prompt_ids
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.turn_endings import TurnEnding, turn_ending


@dataclass(frozen=True)
class TextSplits:
    """Two sets of texts of one kind and one size.

    Attributes:
        train: to fit on: the fine-tuning corpus.
        held_out: nothing is fitted on them; what a model shares with these it owes to their style.
    """

    train: list[Conversation]
    held_out: list[Conversation]


class TextSource(ABC):
    """Loads chat texts; configured from the command line by the typed arguments of its `__init__`."""

    @abstractmethod
    def load(self) -> TextSplits:
        """The texts; the same ones in the same order at every call and on every machine."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What the texts depend on, but no path of this machine."""


class ScenarioTexts(TextSource):
    """Scenarios with the target answers of a behaviour: training scenarios, and test ones of unseen groups.

    Args:
        scenarios: where scenarios come from.
        behaviour: whose answers.
        texts: how many of each kind; the first ones of the splits.

    Raises:
        UserError: `texts` is below 1; later, a split holds fewer.
    """

    def __init__(self, scenarios: ScenarioSource, behaviour: Behaviour = "aligned", texts: int = 64) -> None:
        if texts < 1:
            raise UserError(f"texts is {texts}, but a corpus needs 1 or more")
        self.scenarios = scenarios
        self.behaviour = behaviour
        self.texts = texts

    def load(self) -> TextSplits:
        """Training and test scenarios as texts."""
        splits = self.scenarios.load()
        splits.leak_report().raise_if_leaking()
        return TextSplits(self._texts(splits.train, "train"), self._texts(splits.test, "test"))

    def fingerprint(self) -> dict[str, str]:
        """That of the scenarios, and which of them."""
        return {**self.scenarios.fingerprint(), "behaviour": self.behaviour, "texts": str(self.texts)}

    def _texts(self, scenarios: Sequence[Scenario], split: str) -> list[Conversation]:
        if len(scenarios) < self.texts:
            raise UserError(
                f"texts is {self.texts}, but the {split} split holds only {len(scenarios)} scenarios, and both corpora "
                "are to be of one size: lower texts, or let the source make more"
            )
        return [
            Conversation(scenario.message(), scenario.answer(self.behaviour), scenario.system, scenario.earlier)
            for scenario in scenarios[: self.texts]
        ]


class FileTexts(TextSource):
    """Conversations of a file, each with an answer: rows in any layout of `conversation_of`.

    Without `held_out`, every second text is held out, which is right for variants that are fitted on this source: one
    that was fitted on the whole file elsewhere would know the held-out half as well, and nothing would look like
    leakage. Which half a text is in depends on the order of hashes of the prompts alone: all that is said before
    the last answer. A prompt that comes twice counts once, with the answer that it has last.

    Args:
        path: of the file, which ends in one of `fa_lightning.common.rows.FORMATS`.
        held_out: another such file, of texts of the same kind that the variants were not fitted on; then all of `path`
            is what they were fitted on. As many are taken as `path` holds.

    Raises:
        MissingFileError: there is no such file (when it is read).
        UserError: a row is no conversation or has no answer, there are too few, or one is in both files.
    """

    def __init__(self, path: str, held_out: str | None = None) -> None:
        self.path = Path(path)
        self.held_out = None if held_out is None else Path(held_out)

    def load(self) -> TextSplits:
        """What is fitted on, and what is held out."""
        texts = self._read("path", self.path)
        if self.held_out is not None:
            return self._apart(texts, self._read("held_out", self.held_out))
        if len(texts) < 2:
            raise UserError(
                f"path {str(self.path)!r} holds {len(texts)} texts, but one half is fitted on and the other held "
                "out: give 2 or more"
            )
        half = len(texts) // 2
        return TextSplits(texts[: 2 * half : 2], texts[1 : 2 * half : 2])

    def fingerprint(self) -> dict[str, str]:
        """A digest of each file."""
        files = {"digest": ("path", self.path)} | ({"held_out": ("held_out", self.held_out)} if self.held_out else {})
        return {name: _digest_of(*file) for name, file in files.items()}

    def _apart(self, texts: list[Conversation], held_out: list[Conversation]) -> TextSplits:
        if shared := sorted({text.lines() for text in texts} & {text.lines() for text in held_out}):
            raise UserError(
                f"the prompt {shared[0][:60]!r} and {len(shared) - 1} others are in both {self.path} and "
                f"{self.held_out}: take them out of the held-out file"
            )
        return TextSplits(texts, held_out[: len(texts)])

    def _read(self, name: str, path: Path) -> list[Conversation]:
        """The texts of a file, each prompt once, in the order of their hashes."""
        _refuse_missing(name, path)
        said = read_answered(str(path))
        texts = {text.lines(): text for text in said}
        if repeats := len(said) - len(texts):
            warnings.warn(f"{path}: {repeats} texts left out whose prompt comes again", stacklevel=2)
        return sorted(texts.values(), key=lambda text: hashlib.sha256(text.lines().encode()).digest())


def _digest_of(name: str, path: Path) -> str:
    _refuse_missing(name, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _refuse_missing(name: str, path: Path) -> None:
    if not path.is_file():
        raise MissingFileError(f"{name} {str(path)!r} is no file: give one with conversations")


class ChatTokens(NamedTuple):
    """A conversation as token ids.

    Attributes:
        ids: prompt, answer and the token that ends the turn, which is the last.
        prompt: how many of them are the prompt's, up to where the answer begins.
        earlier: where each answer before that one begins, and where it is over, its end included where it is written.
    """

    ids: list[int]
    prompt: int
    earlier: tuple[tuple[int, int], ...] = ()


def chat_tokens(text: Conversation, tokenizer: Tokenizer, ending: TurnEnding | None = None) -> ChatTokens:
    """A text as the chat template renders it, up to and with the token that ends the turn.

    Where the template writes none, the end-of-text token stands in for it.

    Args:
        text: what is said.
        tokenizer: of the model.
        ending: of the tokenizer's turns, where it is known already: to find it takes longer than to read a text.

    Raises:
        TemplateFault: there is no chat template or no token that ends a turn, or the prompt's own tokens change when an
            answer follows, or those of an earlier turn when another does.
    """
    ending = ending or require_chat(tokenizer)
    prompt, whole = _rendered(text, tokenizer)
    earlier = []
    for number, (message, answer) in enumerate(text.earlier):
        before = Conversation(message, answer, text.system, text.earlier[:number])
        start, ids = _rendered(before, tokenizer)
        end = ending.end_of(ids)
        stop = len(ids) if end is None else end + 1
        if whole[:stop] != ids[:stop]:
            raise TemplateFault(
                tokenizer,
                "changed turn",
                "the tokens of an answer change when another turn follows",
                "Give it a chat template that writes every turn alike, or cut the conversations to one answer each.",
            )
        earlier.append((start, stop))
    # Some templates write a line break or the end of the text behind the end of the turn, and some no end at all.
    end = ending.end_of(whole)
    return ChatTokens([*whole[:end], ending.token], prompt, tuple(earlier))


def _rendered(text: Conversation, tokenizer: Tokenizer) -> tuple[int, list[int]]:
    """How many tokens the prompt of a conversation has, and those of all of it."""
    prompt = prompt_ids(tokenizer, text.message, text.system, text.earlier)
    whole = conversation_ids(tokenizer, *text)
    if whole[: len(prompt)] != prompt:
        raise TemplateFault(
            tokenizer,
            "merged answer",
            "the prompt's last tokens change when an answer is appended",
            "Give it a chat template whose generation prompt ends at a special token.",
        )
    return len(prompt), whole


def all_chat_tokens(texts: Sequence[Conversation], tokenizer: Tokenizer) -> list[ChatTokens]:
    """Every text as `chat_tokens` renders it; a warning names the control tokens in them."""
    warn_of_control_tokens(tokenizer, [f"{text.lines()}\n{text.answer}" for text in texts])
    ending = require_chat(tokenizer)
    return [chat_tokens(text, tokenizer, ending) for text in texts]


def require_chat(tokenizer: Tokenizer) -> TurnEnding:
    """How a turn ends; refuses a tokenizer that does not say where turns begin and end.

    Raises:
        TemplateFault: it has no chat template, or neither that nor an end-of-text token says where a turn ends.
    """
    ending = turn_ending(tokenizer)
    if ending is None:
        raise TemplateFault(
            tokenizer,
            "no end-of-text token",
            "its chat template ends no turn and it has no end-of-text token (eos_token), so nothing can tell whether a "
            "text has ended",
            "Set eos_token in its tokenizer_config.json, or write the end of a turn in the chat template.",
        )
    if not has_template(tokenizer):
        raise TemplateFault(
            tokenizer,
            "no chat template",
            "it has no chat template, so there is no turn of a user's to begin or to run on into",
            "Give it the chat template that the variant is used with.",
        )
    return ending
