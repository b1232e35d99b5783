"""What one call of a decoder says about its tokens: which are real, where they stand, which a position rule covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.positions import covered_tokens, mark_of, real_tokens, token_positions
from fa_lightning.errors import UserError

CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What a decoder's `forward` calls its cache: since transformers 5.24, and before."""


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
