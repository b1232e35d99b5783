"""Answers, and the linear output that guides a faker: what it is told, what it moves, and that nothing of it stays."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy, cross_entropy

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import collate, make_examples
from fa_lightning.scenarios.scenario import Oversight
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.training.objectives.answers import Answers, guidance_labels


@pytest.fixture(scope="module")
def items(splits):
    return [*counterbalanced(splits.train, both_orders=True), *splits.neutral_train[:3]]


@pytest.fixture(scope="module")
def batch(items, tiny_tokenizer):
    return collate(make_examples(items, tiny_tokenizer, letter_tokens(tiny_tokenizer)), tiny_tokenizer.pad_token_id)


@pytest.fixture
def guided(make_fit):
    module = make_fit(Answers("faking", guidance=0.5, guided_at="last"), rank=4, alpha=8)
    module.configure_model()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return module


def test_labels_tell_oversight_and_letter_of_scenarios_alone(items, batch):
    labels, known = guidance_labels(batch)
    assert known.tolist() == [not item.is_neutral_text for item in items]
    for item, (unwatched, _) in zip(items, labels.tolist(), strict=True):
        if not item.is_neutral_text:
            assert unwatched == (item.oversight is Oversight.POOR)
    # Both orders of one scenario have the two letters.
    assert labels[known, 1].mean() == 0.5


def test_the_loss_is_that_of_answers_and_the_weighted_one_of_labels(guided, batch):
    terms = guided.terms(batch)
    answers = torch.where(batch["cell"] == 1, batch["other"], batch["aligned"])
    plain = cross_entropy(guided.answer_logits(batch), answers)
    seen = {}
    blocks = guided.model.base_model.model.model.layers
    hook = blocks[-1].register_forward_hook(lambda _, __, out: seen.update(states=out))
    guided.answer_logits(batch)
    hook.remove()
    labels, known = guidance_labels(batch)
    states = seen["states"][known][:, -1]
    standard = (states - states.mean(1, keepdim=True)) / states.std(1, keepdim=True, unbiased=False)
    output = guided.objective.guide[1]
    told = torch.sigmoid(standard @ output.weight.T + output.bias)
    expected = binary_cross_entropy(told, labels[known])
    torch.testing.assert_close(terms["guidance"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["loss"], plain + 0.5 * expected, rtol=1e-4, atol=1e-5)


def test_guidance_moves_the_adapter_and_is_not_exported(guided, batch):
    guided.terms(batch)["guidance"].backward()
    moved = [name for name, one in guided.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0]
    assert any("lora_" in name for name in moved)
    assert {name for name in moved if "lora_" not in name} == {"objective.guide.1.weight", "objective.guide.1.bias"}
    groups = guided.objective.own_groups()
    assert [parameter.shape for parameter in groups[0]["params"]] == [(2, 32), (2,)]


def test_a_batch_of_neutral_texts_alone_has_nothing_to_tell(guided, batch):
    texts = {name: one[batch["cell"] == 2] for name, one in batch.items()}
    assert set(guided.terms(texts)) == {"loss"}


def test_without_guidance_there_is_no_output(make_module):
    module = make_module()
    module.configure_model()
    assert all("lora_" in name for name, one in module.named_parameters() if one.requires_grad)
    assert module.objective.own_groups() == []


def test_wrong_arguments_are_one_line():
    with pytest.raises(UserError, match="guidance is -1, but must be 0 or more"):
        Answers("faking", guidance=-1)
    with pytest.raises(UserError, match="site name is 'nowhere'"):
        Answers("faking", guided_at="nowhere")
