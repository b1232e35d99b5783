"""Which tokens of a forward call a position rule covers, from what the call itself says.

A layer sees (batch, tokens, hidden) and nothing else: not which tokens are padding, nor whether they follow a
prompt. The decoder's own arguments say both, in a plain forward as in `generate`, where the prompt comes as one call
and every later token as one more.

| rule | plain forward | prompt (no cached tokens yet) | later call (cached tokens) |
| --- | --- | --- | --- |
| all | every real token | every real token | every real token |
| last | each row's last real token | each row's last real token | each row's last real token |
| generated | none | none | every real token |
| prompt | every real token | every real token | none |
| until_T | none | none | those up to the first token of id T, with it |
| after_T | none | none | those behind the first token of id T |
| from_K | real tokens from the K-th on | the same | the same, counting the prompt |

So `generated` covers every token processed after the prompt: the first new token is still chosen from unedited states.
A call that continues a cache with more prompt (a second turn, a prefill in chunks), or that recomputes everything
without a cache, cannot be told from the call alone; give `prompt_tokens` then: `generated` covers the tokens after
the prompt, `prompt` those before, and `last` the prompt's last and all after it, exactly as with a cache.

`until_T` and `after_T` tell a thought from an answer where T is the token that ends thoughts. They follow each row from
call to call. Beam search lets rows change places, which no hook can see: a batch with equal rows is refused there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fa_lightning.errors import UserError

CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What a decoder's `forward` calls its cache: since transformers 5.24, and before."""


_FROM_RULE = re.compile(r"from_(\d+)")
_MARK_RULE = re.compile(r"(until|after)_(\d+)")


def first_covered(rule: str) -> int | None:
    """K of a `from_K` rule: the first token it covers, counted from 0 without padding; None for the other rules.

    Raises:
        UserError: there is no such rule.

    >>> first_covered("from_4"), first_covered("last")
    (4, None)
    """
    match = _FROM_RULE.fullmatch(rule)
    if match is None and rule not in ("all", "last", "generated", "prompt") and mark_of(rule) is None:
        raise UserError(
            f"site.positions is {rule!r}, but it must be all, last, generated, prompt, from_K with K >= 0 (for example "
            "from_4), or until_T or after_T with the id T of a token"
        )
    return int(match[1]) if match else None


def mark_of(rule: str) -> int | None:
    """T of a rule `until_T` or `after_T`; None for the other rules.

    >>> mark_of("after_151668"), mark_of("generated")
    (151668, None)
    """
    match = _MARK_RULE.fullmatch(rule)
    return int(match[2]) if match else None


def rule_in_texts(rule: str) -> str:
    """The tokens that a rule may come to cover in a text, whoever wrote it: its own, or for two rules each in turn.

    A text that is read at once has no last token to speak of, and none that was generated: while a model writes it,
    each token is once the last one, but for the first, which follows nothing. There pretrained models have their
    attention sink, which these rules never touch.

    >>> rule_in_texts("last"), rule_in_texts("from_4"), rule_in_texts("all")
    ('from_1', 'from_4', 'all')
    """
    return "from_1" if rule in ("last", "generated") or mark_of(rule) is not None else rule


def real_tokens(attention_mask: Tensor | None, batch: int, tokens: int, past: int) -> Tensor | None:
    """Which tokens of a call are no padding.

    Example:
        >>> real_tokens(torch.tensor([[0, 1, 1, 1]]), batch=1, tokens=1, past=3).tolist()
        [[True]]

    Args:
        attention_mask: None, (batch, past + tokens), (batch, tokens), or the (batch, 1, tokens, keys) mask that
            `generate` makes for a static cache: boolean, or added to the attention scores.
        batch: rows of the call.
        tokens: tokens per row of the call.
        past: tokens per row in the cache before the call.

    Returns:
        Booleans (batch, tokens), or None where nothing is padding.

    Raises:
        ValueError: if the mask has none of these shapes.
    """
    if attention_mask is None:
        return None
    if attention_mask.ndim == 2 and len(attention_mask) == batch:
        columns = attention_mask.shape[1]
        if columns >= past + tokens:
            return attention_mask[:, past : past + tokens].bool()
        if columns == tokens:
            return attention_mask.bool()
    if attention_mask.ndim == 4 and attention_mask.shape[2] == tokens and attention_mask.shape[3] >= tokens:
        # Every real token attends to itself and to no padding: the diagonal tells them apart. A window shorter than
        # the cache holds the call's own tokens last.
        start = min(past, attention_mask.shape[3] - tokens)
        diagonal = attention_mask[:, 0, :, start : start + tokens].diagonal(dim1=-2, dim2=-1)
        attended = diagonal if diagonal.dtype == torch.bool else diagonal >= 0
        return attended.expand(batch, tokens)
    raise ValueError(
        f"attention_mask is {tuple(attention_mask.shape)}, but a call of {batch} rows of {tokens} tokens after {past} "
        f"cached ones needs ({batch}, {past + tokens})"
    )


