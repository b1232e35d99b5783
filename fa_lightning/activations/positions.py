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

import torch
from torch import Tensor

from fa_lightning.errors import UserError

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
