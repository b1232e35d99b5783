from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from fa_lightning.steering.generation import generated
from fa_lightning.steering.text_comparison import Sampling, write_tokens
from tests.conformance.models import PROMPTS, make_model

NEW, PAD = 6, 0

# What a model may bring along in its generation_config.json. All change or break plain greedy text, but three that do
# so elsewhere: forced_bos_token_id for prompts of one token, min_new_tokens before an end, a static cache on a GPU.
SETTINGS: list[dict[str, Any]] = [
    {"repetition_penalty": 50.0},
    {"no_repeat_ngram_size": 1},
    {"bad_words_ids": [[token] for token in range(1, 60)]},
    {"suppress_tokens": list(range(1, 60))},
    {"begin_suppress_tokens": list(range(1, 60))},
    {"sequence_bias": [[[60], 1e4]]},
    {"guidance_scale": 20.0},
    {"exponential_decay_length_penalty": [1, 1e4]},
    {"forced_eos_token_id": 61},
    {"forced_bos_token_id": 61},
    {"min_new_tokens": 50, "min_length": 50},
    {"max_time": 1e-9},
    {"num_beams": 3, "num_return_sequences": 3},
    {"do_sample": True, "temperature": 50.0, "num_return_sequences": 2},
    {"stop_strings": ["a"]},
    {"return_dict_in_generate": True, "output_scores": True},
    {"prompt_lookup_num_tokens": 2},
    {"cache_implementation": "static"},
]


def greedy_by_hand(model: Any, prompt: list[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(NEW):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model("llama")


def test_the_head_is_given_no_slice_of_the_states(model: Any) -> None:
    # torch would copy the head's weight once for each prompt (see `last_token`).
    given = []
    handle = model.lm_head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].is_contiguous()))
    try:
        write_tokens(model, PROMPTS, PAD, [], Sampling(NEW))
    finally:
        handle.remove()
    assert given == [True] * NEW


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 3e-38, 1e-20])
def test_the_coldest_draw_is_the_most_likely_token(model: Any, temperature: float) -> None:
    expected = [greedy_by_hand(model, prompt) for prompt in PROMPTS]
    assert write_tokens(model, PROMPTS, PAD, [], Sampling(NEW, temperature=temperature), seed=3).tolist() == expected


@pytest.mark.parametrize("brought", SETTINGS, ids=lambda brought: next(iter(brought)))
@pytest.mark.parametrize("wrapped", [False, True])
def test_no_setting_that_a_model_brings_along_has_a_say(model: Any, brought: dict[str, Any], wrapped: bool) -> None:
    expected = [greedy_by_hand(model, prompt) for prompt in PROMPTS]
    drawn = write_tokens(model, PROMPTS, PAD, [], Sampling(NEW, temperature=4.0), seed=3).tolist()
    assert drawn != expected
    before, model.generation_config = model.generation_config, type(model.generation_config)()
    asked: Any = model
    try:
        if wrapped:
            asked = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
        for name, value in brought.items():
            setattr(model.generation_config, name, value)
        own = model.generation_config
        assert write_tokens(asked, PROMPTS, PAD, [], Sampling(NEW)).tolist() == expected
        assert write_tokens(asked, PROMPTS, PAD, [], Sampling(NEW, temperature=4.0), seed=3).tolist() == drawn
        assert model.generation_config is own
        for name, value in brought.items():
            assert getattr(own, name) == value
    finally:
        if wrapped:
            asked.unload()
        model.generation_config = before


def test_the_tokens_that_end_a_text_are_the_models_own_and_may_be_put_off(model: Any) -> None:
    prompt = torch.tensor([PROMPTS[0]])
    expected = greedy_by_hand(model, PROMPTS[0])
    before, model.generation_config = model.generation_config, type(model.generation_config)(eos_token_id=expected[:1])
    try:
        assert generated(model, {"input_ids": prompt}, PAD, NEW)[0, prompt.shape[1] :].tolist() == expected[:1]
        assert generated(model, {"input_ids": prompt}, PAD, NEW, exactly=True).shape[1] == prompt.shape[1] + NEW
        other = [next(token for token in range(64) if token not in expected)]
        assert generated(model, {"input_ids": prompt}, PAD, NEW, ends=other)[0, -1] == expected[0]
        model.generation_config = type(before)()
        ended = generated(model, {"input_ids": prompt}, PAD, NEW, ends={expected[1], *other})
        assert ended[0, prompt.shape[1] :].tolist() == expected[: expected.index(expected[1]) + 1]
    finally:
        model.generation_config = before


def test_the_models_settings_are_back_after_an_error(model: Any) -> None:
    own = model.generation_config

    def fail(tokens: Tensor, logits: Tensor) -> Tensor:
        raise KeyError("processor")

    with pytest.raises(KeyError):
        generated(model, {"input_ids": torch.tensor([PROMPTS[0]])}, PAD, NEW, processors=[fail])
    assert model.generation_config is own