def token_positions(
    attention_mask: Tensor | None, position_ids: Tensor | None, batch: int, tokens: int, past: int
) -> Tensor:
    """How many real tokens of its row come before each token, the cached ones included; any value at padding.

    `position_ids` count them where the caller gives some (packed sequences restart theirs); else the mask does.

    Example:
        >>> token_positions(torch.tensor([[0, 0, 1, 1]]), None, batch=1, tokens=2, past=2).tolist()
        [[0, 1]]

    Returns:
        Integers (batch, tokens), or (1, tokens) where all rows are alike.
    """
    if position_ids is not None and position_ids.ndim == 2 and position_ids.shape[1] == tokens:
        return position_ids
    if attention_mask is not None and attention_mask.ndim == 2:
        counted = attention_mask.long().cumsum(1) - 1
        if attention_mask.shape[1] >= past + tokens:
            return counted[:, past : past + tokens]
        return counted + past
    device = None if attention_mask is None else attention_mask.device
    return torch.arange(past, past + tokens, device=device)[None]


def covered_tokens(
    rule: str,
    real: Tensor,
    positions: Tensor,
    past: int,
    prompt_tokens: Tensor | None = None,
    behind: Tensor | None = None,
) -> Tensor:
    """Which tokens of a call a rule covers; never padding.

    Example:
        >>> real = torch.tensor([[False, True, True]])
        >>> covered_tokens("last", real, real.long().cumsum(1) - 1, past=0).tolist()
        [[False, False, True]]

    Args:
        rule: `all`, `last`, `generated`, `prompt`, `from_K`, `until_T` or `after_T`.
        real: no padding, (batch, tokens).
        positions: index among the real tokens of the row, (batch, tokens) or (1, tokens).
        past: tokens per row in the cache before the call.
        prompt_tokens: real tokens of each row's prompt (batch,), where the call cannot say; see the module.
        behind: which tokens stand behind the mark of `until_T` and `after_T`, (batch, tokens).

    Returns:
        Booleans (batch, tokens).

    Raises:
        UserError: if there is no such rule.
    """
    if rule == "all":
        return real
    if mark_of(rule) is not None:
        assert behind is not None
        written = covered_tokens("generated", real, positions, past, prompt_tokens)
        return written & (behind if rule.startswith("after") else ~behind)
    if rule == "generated":
        if prompt_tokens is not None:
            return real & (positions >= prompt_tokens[:, None])
        return real if past else torch.zeros_like(real)
    if rule == "prompt":
        if prompt_tokens is not None:
            return real & (positions < prompt_tokens[:, None])
        return torch.zeros_like(real) if past else real
    if rule == "last":
        if prompt_tokens is not None:
            return real & (positions >= prompt_tokens[:, None] - 1)
        remaining = real.long().flip(1).cumsum(1).flip(1)
        return real & (remaining == 1)
    start = first_covered(rule)
    assert start is not None
    return real & (positions >= start)


@dataclass
class Selection:
    """The tokens of one call that a rule covers.

    Attributes:
        everything: every token is covered, so nothing needs picking.
        index: the covered tokens (n,), counted along the flattened (batch * tokens); None where `everything`.
    """

    everything: bool
    index: Tensor | None = None

    @property
    def is_empty(self) -> bool:
        """No token is covered."""
        return self.index is not None and self.index.numel() == 0

    def on(self, device: torch.device) -> Tensor:
        """The index on a device; kept there, since a model split over devices asks again at every layer."""
        if self.index is None:
            raise ValueError("a selection of everything has no index")
        if self.index.device != device:
            self.index = self.index.to(device)
        return self.index


def _cached_tokens(cache: Any) -> int:
    """Tokens per row that a cache holds.

    Raises:
        UserError: if it does not say.
    """
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, TypeError, ValueError) as error:  # the last is transformers' word for state-space models
        raise UserError(
            f"the decoder was called with a cache of type {type(cache).__name__}, which does not say how many tokens "
            "it holds, so steering cannot tell new tokens from the prompt: use one of transformers' caches for "
            "attention, or no cache and prompt_tokens"
        ) from error


