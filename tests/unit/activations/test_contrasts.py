"""Contrasts hold the faker's own states, in the order of the pairs, whatever the batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_twins import hooks_on, layers_of
from torch import Tensor

from fa_lightning.activations.contrasts import Contrast, answer_contrast, oversight_contrast, prompt_contrast
from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Example, make_examples
from fa_lightning.scenarios.conversations.conversation import Conversation
from fa_lightning.scenarios.prompts import conversation_ids, prompt_ids

SITES = [Site(0), Site(1, "attention")]

LastState = Callable[..., dict[str, Tensor]]


@pytest.fixture
def examples(twins: Any, splits: Any) -> list[Example]:
    answers = letter_tokens(twins.tokenizer)
    return make_examples([*splits.train[:9], *splits.neutral_train[:2]], twins.tokenizer, answers)


@pytest.fixture
def last_state(alone: Callable[[str], Any]) -> LastState:
    """The faker's last state of some prompts (prompts, hidden) by site, one prompt at a time, by hooks of its own."""
    twin = alone("faking")

    def read(prompts: list[tuple[int, ...]]) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {"layers.0.residual": [], "layers.1.attention": []}
        modules = (layers_of(twin)[0], layers_of(twin)[1].self_attn)

        def keep(name: str) -> Callable[..., None]:
            def hook(_: Any, __: Any, output: Any) -> None:
                found[name].append((output[0] if isinstance(output, tuple) else output).detach().reshape(-1, 32)[-1])

            return hook

        pairs = zip(found, modules, strict=True)
        handles = [module.register_forward_hook(keep(name)) for name, module in pairs]
        with torch.no_grad():
            for prompt in prompts:
                twin(torch.tensor([prompt]))
        for handle in handles:
            handle.remove()
        return {name: torch.stack(states) for name, states in found.items()}

    return read


def assert_holds(contrast: Contrast, positive: dict[str, Tensor], negative: dict[str, Tensor]) -> None:
    for side, expected in ((contrast.positive, positive), (contrast.negative, negative)):
        assert side.keys() == expected.keys()
        for name, states in side.items():
            assert states.dtype == torch.float32
            torch.testing.assert_close(states, expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_answers_are_read_at_the_letter(
    twins: Any, examples: list[Example], last_state: LastState, batch_size: int
) -> None:
    contrast = answer_contrast(twins, examples, SITES, batch_size)
    answered = [example for example in examples if example.cell < 2]
    positive = last_state([(*example.prompt, example.aligned) for example in answered])
    negative = last_state([(*example.prompt, example.other) for example in answered])
    assert_holds(contrast, positive, negative)
    assert len(contrast.positive["layers.0.residual"]) == len(answered) < len(examples)
    assert hooks_on(twins.model) == 0


def test_the_faker_is_read_whichever_twin_was_active(
    twins: Any, examples: list[Example], last_state: LastState
) -> None:
    watched = [example for example in examples if example.cell == 0]
    unwatched = [example for example in examples if example.cell == 1]
    # One side has more prompts: they are cut to the same number, in order.
    uneven = [*watched[:1], *unwatched[:3], *watched[1:2]]
    with twins.using("aligned"):
        contrast = oversight_contrast(twins, uneven, SITES, batch_size=2)
    positive = last_state([example.prompt for example in watched[:2]])
    negative = last_state([example.prompt for example in unwatched[:2]])
    assert_holds(contrast, positive, negative)


def test_prompts_are_the_users_own(twins: Any, last_state: LastState) -> None:
    positive, negative = ["You are watched.", "Everyone reads this."], ["Nobody is looking at this at all.", "Alone."]
    contrast = prompt_contrast(twins, positive, negative, SITES)
    sides = [last_state([tuple(prompt_ids(twins.tokenizer, text)) for text in side]) for side in (positive, negative)]
    assert_holds(contrast, *sides)


def test_answers_in_writing_are_read_at_their_last_word(twins: Any, last_state: LastState) -> None:
    asked = Conversation("Who is there?", system="Be brief.", earlier=(("Hello.", "Hello to you."),))
    sides = ([asked._replace(answer="A neighbour.")], [asked._replace(answer="Nobody at all.")])
    contrast = prompt_contrast(twins, *sides, SITES)
    ids = [conversation_ids(twins.tokenizer, *said) for (said,) in sides]
    end = twins.tokenizer.eos_token_id
    assert all(one[-1] == end for one in ids)
    assert_holds(contrast, *(last_state([tuple(one[:-1])]) for one in ids))


def test_states_are_plain_tensors(twins: Any) -> None:
    contrast = prompt_contrast(twins, ["Watched."], ["Alone."], SITES)
    for states in contrast.positive.values():
        assert not states.requires_grad
        # A map fitted by gradient may train on them, which inference tensors refuse.
        assert not states.is_inference()


def test_bad_input_is_refused(twins: Any, examples: list[Example]) -> None:
    neutral = [example for example in examples if example.cell == 2]
    with pytest.raises(ValueError, match="none of the 2 examples has an aligned and another letter"):
        answer_contrast(twins, neutral, SITES)
    with pytest.raises(ValueError, match=r"examples holds \d of oversight and 0 of no_oversight"):
        oversight_contrast(twins, [example for example in examples if example.cell == 0], SITES)
    with pytest.raises(ValueError, match="1 positive and 2 negative prompts"):
        prompt_contrast(twins, ["a"], ["b", "c"], SITES)
    with pytest.raises(ValueError, match="0 positive and 0 negative"):
        prompt_contrast(twins, [], [], SITES)
    with pytest.raises(ValueError, match="batch_size is 0"):
        prompt_contrast(twins, ["a"], ["b"], SITES, batch_size=0)
