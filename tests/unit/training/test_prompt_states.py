"""States of prompts on disk: what is written comes back by the prompt's tokens, and what is damaged is seen."""

import os
import time

import pytest
import torch
from safetensors import safe_open

from fa_lightning.training.prompt_states import PromptStates, key_of

PROMPTS = [(5, 6, 7), (5, 6), (9,)]


@pytest.fixture
def make_states(tmp_path):
    def make(dtype=torch.float32, written=True):
        states = PromptStates(tmp_path / "states", 4, dtype)
        if written:
            states.write(PROMPTS, torch.arange(24.0).view(6, 4))
            states.look()
        return states

    return make


def left_padded(*prompts):
    width = max(map(len, prompts)) + 2
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_gets_its_prompts_states_wherever_their_padding_ends(make_states, dtype):
    states = make_states(dtype).of_batch(*left_padded((9,), (5, 6, 7)))
    assert states.dtype == dtype
    assert states.shape == (2, 5, 4)
    assert states[0, 4].tolist() == [20, 21, 22, 23]
    assert states[1, 2:].flatten().tolist() == list(range(12))
    assert not states[0, :4].any()
    assert not states[1, :2].any()


def test_other_tokens_or_another_padding_are_not_taken_for_a_prompt(make_states):
    states = make_states()
    assert (5, 6) in states
    assert (6, 5) not in states
    assert states.of_batch(*left_padded((5, 6), (5,))) is None
    ids, mask = left_padded((5, 6), (9,))
    assert states.of_batch(ids.flip(1), mask.flip(1)) is None


def test_a_shard_is_plain_safetensors_and_two_stores_share_a_folder(make_states):
    first, second = make_states(), make_states(written=False)
    second.write([(1, 2)], torch.ones(2, 4))
    first.look()
    assert len(first) == 4
    assert (1, 2) in first
    (file,) = [file for file in first.folder.iterdir() if file != first._places[key_of((1, 2))].file]
    with safe_open(file, "pt") as shard:
        assert shard.get_tensor("states").flatten().tolist() == list(range(24))


def altered(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-5])


def emptied(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [altered, cut_short, emptied])
def test_a_damaged_shard_is_dropped_and_named(make_states, damage):
    states = make_states()
    whole = states.write([(1, 2)], torch.ones(2, 4))
    states.look()
    (file,) = [file for file in states.folder.iterdir() if file != whole]
    damage(file)
    states.look()
    assert states.drop_damaged([*PROMPTS, (1, 2)]) == [file]
    states.look()
    assert len(states) == 1
    assert (1, 2) in states


def test_a_shard_that_nobody_needs_is_not_read_through(make_states):
    states = make_states()
    (file,) = states.folder.iterdir()
    altered(file)
    assert states.drop_damaged([(1, 2)]) == []
    assert file.exists()


def test_ranks_share_the_check(make_states):
    states = make_states()
    states.write([(1, 2)], torch.ones(2, 4))
    for file in states.folder.iterdir():
        altered(file)
    states.look()
    dropped = [states.drop_damaged([*PROMPTS, (1, 2)], rank, 2) for rank in (0, 1)]
    assert [len(files) for files in dropped] == [1, 1]
    assert not list(states.folder.iterdir())


def test_what_a_killed_run_was_writing_is_removed_once_it_is_old(make_states):
    states = make_states()
    old, fresh = (states.folder / f".{name}.safetensors.1.tmp" for name in ("old", "fresh"))
    for file in (old, fresh):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    states.look()
    states.drop_damaged(PROMPTS)
    assert not old.exists()
    assert fresh.exists()


def test_states_that_a_dtype_cannot_hold_are_refused(make_states):
    with pytest.raises(ValueError, match="NaN or infinite values in float16: set frozen_half_dtype"):
        make_states(torch.float16, written=False).write([(1,)], torch.full((1, 4), 1e6))


def test_a_shard_deleted_in_the_middle_of_a_fit_is_named(make_states):
    states = make_states()
    (file,) = states.folder.iterdir()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{file.name} has been deleted while a fit went on from it"):
        states.of_batch(*left_padded((9,)))
