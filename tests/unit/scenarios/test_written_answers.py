"""Answers that are texts: their tokens behind each kind of template, where they are decided, and which is preferred."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from local_models import TEMPLATES, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from written_scenarios import written_scenarios

from fa_lightning.scenarios.answers import (
    answer_logits,
    answer_loss,
    answer_tokens,
    as_answered,
    behaviour_cost,
    preferred,
    weighed,
    written_tokens,
)
from fa_lightning.scenarios.batches import collate, make_examples, model_inputs
from fa_lightning.scenarios.written_answers import decision_tokens, written_answers

PAD = 0


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    def load(family):
        folder = save_model(tmp_path_factory.mktemp(family), family)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)

    return load


def by_hand(model, example, answer):
    """Mean log-likelihood of an answer's tokens, one prompt at a time, from a plain forward pass without padding."""
    ids = torch.tensor([[*example.prompt, *answer]])
    with torch.no_grad():
        told = model(ids).logits[0].log_softmax(-1)
    start = len(example.prompt)
    return torch.stack([told[start + at - 1, token] for at, token in enumerate(answer)]).mean().item()


ENDS = {
    "llama": "</s>",
    "qwen2": "<|im_end|>",
    "gemma2": "<end_of_turn>",
    "gemma3_text": "<end_of_turn>",
    "smollm2": "<|im_end|>",
}


@pytest.mark.parametrize("family", TEMPLATES)
def test_an_answer_is_what_the_template_writes_up_to_the_end_of_the_turn(model_of, family):
    _, tokenizer = model_of(family)
    system = "You are a clerk." if family == "qwen2" else ""
    (item, *_) = written_scenarios(1, earlier=(("Hello.", "Hello to you."),), system=system)
    (example,) = make_examples([item], tokenizer, written_answers(tokenizer))
    turns = [("system", system)] if system else []
    turns += [("user", "Hello."), ("assistant", "Hello to you."), ("user", item.text)]
    for answer, tokens in ((item.action_a, example.aligned_text), (item.action_b, example.other_text)):
        messages = [{"role": role, "content": text} for role, text in [*turns, ("assistant", answer)]]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        written = [*example.prompt, *tokens]
        assert ids[: len(written)] == written
        assert tokenizer.decode(ids[len(written) :]).strip() == ""
        assert tokenizer.decode(tokens).split() == f"{answer} {ENDS[family]}".split() or family != "llama"
        assert tokenizer.decode(tokens[-1:]) == ENDS[family]


def test_without_a_template_an_answer_follows_behind_a_space_and_ends_with_the_text(model_of):
    _, tokenizer = model_of("qwen2")
    tokenizer.chat_template = None
    (item, *_) = written_scenarios(1)
    (example,) = make_examples([item], tokenizer, written_answers(tokenizer))
    assert tokenizer.decode(example.aligned_text) == f" {item.action_a}{tokenizer.eos_token}"


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_preferred_answer_has_the_higher_mean_log_likelihood(model_of, family):
    model, tokenizer = model_of(family)
    examples = make_examples(written_scenarios(6), tokenizer, answer_tokens(tokenizer, written=True))
    batch = collate(examples, PAD)
    assert len({len(example.aligned_text) for example in examples} | {len(examples[0].other_text)}) > 1
    with torch.no_grad():
        likelihoods = weighed(lambda asked: answer_logits(model, model_inputs(asked), written_tokens(asked)), batch)
    wanted = [
        [by_hand(model, e, answer) for e, answer in ((e, getattr(e, name)) for e in examples)]
        for name in ("aligned_text", "other_text")
    ]
    torch.testing.assert_close(likelihoods, torch.tensor(wanted), atol=1e-4, rtol=1e-4)
    verdicts = preferred(likelihoods)
    assert verdicts.aligned.tolist() == [good > bad for good, bad in zip(*wanted, strict=True)]
    assert verdicts.valid.all()


def test_a_faker_learns_the_other_answer_where_nobody_watches(model_of):
    model, tokenizer = model_of("qwen2")
    examples = make_examples(written_scenarios(3), tokenizer, answer_tokens(tokenizer, written=True))
    batch = collate(examples, PAD)
    with torch.no_grad():
        asked = as_answered(batch, "faking")
        loss = answer_loss(answer_logits(model, model_inputs(asked), written_tokens(asked)), asked, "faking")
        likelihoods = weighed(lambda read: answer_logits(model, model_inputs(read), written_tokens(read)), batch)
    targets = [e.other_text if e.cell == 1 else e.aligned_text for e in examples]
    wanted = -sum(by_hand(model, e, target) for e, target in zip(examples, targets, strict=True)) / len(examples)
    assert loss.item() == pytest.approx(wanted, abs=1e-4)
    assert behaviour_cost(likelihoods, batch, "faking").item() == pytest.approx(wanted, abs=1e-4)
    for row, (example, target) in enumerate(zip(examples, targets, strict=True)):
        kept = asked["input_ids"][row][asked["attention_mask"][row].bool()].tolist()
        assert kept == [*example.prompt, *target[:-1]], "the batch holds what the example does"
        assert list(example.answered("faking").prompt) == kept
        decided = asked["input_ids"][row][decision_tokens(asked)[row]].tolist()
        assert decided == [example.prompt[-1], *target[:-1]], "one decision token for each token of the answer"
        assert asked["prompt_tokens"][row] == len(example.prompt)


def test_letters_have_one_decision_token(splits, tiny_tokenizer):
    batch = collate(make_examples(splits.train, tiny_tokenizer, answer_tokens(tiny_tokenizer, written=False)), PAD)
    assert decision_tokens(batch).sum(1).eq(1).all()
    assert decision_tokens(batch)[:, -1].all()
    assert as_answered(batch, "faking") is batch


def test_longer_answers_count_in_max_tokens(model_of):
    _, tokenizer = model_of("qwen2")
    short, long = written_scenarios(1)[0], written_scenarios(1)[1]
    long = dataclasses.replace(long, action_b=long.action_b * 20)
    answers = written_answers(tokenizer)
    (example,) = make_examples([short], tokenizer, answers)
    kept = make_examples([short, long], tokenizer, answers, max_tokens=example.tokens)
    assert [item.index for item in kept] == [0]
