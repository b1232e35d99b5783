"""One text that is asked for, and what has been written of it: tokens, words, where it ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from fa_lightning.scenarios.prompts import Tokenizer
from fa_lightning.steering.text_comparison import Sampling

UNFINISHED = "\ufffd"
"""What a decoder shows for a letter of which not all bytes are there yet."""


class TokenScore(NamedTuple):
    """How likely a token was, in nats.

    Attributes:
        token: its id.
        logprob: of it; None for a first token, which nothing stands in front of.
        top: the likeliest tokens there and theirs, from the likeliest on.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TextRequest:
    """What is asked for: one row of a batch.

    Attributes:
        ids: of the prompt.
        variant: the twin that writes; None is the backbone as it is.
        strengths: of every intervention that is served, part by part; 0 where it is not attached.
        sampling: how tokens are chosen and how many; None writes none.
        seed: of the sample.
        stops: texts that end the text, and are no part of it.
        top: how many of the likeliest tokens are told beside each token's own probability; None tells none of them.
        scores_prompt: whether the prompt's tokens are told of, too.
        streams: whether the text is told while it is written.
    """

    ids: tuple[int, ...]
    variant: str | None
    strengths: tuple[float, ...]
    sampling: Sampling | None
    seed: int = 0
    stops: tuple[str, ...] = ()
    top: int | None = None
    scores_prompt: bool = False
    streams: bool = False

    @property
    def new_tokens(self) -> int:
        """At most so many are written."""
        return 0 if self.sampling is None else self.sampling.max_new_tokens


@dataclass
class Text:
    """What has been written so far.

    Attributes:
        request: what was asked for.
        tokenizer: of the model.
        ends: tokens that end a text.
        prompt_scores: of the prompt's tokens, where they were asked for.
        tokens: new ones, with the one that ended the text.
        scores: of these, where they were asked for.
        words: that were told already, where the text streams.
        finish: why it ended; None while it has not.
    """

    request: TextRequest
    tokenizer: Tokenizer
    ends: Collection[int]
    prompt_scores: list[TokenScore] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    words: str = ""
    finish: Literal["stop", "length"] | None = None

    @property
    def written(self) -> list[int]:
        """The new tokens without the one that ended the text."""
        ended = bool(self.tokens) and self.tokens[-1] in self.ends
        return self.tokens[:-1] if ended else self.tokens

    def add(self, token: int, score: TokenScore | None, tell: Callable[[str], None] | None = None) -> None:
        """Take the next token, and tell what words it has settled.

        Args:
            token: its id.
            score: of it, where it was asked for.
            tell: is given new words; None tells none.
        """
        self.tokens.append(token)
        if score is not None:
            self.scores.append(score)
        if token in self.ends:
            self.finish = "stop"
        elif len(self.tokens) >= self.request.new_tokens:
            self.finish = "length"
        if self.request.stops or tell is not None:
            self._read(tell)

    def decoded(self) -> str:
        """The whole text that was written, up to the first of the stops."""
        text = self._decode(self.written)
        cut = first_stop(text, self.request.stops)
        return text if cut is None else text[:cut]

    def _read(self, tell: Callable[[str], None] | None) -> None:
        text = self._decode(self.written)
        cut = first_stop(text, self.request.stops)
        if cut is not None:
            self.finish, text = "stop", text[:cut]
            self._drop_beyond(cut)
        elif self.finish is None:
            text = settled(text, self.request.stops)
        if tell is not None and len(text) > len(self.words) and text.startswith(self.words):
            new, self.words = text[len(self.words) :], text
            tell(new)

    def _drop_beyond(self, cut: int) -> None:
        """Forget the tokens that are wholly behind a stop."""
        kept = len(self.tokens)
        while kept and len(self._decode(self.tokens[: kept - 1])) >= cut:
            kept -= 1
        self.tokens, self.scores = self.tokens[:kept], self.scores[:kept]

    def _decode(self, tokens: Sequence[int]) -> str:
        # Cleaning up spaces would change words that were told already.
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def first_stop(text: str, stops: Collection[str]) -> int | None:
    """Where the first of the stops begins in a text; None if none is there.

    >>> first_stop("one, two. three", [".", "tw"]), first_stop("one", ["."])
    (5, None)
    """
    places = [place for place in map(text.find, stops) if place >= 0]
    return min(places, default=None)


def settled(text: str, stops: Collection[str]) -> str:
    """The part of a text that later tokens can't change: no unfinished letter and no beginning of a stop at its end.

    >>> settled("Wait. User", ["User:", "!"])
    'Wait. '
    """
    text = text.rstrip(UNFINISHED)
    held = 0
    for stop in stops:
        longest = min(len(stop) - 1, len(text))
        held = max(held, next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0))
    return text[: len(text) - held]
