"""The texts that a request asks for, as far as the server takes them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fa_lightning.errors import UserError
from fa_lightning.scenarios.prompts import Tokenizer, prompt_ids
from fa_lightning.steering.serving.bodies import Asked, ChatAsked, CompletionAsked, Message
from fa_lightning.steering.serving.refusals import RequestError
from fa_lightning.steering.serving.served import NamedModel, Served
from fa_lightning.steering.serving.texts import TextRequest
from fa_lightning.steering.text_comparison import Sampling

SEEDS = 2**32
MOST_STOPS = 16
MOST_LETTERS = 32
"""Of a text for each token that a prompt may have: a longer one is refused before it is read."""


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        prompt_tokens: of a prompt.
        new_tokens: of an answer.
        requests: texts that may wait or be written at once.
        seconds: that a request may wait for its first batch.
    """

    prompt_tokens: int
    new_tokens: int
    requests: int
    seconds: float


def chat_texts(asked: ChatAsked, served: Served, limits: Limits) -> list[TextRequest]:
    """The texts that a chat request asks for: one for each of `n`.

    Raises:
        RequestError: a field can't be answered; it is named.
    """
    if asked.top_logprobs and not asked.logprobs:
        raise RequestError(400, "top_logprobs needs logprobs: true", "top_logprobs")
    system, message, earlier = _turns(asked.messages)
    for words in (system or "", message, *(one for pair in earlier for one in pair)):
        _check_words(words, limits, "messages")
    ids = _tokenized(served.tokenizer, message, system, earlier)
    top = (asked.top_logprobs or 0) if asked.logprobs else None
    given = asked.max_completion_tokens or asked.max_tokens
    room = max(1, min(limits.new_tokens, served.context - len(ids)))
    return _texts(asked, [ids], served, limits, room if given is None else given, top, "messages")


def completion_texts(asked: CompletionAsked, served: Served, limits: Limits) -> list[TextRequest]:
    """The texts that a completion request asks for: `n` for each prompt, those of a prompt side by side.

    Raises:
        RequestError: a field can't be answered; it is named.
    """
    new_tokens = 16 if asked.max_tokens is None else asked.max_tokens
    if not new_tokens and not asked.echo:
        raise RequestError(
            400, "max_tokens is 0, so there is nothing to answer: ask for 1 or more, or set echo", "max_tokens"
        )
    prompts = _prompts(asked.prompt)
    ids = []
    for prompt in prompts:
        if isinstance(prompt, str):
            _check_words(prompt, limits, "prompt")
            # What some tokenizers end every text with: nothing could follow it.
            read = list(served.tokenizer(prompt)["input_ids"])
            ids.append(read[:-1] if read and read[-1] == served.tokenizer.eos_token_id else read)
        else:
            ids.append(list(prompt))
    return _texts(asked, ids, served, limits, new_tokens, asked.logprobs, "prompt", echo=bool(asked.echo))


def _texts(
    asked: Asked,
    prompts: Sequence[list[int]],
    served: Served,
    limits: Limits,
    new_tokens: int,
    top: int | None,
    param: str,
    echo: bool = False,
) -> list[TextRequest]:
    model = _model(asked, served)
    _check_stops(asked)
    try:
        strengths = served.strengths(model, asked.names, asked.strength, asked.dose)
    except UserError as error:
        named = str(error).partition(" ")[0]
        field = named if named in ("strength", "dose") else "interventions"
        raise RequestError(400, str(error), field) from error
    number = asked.n or 1
    if number * len(prompts) > limits.requests:
        raise RequestError(
            400, f"{number * len(prompts)} texts are asked for at once, but this server takes {limits.requests}", "n"
        )
    if new_tokens > limits.new_tokens:
        raise RequestError(
            400, f"max_tokens is {new_tokens}, but this server writes at most {limits.new_tokens}", "max_tokens"
        )
    temperature = 1.0 if asked.temperature is None else asked.temperature
    sampling = Sampling(new_tokens, temperature, asked.top_p or 1.0) if new_tokens else None
    texts = []
    for ids in prompts:
        _check_ids(ids, served, limits, new_tokens, param)
        for index in range(number):
            seed = random.randrange(SEEDS) if asked.seed is None else (asked.seed + index) % SEEDS
            texts.append(
                TextRequest(
                    tuple(ids),
                    model.variant,
                    strengths,
                    sampling,
                    seed,
                    asked.stops,
                    top,
                    scores_prompt=echo and top is not None,
                    streams=bool(asked.stream),
                )
            )
    return texts


def _model(asked: Asked, served: Served) -> NamedModel:
    try:
        return served.named(asked.model)
    except UserError as error:
        raise RequestError(404, str(error), "model", "model_not_found") from error


def _check_stops(asked: Asked) -> None:
    if len(asked.stops) > MOST_STOPS:
        raise RequestError(400, f"stop has {len(asked.stops)} texts, but {MOST_STOPS} is the most", "stop")


def _check_ids(ids: Sequence[int], served: Served, limits: Limits, new_tokens: int, param: str) -> None:
    if not ids:
        raise RequestError(400, f"{param} holds no token: give at least one", param)
    vocabulary = int(served.model.get_input_embeddings().weight.shape[0])
    wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise RequestError(400, f"token {wrong} is none of this model's: they are 0 to {vocabulary - 1}", param)
    code = "context_length_exceeded"
    if len(ids) > limits.prompt_tokens:
        raise RequestError(
            400, f"the prompt has {len(ids)} tokens, but this server takes at most {limits.prompt_tokens}", param, code
        )
    if len(ids) + new_tokens > served.context:
        raise RequestError(
            400,
            f"the prompt has {len(ids)} tokens and {new_tokens} are to be written, but the model's context has "
            f"{served.context}: ask for fewer, or shorten the prompt",
            param,
            code,
        )


def _check_words(words: str, limits: Limits, param: str) -> None:
    if len(words) > MOST_LETTERS * limits.prompt_tokens:
        raise RequestError(
            400,
            f"{param} has a text of {len(words)} letters, but a prompt may have {limits.prompt_tokens} tokens here",
            param,
            "context_length_exceeded",
        )


def _tokenized(tokenizer: Tokenizer, message: str, system: str | None, earlier: Sequence[tuple[str, str]]) -> list[int]:
    try:
        return prompt_ids(tokenizer, message, system, earlier)
    except UserError as error:
        raise RequestError(400, str(error), "messages") from error


def _turns(messages: Sequence[Message]) -> tuple[str | None, str, list[tuple[str, str]]]:
    """(system message, the user's last words, the turns before it)."""
    first = next((place for place, one in enumerate(messages) if one.role in ("user", "assistant")), len(messages))
    system = "\n\n".join(one.words for one in messages[:first]) or None
    turns = messages[first:]
    for place, turn in enumerate(turns):
        if turn.role != ("user", "assistant")[place % 2]:
            raise RequestError(
                400,
                f"messages has a {turn.role} turn where a {('user', 'assistant')[place % 2]} turn must be: after the "
                "system messages, user and assistant take turns, the user first",
                "messages",
            )
    if len(turns) % 2 == 0:
        raise RequestError(400, "messages must end with a user's turn, which is what is answered", "messages")
    words = [turn.words for turn in turns]
    return system, words[-1], list(zip(words[:-1:2], words[1::2], strict=True))


def _prompts(prompt: Any) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise RequestError(400, "prompt is empty: give a text, or token ids", "prompt")
    return [prompt] if isinstance(prompt[0], int) else list(prompt)
