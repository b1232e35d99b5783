"""Position rules on hand-written calls: what each one covers, and that padding never is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fa_lightning.activations.forward_call import ForwardCall
from fa_lightning.activations.positions import covered_tokens, real_tokens, token_positions

LEFT = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
RIGHT = LEFT.flip(1)
ALL_PADDING = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])


def covered(call: ForwardCall, rule: str) -> list[list[int]]:
    selection = call.select(rule)
    grid = torch.zeros(call.batch * call.tokens, dtype=torch.long)
    if selection.everything:
        grid[:] = 1
    else:
        grid[selection.on(torch.device("cpu"))] = 1
    return grid.view(call.batch, call.tokens).tolist()


@pytest.mark.parametrize(
    ("rule", "left", "right"),
    [
        ("all", [[0, 0, 1, 1], [1, 1, 1, 1]], [[1, 1, 0, 0], [1, 1, 1, 1]]),
        ("last", [[0, 0, 0, 1], [0, 0, 0, 1]], [[0, 1, 0, 0], [0, 0, 0, 1]]),
        ("generated", [[0] * 4, [0] * 4], [[0] * 4, [0] * 4]),
        ("from_1", [[0, 0, 0, 1], [0, 1, 1, 1]], [[0, 1, 0, 0], [0, 1, 1, 1]]),
        ("from_0", [[0, 0, 1, 1], [1, 1, 1, 1]], [[1, 1, 0, 0], [1, 1, 1, 1]]),
        ("from_9", [[0] * 4, [0] * 4], [[0] * 4, [0] * 4]),
    ],
)
def test_plain_forward(rule: str, left: list[list[int]], right: list[list[int]]) -> None:
    assert covered(ForwardCall(2, 4, attention_mask=LEFT), rule) == left
    assert covered(ForwardCall(2, 4, attention_mask=RIGHT), rule) == right


@pytest.mark.parametrize("rule", ["all", "last", "from_0"])
def test_a_row_of_padding_is_never_covered(rule: str) -> None:
    assert covered(ForwardCall(2, 4, attention_mask=ALL_PADDING), rule)[0] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all", [[1], [1]]),
        ("last", [[1], [1]]),
        ("generated", [[1], [1]]),
        ("from_3", [[0], [1]]),  # two real tokens before the new one in row 0, four in row 1
        ("from_2", [[1], [1]]),
    ],
)
@pytest.mark.parametrize("with_ids", [False, True])
def test_one_cached_step(rule: str, expected: list[list[int]], with_ids: bool) -> None:
    mask = torch.cat([LEFT, torch.ones(2, 1, dtype=torch.long)], dim=1)
    ids = torch.tensor([[2], [4]]) if with_ids else None
    assert covered(ForwardCall(2, 1, past=4, attention_mask=mask, position_ids=ids), rule) == expected


@pytest.mark.parametrize(
    ("rule", "everything", "nothing"),
    [("all", True, False), ("generated", True, False), ("last", True, False), ("from_5", False, True)],
)
def test_no_mask_means_no_padding(rule: str, everything: bool, nothing: bool) -> None:
    selection = ForwardCall(3, 1, past=4).select(rule)
    assert (selection.everything, selection.is_empty) == (everything, nothing)


def test_everything_is_recognised_with_a_full_mask() -> None:
    assert ForwardCall(1, 4, attention_mask=torch.ones(1, 4)).select("all").everything
    assert not ForwardCall(2, 4, attention_mask=LEFT).select("all").everything


@pytest.mark.parametrize("padding", [LEFT, RIGHT])
def test_prompt_tokens_draw_the_line_without_a_cache(padding: Tensor) -> None:
    # Row 0: one prompt token, one new; row 1: three and one.
    call = ForwardCall(2, 4, attention_mask=padding, prompt_tokens=torch.tensor([1, 3]))
    start = int(padding[0].argmax())
    row = [0] * 4
    row[start + 1] = 1
    assert covered(call, "generated") == [row, [0, 0, 0, 1]]
    row[start] = 1
    assert covered(call, "last") == [row, [0, 0, 1, 1]]


def test_prompt_tokens_are_shared_by_the_beams_of_a_row() -> None:
    call = ForwardCall(4, 3, prompt_tokens=torch.tensor([1, 2]))
    assert covered(call, "generated") == [[0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1]]
    with pytest.raises(ValueError, match="prompt_tokens holds 3 prompts, but the call has 4 rows"):
        ForwardCall(4, 3, prompt_tokens=torch.tensor([1, 2, 3])).select("generated")


def test_a_second_chunk_of_the_prompt_is_not_generated_when_prompt_tokens_says_so() -> None:
    chunk = ForwardCall(1, 2, past=2, attention_mask=torch.ones(1, 4), prompt_tokens=torch.tensor([4]))
    assert covered(chunk, "generated") == [[0, 0]]
    assert covered(chunk, "last") == [[0, 1]]


@pytest.mark.parametrize("additive", [False, True])
def test_four_dimensional_masks_of_static_caches(additive: bool) -> None:
    # Two cached columns (the first is padding in row 0), two new tokens, two columns not yet filled.
    causal = torch.arange(6)[None, :] <= torch.arange(2, 4)[:, None]
    key_is_real = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1]]).bool()
    mask = (causal & key_is_real[:, None])[:, None]
    if additive:
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    real = real_tokens(mask, batch=2, tokens=2, past=2)
    assert real is not None
    assert real.tolist() == [[True, True], [False, True]]


def test_packed_sequences_restart_their_positions() -> None:
    positions = token_positions(torch.ones(1, 4), torch.tensor([[0, 1, 0, 1]]), batch=1, tokens=4, past=0)
    covered_here = covered_tokens("from_1", torch.ones(1, 4, dtype=torch.bool), positions, past=0)
    assert covered_here.tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("caches", [("cache",), ("past_key_values",), ("cache", "past_key_values")])
def test_reading_a_decoders_arguments(caches: tuple[str, ...]) -> None:
    # Where both names are given, one of them is empty: whichever holds the cache is read.
    cache = SimpleNamespace(get_seq_length=lambda: torch.tensor(3))
    given = dict.fromkeys(caches) | {caches[-1]: cache}
    call = ForwardCall.of({"input_ids": torch.zeros(2, 1), **given, "attention_mask": torch.ones(2, 4)})
    assert (call.batch, call.tokens, call.past, call.uncached) == (2, 1, 3, False)
    arguments: dict[str, Any] = {"inputs_embeds": torch.zeros(2, 4, 8), "use_cache": False}
    call = ForwardCall.of(arguments | {"attention_mask": {"sliding_attention": None, "full_attention": LEFT}})
    assert call.uncached
    assert call.attention_mask is LEFT


class StateSpaceCache:
    """Answers like transformers' cache of a model without attention."""

    def get_seq_length(self) -> int:
        raise ValueError("`get_seq_length` can only be called on Attention layers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "without input_ids or inputs_embeds"),
        ({"input_ids": torch.zeros(2, 4), "attention_mask": "flex"}, "attention_mask is a str"),
        ({"input_ids": torch.zeros(2, 4), "cache": ((torch.zeros(1), torch.zeros(1)),)}, "a cache of type tuple"),
        ({"input_ids": torch.zeros(2, 4), "past_key_values": StateSpaceCache()}, "a cache of type StateSpaceCache"),
    ],
)
def test_unreadable_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForwardCall.of(arguments)


def test_generated_begins_with_the_first_call_that_has_a_past() -> None:
    real = torch.tensor([[False, True]])
    assert covered_tokens("generated", real, torch.tensor([[0, 0]]), past=0).tolist() == [[False, False]]
    assert covered_tokens("generated", real, torch.tensor([[0, 4]]), past=4).tolist() == [[False, True]]


def test_masks_and_rules_of_unknown_kinds_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"attention_mask is \(2, 3\), but a call of 2 rows of 4 tokens after 0 cached"
    ):
        real_tokens(torch.ones(2, 3), batch=2, tokens=4, past=0)
    with pytest.raises(ValueError, match=r"site\.positions is 'first'"):
        covered_tokens("first", torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1), past=0)
