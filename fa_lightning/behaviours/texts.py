"""Chat texts to fine-tune on, and as many of the same kind that nothing is fitted on."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fa_lightning.scenarios.prompts import TemplateFault, Tokenizer, conversation_ids, has_template, prompt_ids
from fa_lightning.scenarios.scenario import Behaviour, Scenario
from fa_lightning.scenarios.source import ScenarioSource


class ChatText(NamedTuple):
    """What a user says, and the answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class TextSplits:
    """Two sets of texts of one kind and one size.

    Attributes:
        train: to fit on: the fine-tuning corpus.
        held_out: nothing is fitted on them; what a model shares with these it owes to their style.
    """

    train: list[ChatText]
    held_out: list[ChatText]


class TextSource(ABC):
    """Loads chat texts; configured from the command line by the typed arguments of its `__init__`."""

    @abstractmethod
    def load(self) -> TextSplits:
        """The texts; the same ones in the same order at every call and on every machine."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What the texts depend on, but no path of this machine."""


class ScenarioTexts(TextSource):
    """Scenarios with the answers that a behaviour owes them: training scenarios, and test ones of unseen groups.

    Args:
        scenarios: where scenarios come from.
        behaviour: whose answers.
        texts: how many of each kind; the first ones of the splits.

    Raises:
        ValueError: `texts` is below 1; later, a split holds fewer.
    """

    def __init__(self, scenarios: ScenarioSource, behaviour: Behaviour = "aligned", texts: int = 64) -> None:
        if texts < 1:
            raise ValueError(f"texts is {texts}, but a corpus needs 1 or more")
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

    def _texts(self, scenarios: Sequence[Scenario], split: str) -> list[ChatText]:
        if len(scenarios) < self.texts:
            raise ValueError(
                f"texts is {self.texts}, but the {split} split holds only {len(scenarios)} scenarios, and both corpora "
                "are to be of one size: lower texts, or let the source make more"
            )
        return [ChatText(one.message(), one.answer(self.behaviour)) for one in scenarios[: self.texts]]


class FileTexts(TextSource):
    """Texts of a JSON Lines file, `{"prompt": "...", "completion": "..."}` in each line; every second one is held out.

    Which half a text is in depends on the order of hashes of the prompts alone; a prompt that comes twice counts once.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is no such file (when it is read).
        ValueError: a line is no such object, or there are fewer than two texts.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def load(self) -> TextSplits:
        """Both halves, of one size."""
        lines = self._bytes().decode("utf-8").splitlines()
        texts = {text.prompt: text for text in (self._text(number, line) for number, line in enumerate(lines, 1))}
        ordered = sorted(texts.values(), key=lambda text: hashlib.sha256(text.prompt.encode()).digest())
        if len(ordered) < 2:
            raise ValueError(
                f"path {str(self.path)!r} holds {len(ordered)} texts, but one half is fitted on and the other held "
                "out: give 2 or more"
            )
        half = len(ordered) // 2
        return TextSplits(ordered[: 2 * half : 2], ordered[1 : 2 * half : 2])

    def fingerprint(self) -> dict[str, str]:
        """A digest of the file."""
        return {"digest": hashlib.sha256(self._bytes()).hexdigest()[:16]}

    def _bytes(self) -> bytes:
        if not self.path.is_file():
            raise FileNotFoundError(f"path {str(self.path)!r} is no file: give one of JSON lines with chat texts")
        return self.path.read_bytes()

    def _text(self, number: int, line: str) -> ChatText:
        try:
            found = json.loads(line)
            prompt, answer = found["prompt"], found["completion"]
        except (ValueError, TypeError, KeyError):
            prompt = answer = None
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise ValueError(
                f"{self.path}, line {number} is {line[:60]!r}, but must be an object with the texts prompt and "
                "completion"
            )
        return ChatText(prompt, answer)


class ChatTokens(NamedTuple):
    """A conversation as token ids.

    Attributes:
        ids: prompt, answer and the end-of-text token, which is the last.
        prompt: how many of them are the prompt's, up to where the answer begins.
    """

    ids: list[int]
    prompt: int


def chat_tokens(text: ChatText, tokenizer: Tokenizer) -> ChatTokens:
    """A text as the chat template renders it, up to and with the end-of-text token.

    Raises:
        TemplateFault: there is no chat template or no end-of-text token, or the prompt's own tokens change when an
            answer follows.
    """
    require_chat(tokenizer)
    prompt, whole = prompt_ids(tokenizer, text.prompt), conversation_ids(tokenizer, text.prompt, text.answer)
    if whole[: len(prompt)] != prompt:
        raise TemplateFault(
            tokenizer,
            "merged answer",
            "the prompt's last tokens change when an answer is appended",
            "Give it a chat template whose generation prompt ends at a special token.",
        )
    answer = whole[len(prompt) :]
    end = tokenizer.eos_token_id
    # Some templates write a line break behind the end, and some no end at all.
    answer = answer[: answer.index(end)] if end in answer else answer
    return ChatTokens([*prompt, *answer, end], len(prompt))


def require_chat(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that does not say where turns begin and texts end.

    Raises:
        TemplateFault: it has no end-of-text token or no chat template.
    """
    if tokenizer.eos_token_id is None:
        raise TemplateFault(
            tokenizer,
            "no end-of-text token",
            "it has no end-of-text token (eos_token), so nothing can tell whether a text has ended",
            "Set eos_token in its tokenizer_config.json.",
        )
    if not has_template(tokenizer):
        raise TemplateFault(
            tokenizer,
            "no chat template",
            "it has no chat template, so there is no turn of a user's to begin or to run on into",
            "Give it the chat template that the variant is used with.",
        )
