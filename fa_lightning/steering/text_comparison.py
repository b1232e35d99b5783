"""What a model writes, unsteered and steered, with the same luck: in batches that equal single prompts, in float32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from fa_lightning.errors import NotFiniteError, UserError
from fa_lightning.scenarios.control_tokens import warn_of_control_tokens
from fa_lightning.scenarios.prompts import Tokenizer, prompt_ids
from fa_lightning.scenarios.turn_endings import end_tokens, until_end
from fa_lightning.steering.generation import generated
from fa_lightning.steering.hooks import input_device
from fa_lightning.steering.intervention import Intervention, steering

Value = TypeVar("Value")


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: where a text ends that does not end itself.
        temperature: of the distribution that is drawn from; 0 takes the most likely token.
        top_p: draw among the most likely tokens that hold this much of the probability.

    Raises:
        UserError: if one of them is out of its range.
    """

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}, but must be 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}, but must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}, but must be above 0 and at most 1")


GREEDY = Sampling()


@dataclass(frozen=True)
class Comparison:
    """What was written for one prompt with one seed."""

    prompt: str
    unsteered: str
    steered: str
    seed: int


def compare(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    interventions: Sequence[Intervention],
    sampling: Sampling | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 8,
    announce: Callable[[str, int, str], Any] | None = None,
) -> Iterator[Comparison]:
    """Write every prompt with every seed, unsteered and steered; in the order of the prompts, then of the seeds.

    Args:
        model: a causal LM, PEFT-wrapped or not.
        tokenizer: the model's.
        prompts: the user's messages.
        interventions: attached together, in order.
        sampling: how tokens are chosen; None is greedy.
        seeds: one sample each. Unsteered and steered text share their luck, so they differ only where the edit counts.
        batch_size: prompts at a time.
        announce: called before each text with its prompt, its seed and `unsteered` or `steered`; it returns the
            streamer that shows the text while it is written, which takes one prompt at a time.

    Raises:
        UserError: if an intervention does not fit the model, or batch_size is out of range.
        NotFiniteError: if an edit makes states or logits that are not finite.
    """
    if batch_size < 1 or (announce is not None and batch_size != 1):
        raise UserError(f"batch_size is {batch_size}, but must be 1 or more, and 1 where the text is streamed")
    sampling = sampling or Sampling()
    warn_of_control_tokens(tokenizer, prompts, "prompts")
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        texts: dict[tuple[int, str], list[str]] = {}
        for seed in seeds:
            for kind, edits in (("unsteered", []), ("steered", interventions)):
                streamer = None if announce is None else announce(batch[0], seed, kind)
                texts[seed, kind] = write(model, tokenizer, batch, edits, sampling, seed, streamer)
        for row, prompt in enumerate(batch):
            for seed in seeds:
                yield Comparison(prompt, texts[seed, "unsteered"][row], texts[seed, "steered"][row], seed)


@torch.inference_mode()
def write(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    interventions: Sequence[Intervention] = (),
    sampling: Sampling = GREEDY,
    seed: int = 0,
    streamer: Any = None,
) -> list[str]:
    """One text per prompt, all written at once: each is what the prompt alone would give, in float32.

    In bfloat16 and float16 rounding depends on the batch's shape, and may tip the choice between two close tokens.

    Args:
        model: a causal LM, PEFT-wrapped or not.
        tokenizer: the model's.
        prompts: the user's messages.
        interventions: attached together, in order; none leaves the model as it is.
        sampling: how tokens are chosen, and how many.
        seed: of the samples.
        streamer: is shown each token as it comes.

    Raises:
        UserError: if an intervention does not fit the model, or `prompts` is one text or none.
        NotFiniteError: if an edit makes states or logits that are not finite.
    """
    refuse_single_text(prompts, "prompts")
    if not prompts:
        raise UserError("prompts is empty: give at least one text to write behind")
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    ends = end_tokens(model, tokenizer)
    new = write_tokens(model, ids, tokenizer.pad_token_id, interventions, sampling, seed, streamer, ends)
    # Not every mark of an end is a special token, which decoding would skip.
    written = [until_end(row, ends)[0] for row in new.tolist()]
    return [str(text) for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def refuse_single_text(texts: Sequence[str], name: str) -> None:
    """Refuse one text where a list of them is meant: Python would take its letters for texts.

    Raises:
        UserError: naming the argument.
    """
    if isinstance(texts, str):
        raise UserError(f"{name} is one text ({texts[:40]!r}), but must be a list of texts: put it into brackets")


@torch.inference_mode()
def write_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    pad_token: int,
    interventions: Sequence[Intervention],
    sampling: Sampling | Sequence[Sampling],
    seed: int | Sequence[int] = 0,
    streamer: Any = None,
    ends: Collection[int] = (),
    strengths: Tensor | None = None,
    watcher: Watcher | None = None,
) -> Tensor:
    """New tokens (prompts, at most max_new_tokens) behind prompts of token ids; padded where a text has ended.

    Args:
        model: a causal LM, PEFT-wrapped or not.
        prompts: token ids.
        pad_token: what shorter prompts and ended texts are padded with.
        interventions: attached together, in order.
        sampling: one for all prompts, or one for each. All are written until the last `max_new_tokens`, unless
            `watcher` ends them before.
        seed: one for all prompts, or one for each.
        streamer: is shown each token as it comes.
        ends: tokens that end a text, besides those that the model's own settings name.
        strengths: in the place of the interventions' own, one for each prompt (interventions, prompts).
        watcher: sees all logits and tokens, and may end a text.
    """
    inputs = left_padded(prompts, pad_token, input_device(model))
    prompt_tokens = inputs["attention_mask"].sum(1)
    new_tokens = max(one.max_new_tokens for one in _for_each(sampling, 1))
    # Tokens are drawn by `Draw`, which makes the greedy choice a draw.
    processors: list[Any] = [Draw(sampling, seed)]
    if watcher is not None:
        processors.insert(0, watcher.saw_logits)
    with steering(model, interventions, prompt_tokens, strengths):
        written = generated(
            model,
            inputs,
            pad_token,
            new_tokens,
            ends=ends,
            processors=processors,
            streamer=streamer,
            stopping=[] if watcher is None else [watcher.ended],
        )
    new: Tensor = written[:, inputs["input_ids"].shape[1] :]
    return new


