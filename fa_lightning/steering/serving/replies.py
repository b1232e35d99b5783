"""Answers in OpenAI's shape."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fa_lightning.scenarios.prompts import Tokenizer
from fa_lightning.steering.serving.refusals import RequestError
from fa_lightning.steering.serving.served import Served
from fa_lightning.steering.serving.texts import Text, TextRequest, TokenScore


class Reply:
    """The frame of one request's answer, whole or in chunks.

    Args:
        kind: `chat` or `completion`.
        model: the name that was asked.
        tokenizer: of the model.
        echoes: whether a completion begins with its prompt.
    """

    def __init__(self, kind: str, model: str, tokenizer: Tokenizer, echoes: bool = False) -> None:
        self.is_chat = kind == "chat"
        self.tokenizer = tokenizer
        self.echoes = echoes
        self.head: dict[str, Any] = {
            "id": f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if self.is_chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, texts: Sequence[Text]) -> dict[str, Any]:
        """The answer at once."""
        choices = [self._choice(index, text) for index, text in enumerate(texts)]
        return {**self.head, "choices": choices, "usage": usage(texts)}

    def chunk(self, index: int, words: str | None, text: Text | None = None, first: bool = False) -> dict[str, Any]:
        """A piece of a stream.

        Args:
            index: of the choice.
            words: new ones; None has none.
            text: the finished one, for the last piece of a choice.
            first: whether it opens the choice.
        """
        finish = None if text is None else text.finish
        if not self.is_chat:
            choice = {"index": index, "text": words or "", "logprobs": None, "finish_reason": finish}
            if text is not None and text.request.top is not None:
                choice["logprobs"] = self._listed(text)
            return {**self.head, "choices": [choice]}
        delta: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
        if words is not None:
            delta["content"] = words
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        if text is not None and text.request.top is not None:
            choice["logprobs"] = self._of_chat(text)
        return {**self.head, "object": "chat.completion.chunk", "choices": [choice]}

    def last_chunk(self, texts: Sequence[Text]) -> dict[str, Any]:
        """The numbers of tokens, behind a stream's choices."""
        kind = "chat.completion.chunk" if self.is_chat else self.head["object"]
        return {**self.head, "object": kind, "choices": [], "usage": usage(texts)}

    def prompt_of(self, request: TextRequest) -> str:
        """What a completion begins with, where it echoes."""
        return self._decode(request.ids) if self.echoes else ""

    def _choice(self, index: int, text: Text) -> dict[str, Any]:
        asked = text.request.top is not None
        choice: dict[str, Any] = {"index": index, "finish_reason": text.finish}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text.decoded(), "refusal": None}
            choice["logprobs"] = self._of_chat(text) if asked else None
        else:
            choice["text"] = self.prompt_of(text.request) + text.decoded()
            choice["logprobs"] = self._listed(text) if asked else None
        return choice

    def _of_chat(self, text: Text) -> dict[str, Any]:
        content = []
        # The mark that ends a turn is no part of the message.
        for score in text.scores[: len(text.written)]:
            entry = self._named(score.token, score.logprob)
            entry["top_logprobs"] = [self._named(*pair) for pair in score.top]
            content.append(entry)
        return {"content": content, "refusal": None}

    def _named(self, token: int, logprob: float | None) -> dict[str, Any]:
        word = self._decode([token])
        # A part of a letter has bytes of its own, which its decoded text no longer tells.
        known = None if PART in word else list(word.encode())
        return {"token": word, "logprob": logprob, "bytes": known}

    def _listed(self, text: Text) -> dict[str, Any]:
        """As completions list them: side by side, and the likeliest by their words."""
        scores = [*(text.prompt_scores if self.echoes else []), *text.scores]
        words = [self._decode([score.token]) for score in scores]
        return {
            "tokens": words,
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [self._likeliest(score) for score in scores],
            "text_offset": self._offsets([score.token for score in scores]),
        }

    def _offsets(self, tokens: Sequence[int]) -> list[int]:
        """Where each token begins in the text; parts of one letter begin where that does."""
        offsets: list[int] = []
        end, parts = 0, []
        for token in tokens:
            offsets.append(end)
            parts.append(token)
            word = self._decode(parts)
            if not word.endswith(PART):
                end, parts = end + len(word), []
        return offsets

    def _likeliest(self, score: TokenScore) -> dict[str, float] | None:
        if score.logprob is None:
            return None
        likeliest: dict[str, float] = {}
        # Several tokens may read alike, such as parts of letters: the likeliest of them stands.
        for token, logprob in (*score.top, (score.token, score.logprob)):
            likeliest.setdefault(self._decode([token]), logprob)
        return likeliest

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


PART = "\ufffd"
"""What a tokenizer decodes a part of a letter to."""


def usage(texts: Sequence[Text]) -> dict[str, int]:
    """Tokens of the prompts, each counted once, and of what was written."""
    prompts = sum(len(ids) for ids in dict.fromkeys(text.request.ids for text in texts))
    written = sum(len(text.tokens) for text in texts)
    return {"prompt_tokens": prompts, "completion_tokens": written, "total_tokens": prompts + written}


def models_of(served: Served, started: int) -> dict[str, Any]:
    """The list of models, each with the interventions that may be asked for."""
    interventions = [
        {
            "name": one.name,
            "strength": one.strength,
            "parts": [
                {"site": part.site.name, "positions": part.site.positions, "strength": part.strength}
                for part in one.parts
            ],
        }
        for one in served.interventions
    ]
    return {
        "object": "list",
        "data": [
            {
                "id": model.name,
                "object": "model",
                "created": started,
                "owned_by": "fa_lightning",
                "steered": model.is_steered,
                "interventions": interventions,
            }
            for model in served.models
        ],
    }


def error_of(error: RequestError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
