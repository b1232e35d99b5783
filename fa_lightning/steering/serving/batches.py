"""Answer several requests as one batch, each row with its own strengths, sampling, stops and end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fa_lightning.activations.positions import rule_in_texts
from fa_lightning.activations.prefix import Prefix
from fa_lightning.steering.hooks import input_device
from fa_lightning.steering.intervention import Intervention, steering
from fa_lightning.steering.serving.texts import Text, TokenScore
from fa_lightning.steering.text_comparison import write_tokens

MOST_LOGITS = 1 << 26
"""Held at a time while prompts are scored: a quarter of a gigabyte in float32."""


class Row(Protocol):
    """What a batch is told of one of its texts, and tells of it."""

    text: Text

    @property
    def is_dropped(self) -> bool:
        """Nobody waits for it any more."""

    def tell_words(self, words: str) -> None:
        """New words of a text that streams."""

    def tell_finished(self) -> None:
        """The text has ended."""


@torch.inference_mode()
def answer(model: Any, pad_token: int, interventions: Sequence[Intervention], rows: Sequence[Row]) -> None:
    """Score what is to be scored and write what is to be written; every row is told of as soon as it has ended.

    Args:
        model: a causal LM, PEFT-wrapped or not.
        pad_token: what shorter prompts are padded with.
        interventions: all that the rows' strengths are of.
        rows: of one variant.

    Raises:
        UserError: an intervention does not fit the model.
        NotFiniteError: an edit made states or logits that are not finite; rows that have ended are done.
    """
    scored = [row for row in rows if row.text.request.scores_prompt and not row.is_dropped]
    if scored:
        _score(model, pad_token, interventions, [row.text for row in scored])
    for row in rows:
        if row.text.request.sampling is None and not row.is_dropped:
            row.text.finish = "length"
            row.tell_finished()
    written = [row for row in rows if row.text.request.sampling is not None and not row.is_dropped]
    if not written:
        return
    requests = [row.text.request for row in written]
    write_tokens(
        model,
        [request.ids for request in requests],
        pad_token,
        interventions,
        [request.sampling for request in requests if request.sampling is not None],
        [request.seed for request in requests],
        strengths=_strengths(requests),
        ends=written[0].text.ends,
        watcher=_Watcher(written),
    )


class _Watcher:
    """Hands each new token to its row, and ends rows by their own limits."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.open = [True] * len(rows)
        self._logprobs: dict[int, Tensor] = {}

    def saw_logits(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Keep the logarithms of the probabilities of rows that are to tell them."""
        asked = [i for i, row in enumerate(self.rows) if self.open[i] and row.text.request.top is not None]
        self._logprobs = dict(zip(asked, scores[asked].float().log_softmax(-1), strict=True)) if asked else {}
        return scores

    def ended(self, input_ids: Tensor, scores: Any) -> Tensor:
        """Which rows end here."""
        for index, (row, token) in enumerate(zip(self.rows, input_ids[:, -1].tolist(), strict=True)):
            if not self.open[index]:
                continue
            if row.is_dropped:
                self.open[index] = False
                continue
            self._add(index, row, token)
        return torch.tensor([not is_open for is_open in self.open], device=input_ids.device)

    def _add(self, index: int, row: Row, token: int) -> None:
        request, score = row.text.request, None
        if request.top is not None:
            logprobs = self._logprobs[index]
            values, tokens = logprobs.topk(request.top)
            top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
            score = TokenScore(token, logprobs[token].item(), top)
        tell: Callable[[str], None] | None = row.tell_words if request.streams else None
        row.text.add(token, score, tell)
        if row.text.finish is not None:
            self.open[index] = False
            row.tell_finished()


def _strengths(requests: Sequence[Any]) -> Tensor:
    """(interventions, rows)."""
    return torch.tensor([request.strengths for request in requests], dtype=torch.float32).T


def _score(model: Any, pad_token: int, interventions: Sequence[Intervention], texts: Sequence[Text]) -> None:
    """How likely each token of the prompts is behind those before it, as texts that someone else wrote.

    Read in pieces, since the logits of all tokens of all rows would fill memories; padded on the right, where what
    is padding can't be seen by any token.
    """
    everywhere = [one.at(positions=rule_in_texts(one.site.positions)) for one in interventions]
    device, longest = input_device(model), max(len(text.request.ids) for text in texts)
    lengths = torch.tensor([len(text.request.ids) for text in texts], device=device)
    ids = torch.tensor(
        [[*text.request.ids, *[pad_token] * (longest - len(text.request.ids))] for text in texts], device=device
    )
    columns = torch.arange(longest, device=device)
    mask = (columns < lengths[:, None]).long()
    for text in texts:
        text.prompt_scores = [TokenScore(text.request.ids[0], None, ())]
    # A model that keeps more than keys and values reads its prompts at once.
    prefix = Prefix.for_model(model)
    width = longest if prefix is None else max(1, MOST_LOGITS // (len(texts) * _vocabulary(model)))
    start = 0
    with steering(model, everywhere, lengths, _strengths([text.request for text in texts])):
        while start < longest - 1:
            # Of the last token nothing is asked.
            end = min(start + width, longest - 1)
            output = model(
                input_ids=ids[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=columns[start:end].expand(len(texts), -1),
                **({"use_cache": False} if prefix is None else prefix.arguments()),
            )
            _take(output.logits.float().log_softmax(-1), ids[:, start + 1 : end + 1], start, texts)
            start = end


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _take(logprobs: Tensor, following: Tensor, start: int, texts: Sequence[Text]) -> None:
    """Note the scores of a piece: logprobs (rows, tokens, vocabulary) behind the tokens from `start` on."""
    chosen = logprobs.gather(-1, following[..., None])[..., 0].tolist()
    most = max(text.request.top or 0 for text in texts)
    values, tokens = (part.tolist() for part in logprobs.topk(most))
    for row, text in enumerate(texts):
        top = text.request.top or 0
        for column in range(min(len(chosen[row]), len(text.request.ids) - 1 - start)):
            pairs = zip(tokens[row][column][:top], values[row][column][:top], strict=True)
            token = text.request.ids[start + column + 1]
            text.prompt_scores.append(TokenScore(token, chosen[row][column], tuple(pairs)))