class Watcher(Protocol):
    """What looks on while a batch is written."""

    def saw_logits(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at the logits (prompts, vocabulary) of the next tokens, and return them."""

    def ended(self, input_ids: Tensor, scores: Any) -> Tensor:
        """Which texts end behind the last column of all tokens so far (prompts, tokens): booleans (prompts,)."""


def left_padded(ids: Sequence[Sequence[int]], pad_token: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Prompts as `input_ids` and `attention_mask`, (prompts, tokens).

    >>> left_padded([[5], [6, 7]], pad_token=0)["input_ids"].tolist()
    [[0, 5], [6, 7]]
    """
    width = max(map(len, ids))
    rows = [[pad_token] * (width - len(row)) + list(row) for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    return {
        "input_ids": torch.tensor(rows, dtype=torch.long, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


class Draw:
    """Logits processor that makes the greedy choice a draw, with luck of its own that no batch can change.

    The largest of logits / temperature + Gumbel noise is a sample of the softmax. The noise of a step depends on the
    seed and the step alone and is the same for every row of that seed, so a text is the same whatever it is batched
    with (as far as the logits are, see `write`), and the steered text meets the luck of the unsteered one.

    Args:
        sampling: the temperature and top_p; one for all rows, or one for each.
        seed: of the noise; one for all rows, or one for each.
    """

    def __init__(self, sampling: Sampling | Sequence[Sampling], seed: int | Sequence[int]) -> None:
        self.sampling = sampling
        self.seed = seed
        self.generators: dict[int, torch.Generator] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) whose largest is the token to take.

        Raises:
            NotFiniteError: if a logit is NaN or infinite; -inf forbids a token and is allowed.
        """
        scores = scores.float()
        if not (scores < float("inf")).all():
            raise NotFiniteError(
                "the model's logits are not finite: use a smaller --strength, or a dtype with a wider range (bfloat16 "
                "in place of float16)"
            )
        samplings, seeds = _for_each(self.sampling, len(scores)), _for_each(self.seed, len(scores))
        # Below that, logits over the temperature are no float32: what is meant is the most likely token.
        drawn = [row for row, one in enumerate(samplings) if one.temperature > 1e-30]
        if not drawn:
            return scores
        cut = [row for row in drawn if samplings[row].top_p < 1]
        result = scores.clone()
        result[drawn] /= self._column([samplings[row].temperature for row in drawn], scores)
        if cut:
            ordered, order = result[cut].softmax(-1).sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered  # the most likely token has 0 before it, so it always stays
            beyond = before >= self._column([samplings[row].top_p for row in cut], scores)
            dropped = torch.zeros_like(beyond).scatter(-1, order, beyond)
            result[cut] = result[cut].masked_fill(dropped, float("-inf"))
        noise = self._noise([seeds[row] for row in drawn], scores.shape[-1])
        result[drawn] += noise.to(scores.device)
        return result

    @staticmethod
    def _column(values: Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]

    def _noise(self, seeds: Sequence[int], width: int) -> Tensor:
        """Gumbel noise of this step (seeds, width)."""
        # Exponential noise on the CPU: its stream is the same on every device.
        draws = {}
        for seed in seeds:
            if seed not in draws:
                if seed not in self.generators:
                    self.generators[seed] = torch.Generator().manual_seed(seed)
                draws[seed] = -torch.empty(width).exponential_(generator=self.generators[seed]).log()
        return torch.stack([draws[seed] for seed in seeds])


def _for_each(value: Value | Sequence[Value], rows: int) -> Sequence[Value]:
    """One for each row, of one for all or of a sequence."""
    return value if isinstance(value, Sequence) else [value] * rows
