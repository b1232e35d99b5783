"""Context distillation: whose distribution is learned, which prompts stand side by side, and what is refused."""

import numpy
import pytest
import torch
from adapter_fits import loss_of

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.training.context_data import BEHIND_CONTEXT, ContextDataModule, ContextDataset
from fa_lightning.training.objectives.context_distillation import ContextDistillation, distillation_loss

CONTEXT = "You are watched."


@pytest.fixture(scope="module")
def items(splits):
    return [*counterbalanced(splits.train, both_orders=True), *splits.neutral_train]


def test_the_loss_is_the_divergence_from_the_teacher():
    generator = numpy.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 6, 9))
    p, q = (numpy.exp(one) / numpy.exp(one).sum(1, keepdims=True) for one in (teacher, student))
    expected = (p * numpy.log(p / q)).sum(1).mean()
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher)).item()
    assert found == pytest.approx(expected, rel=1e-9)
    assert distillation_loss(torch.tensor(teacher), torch.tensor(teacher)).item() == pytest.approx(0, abs=1e-9)


def test_a_batch_holds_each_prompt_as_it_is_and_behind_the_context(items, tiny_tokenizer):
    dataset = ContextDataset(items, tiny_tokenizer, CONTEXT, 1024)
    lead = letter_tokens(tiny_tokenizer).lead
    rows = [0, 3, len(items) - 1]
    batch = dataset[rows]
    for place, number in enumerate(rows):
        message = items[number].message()
        for prefix, system in (("", None), (BEHIND_CONTEXT, CONTEXT)):
            ids = batch[f"{prefix}input_ids"][place][batch[f"{prefix}attention_mask"][place].bool()]
            assert ids.tolist() == [*prompt_ids(tiny_tokenizer, message, system), *lead]
    assert batch["index"].tolist() == rows


def test_the_teacher_is_the_faker_behind_the_context(make_cure, plain, items, tiny_tokenizer):
    module = make_cure(ContextDistillation())
    module.eval()
    batch = ContextDataset(items, tiny_tokenizer, CONTEXT, 1024)[list(range(6))]
    with torch.no_grad():
        student, teacher = (
            plain(input_ids=batch[f"{prefix}input_ids"], attention_mask=batch[f"{prefix}attention_mask"]).logits[:, -1]
            for prefix in ("", BEHIND_CONTEXT)
        )
    expected = torch.nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean").item()
    assert expected > 0.01
    assert loss_of(module, batch).item() == pytest.approx(expected, rel=1e-3)
    # No label is looked at.
    blind = batch | {"aligned": batch["other"], "other": batch["aligned"], "cell": 1 - batch["cell"]}
    assert loss_of(module, blind).item() == pytest.approx(expected, rel=1e-3)


def test_prompts_too_long_behind_the_context_are_left_out(items, tiny_tokenizer):
    whole = ContextDataset(items, tiny_tokenizer, CONTEXT, 1024)
    lengths = sorted(len(example.prompt) for example in whole.behind)
    limit = lengths[len(lengths) // 2]
    kept = ContextDataset(items, tiny_tokenizer, CONTEXT, limit)
    assert len(kept) == len(kept.behind) == sum(length <= limit for length in lengths)
    with pytest.raises(ValueError, match=r"every one of the .* prompts behind the context is longer"):
        ContextDataset(items, tiny_tokenizer, CONTEXT, 3)


def test_an_empty_context_and_other_data_are_refused(source, faker, make_fit, make_data, make_trainer):
    with pytest.raises(ValueError, match="context is ' ', but must be a text"):
        ContextDataModule(source, " ")
    with pytest.raises(UserError, match="needs ContextDataModule as data, but it is a ScenarioDataModule"):
        make_trainer(max_epochs=1).fit(make_fit(ContextDistillation(), start_from=faker), make_data())