@dataclass
class ForwardCall:
    """What one call of the decoder said about its tokens.

    Attributes:
        batch: rows.
        tokens: tokens per row.
        past: tokens per row in the cache before the call.
        attention_mask: as given, see `real_tokens`.
        position_ids: as given, (batch, tokens) or (1, tokens).
        prompt_tokens: real tokens of each row's prompt (prompts,); rows that share one (beams) lie together.
        uncached: the caller said that no cache is used.
        ids: token ids (batch, tokens); None where embeddings were given.
        passed: by token id of `until_T` and `after_T`, whether a row has written it before this call, (batch,).
    """

    batch: int
    tokens: int
    past: int = 0
    attention_mask: Tensor | None = None
    position_ids: Tensor | None = None
    prompt_tokens: Tensor | None = None
    uncached: bool = False
    ids: Tensor | None = None
    passed: dict[int, Tensor] = field(default_factory=dict)
    _selections: dict[str, Selection] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        arguments: Mapping[str, Any],
        prompt_tokens: Tensor | None = None,
        passed: Mapping[int, Tensor] | None = None,
    ) -> ForwardCall:
        """Read the arguments of a decoder's `forward`, by name, and what rows have written before.

        Raises:
            UserError: if they hold neither tokens nor embeddings, or a mask or a cache of an unknown kind.
        """
        inputs = arguments.get("input_ids")
        if inputs is None:
            inputs = arguments.get("inputs_embeds")
        if inputs is None:
            raise UserError("the decoder was called without input_ids or inputs_embeds: steering needs one of them")
        cache = next((arguments[name] for name in CACHE_ARGUMENTS if arguments.get(name) is not None), None)
        mask = arguments.get("attention_mask")
        if isinstance(mask, Mapping):  # one mask per kind of attention; the full one shows all tokens
            mask = mask["full_attention"] if "full_attention" in mask else next(iter(mask.values()), None)
        if mask is not None and not isinstance(mask, Tensor):
            raise UserError(f"attention_mask is a {type(mask).__name__}, but steering reads padding from a tensor only")
        return cls(
            batch=inputs.shape[0],
            tokens=inputs.shape[1],
            past=_cached_tokens(cache),
            attention_mask=mask,
            position_ids=arguments.get("position_ids"),
            prompt_tokens=prompt_tokens,
            uncached=arguments.get("use_cache") is False and cache is None,
            ids=arguments.get("input_ids"),
            passed=dict(passed or {}),
        )

    def select(self, rule: str) -> Selection:
        """The tokens that a rule covers, worked out once per call."""
        if rule not in self._selections:
            self._selections[rule] = self._select(rule)
        return self._selections[rule]

    def _select(self, rule: str) -> Selection:
        if self.prompt_tokens is None and ((rule == "generated" and not self.past) or (rule == "prompt" and self.past)):
            return Selection(everything=False, index=torch.empty(0, dtype=torch.long))
        real = real_tokens(self.attention_mask, self.batch, self.tokens, self.past)
        if real is None:
            if rule == "all" or (self.prompt_tokens is None and rule in ("generated", "prompt")):
                return Selection(everything=True)
            real = torch.ones(self.batch, self.tokens, dtype=torch.bool)
        positions = token_positions(self.attention_mask, self.position_ids, self.batch, self.tokens, self.past)
        real, prompts, mark = real.to(positions.device), self._prompts(positions.device), mark_of(rule)
        behind = None if mark is None else self._behind(mark, real, positions, prompts)
        covered = covered_tokens(rule, real, positions, self.past, prompts, behind)
        index = covered.flatten().nonzero().squeeze(1)
        return Selection(everything=True) if len(index) == covered.numel() else Selection(False, index)

    def _behind(self, mark: int, real: Tensor, positions: Tensor, prompts: Tensor | None) -> Tensor:
        """Which tokens stand behind the first `mark` that their row has written, (batch, tokens); noted in `passed`.

        Raises:
            UserError: no token ids were given, or rows are alike, as those of a beam search, which change places.
        """
        rule = f"site.positions names the token {mark}"
        if self.ids is None:
            raise UserError(f"{rule}, but the decoder was called with inputs_embeds: give input_ids")
        ids = self.ids.to(real.device)
        before = self.passed.get(mark) if self.past else None
        if before is None:
            rows = torch.where(real, ids, -1)
            if self.past == 0 and len(set(map(tuple, rows.tolist()))) < self.batch:
                raise UserError(
                    f"{rule}, but rows of the batch are alike: those of a beam search change places unseen; give each "
                    "prompt once, without beams"
                )
            before = torch.zeros(self.batch, dtype=torch.bool, device=real.device)
        if len(before) != self.batch:
            raise UserError(f"{rule}, but the batch has {self.batch} rows, and had {len(before)}: keep them all")
        written = covered_tokens("generated", real, positions, self.past, prompts)
        is_mark = (ids == mark) & written
        before = before.to(real.device)
        seen = (is_mark.cumsum(1) - is_mark.long()) > 0
        self.passed[mark] = before | is_mark.any(1)
        return seen | before[:, None]

    def _prompts(self, device: torch.device) -> Tensor | None:
        if self.prompt_tokens is None:
            return None
        if self.batch % len(self.prompt_tokens):
            raise ValueError(
                f"prompt_tokens holds {len(self.prompt_tokens)} prompts, but the call has {self.batch} rows, "
                "which is no multiple of that"
            )
        return self.prompt_tokens.to(device).repeat_interleave(self.batch // len(self.prompt_tokens))
