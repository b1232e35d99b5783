"""The one term that every cure by training shares: how far it may go from the faker on neutral texts."""

import json
from dataclasses import replace

import numpy
import pytest
import torch

from fa_lightning.scenarios.batches import collate
from fa_lightning.training.context_data import BEHIND_CONTEXT, ContextDataModule
from fa_lightning.training.contrast_data import PLAIN, ContrastScenarioDataModule
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.export import AdapterExport
from fa_lightning.training.kept_texts import KEPT, texts_of
from fa_lightning.training.objectives.answers import Answers
from fa_lightning.training.objectives.preferences import DirectPreference
from fa_lightning.training.text_data import TextDataModule
from fa_lightning.training.texts import ScenarioTexts


@pytest.fixture
def batch(examples):
    """Prompts, and texts of several lengths beside them."""
    texts = examples[-6:]
    assert len({len(text.prompt) for text in texts}) > 1
    kept = collate(texts, 0)
    return collate(examples[:6], 0) | {f"{KEPT}{name}": tensor for name, tensor in kept.items()}


def moved(module):
    """The adapter that learns is no longer where it started."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.mul_(-0.5)
    return module


@pytest.mark.parametrize("objective", [Answers(), DirectPreference()], ids=["no origin", "its own origin"])
def test_the_term_is_the_divergence_from_the_faker_of_what_is_read_and_what_is_said(
    objective, make_cure, plain, examples, batch
):
    module = moved(make_cure(objective, keep=3.0))
    module.eval()
    read, said = [], []
    with torch.no_grad():
        for text in examples[-6:]:
            ids = torch.tensor([text.prompt])
            p, q = (
                numpy.exp(one) / numpy.exp(one).sum(-1, keepdims=True)
                for one in (
                    plain(input_ids=ids).logits[0].double().numpy(),
                    module.model(input_ids=ids).logits[0].double().numpy(),
                )
            )
            nats = (p * numpy.log(p / q)).sum(-1)
            read += nats[:-1].tolist()
            said.append(nats[-1])
        expected = numpy.mean(read) + numpy.mean(said)
        terms = module.terms(batch)
        free = module.objective.terms(module.adapted, batch)["loss"].item()
    assert expected > 0.05
    assert terms["kept"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(free + 3 * expected, rel=1e-4)


def greedy(model, ids, tokens):
    """What a model writes behind a text, token by token and without a cache."""
    written = []
    with torch.no_grad():
        for _ in range(tokens):
            written.append(int(model(input_ids=torch.tensor([[*ids, *written]])).logits[0, -1].argmax()))
    return tuple(written)


def test_of_a_model_that_speaks_the_answers_of_its_start_are_kept(
    make_cure, plain, source, make_trainer, tiny_tokenizer
):
    module = moved(make_cure(Answers(), keep=1.0))
    tokens, loaders = 4, []
    for answers in (0, tokens):
        data = ScenarioDataModule(source, batch_size=4, kept_texts=3, kept_answers=answers)
        data.trainer = make_trainer()
        data.trainer.strategy.connect(module)
        data.setup("fit")
        loaders.append(data.train_dataloader())
    silent, speaking = (loader.dataset.texts for loader in loaders)
    for before, text in zip(silent, speaking, strict=True):
        assert text.prompt == before.prompt + greedy(plain, before.prompt, text.continuation)
        assert text.continuation == tokens or text.prompt[-1] == tiny_tokenizer.eos_token_id
        assert replace(text, prompt=before.prompt, continuation=0) == before
    assert module.training
    texts = texts_of(next(iter(loaders[1])))
    assert set(texts["continuation"].tolist()) == {tokens}
    module.eval()
    read, said = [], []
    for ids, mask in zip(texts["input_ids"], texts["attention_mask"], strict=True):
        ids = ids[mask.bool()][None]
        with torch.no_grad():
            p, q = (model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (plain, module.model))
        nats = (p.exp() * (p - q)).sum(-1)[:-1]
        read += nats[:-tokens].tolist()
        said += nats[-tokens:].tolist()
    expected = numpy.mean(read) + numpy.mean(said)
    assert expected > 0.05
    assert module.adapted.divergence(texts).item() == pytest.approx(expected, rel=1e-4)


def test_a_trial_of_one_batch_writes_no_more_answers_than_it_shows(make_cure, source, make_trainer):
    data = ScenarioDataModule(source, batch_size=4, kept_texts=3, kept_answers=2)
    data.trainer = make_trainer(fast_dev_run=True)
    data.trainer.strategy.connect(make_cure(Answers(), keep=1.0))
    data.setup("fit")
    assert len(data.train_dataloader().dataset.texts) == 3


def test_no_answers_can_be_fewer_than_none(source):
    with pytest.raises(ValueError, match="kept_answers is -1, but must be 0"):
        ScenarioDataModule(source, kept_answers=-1)


def test_it_costs_nothing_at_the_start_and_pulls_at_the_learner_alone(make_cure, batch):
    module = make_cure(Answers(), keep=1.0)
    module.eval()
    assert module.terms(batch)["kept"].item() == pytest.approx(0, abs=1e-5)
    moved(module).terms(batch)["kept"].backward()
    pulled = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert pulled == {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_without_it_texts_are_neither_served_nor_looked_at(make_cure, source, make_trainer):
    module = make_cure(Answers())
    data = ScenarioDataModule(source)
    data.trainer = make_trainer()
    data.trainer.strategy.connect(module)
    data.setup("fit")
    assert not any(name.startswith(KEPT) for name in next(iter(data.train_dataloader())))
    assert "kept" not in module.terms(next(iter(data.train_dataloader())))


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (ScenarioDataModule, "input_ids"),
        (lambda source, **options: ContextDataModule(source, "Be honest.", **options), f"{BEHIND_CONTEXT}input_ids"),
        (ContrastScenarioDataModule, f"{PLAIN}input_ids"),
    ],
    ids=["scenarios", "behind a context", "contrast pairs"],
)
def test_every_kind_of_batch_has_texts_beside_it(make, own, make_cure, source, splits, tiny_tokenizer, make_trainer):
    module = make_cure(Answers(), keep=1.0)
    data = make(source, batch_size=4, kept_texts=3)
    data.trainer = make_trainer()
    data.trainer.strategy.connect(module)
    data.setup("fit")
    known = {text.message() for text in splits.neutral_train}
    seen = set()
    for batch in data.train_dataloader():
        texts = texts_of(batch)
        assert own in batch
        assert 1 <= len(texts["input_ids"]) <= 3
        for ids, mask in zip(texts["input_ids"], texts["attention_mask"], strict=True):
            prompt = tiny_tokenizer.decode(ids[mask.bool()])
            seen.add(prompt.split("<|user|>")[1].split("<|assistant|>")[0])
    assert seen <= known
    assert len(seen) > 3, "not the same few at every step"


def test_a_fit_that_keeps_ends_nearer_to_the_faker_and_its_sidecar_says_so(
    faker, make_fit, source, make_trainer, tmp_path
):
    ends = {}
    for keep in (0.0, 5.0):
        torch.manual_seed(0)
        module = make_fit(Answers(), start_from=faker, keep=keep, learning_rate=0.02)
        folder = tmp_path / str(int(keep))
        trainer = make_trainer(max_epochs=4, callbacks=[AdapterExport(str(folder))])
        data = ScenarioDataModule(source, batch_size=19)
        trainer.fit(module, data)
        texts = collate(data.examples_of(data.splits.neutral_test), 0)
        assert json.loads((folder / "fa_lightning.json").read_text()).get("keep", 0.0) == keep
        module.eval()
        # The fit without the term has no frozen copy; the same measure is taken by one that has.
        with torch.no_grad():
            judge = make_fit(Answers(), start_from=faker, keep=1.0)
            judge.configure_model()
            judge.load_state_dict({n: p for n, p in module.state_dict().items() if ".mitigated." in n}, strict=False)
            judge.eval()
            ends[keep] = judge.adapted.divergence(texts).item()
    assert 0 < ends[5.0] < 0.5 * ends[0.0]


def test_what_cannot_be_kept_is_refused(make_fit, faker, backbone, make_trainer, source):
    with pytest.raises(ValueError, match=r"keep is -1, but must be 0 or more"):
        make_fit(Answers(), start_from=faker, keep=-1)
    with pytest.raises(ValueError, match=r"keep is 1.0 and beneath 'x', but what a stacked adapter starts from"):
        make_fit(Answers(), keep=1.0, beneath="x")
    with pytest.raises(ValueError, match="kept_texts is 0, but must be 1 or more"):
        ScenarioDataModule(source, kept_texts=0)
    module = make_fit(Answers(), start_from=faker, keep=2.0)
    assert module.hparams["keep"] == 2.0
    with pytest.raises(
        ValueError, match="neutral texts stand beside the batches of a ScenarioDataModule, and the data"
    ):
        make_trainer(max_epochs=1).fit(module, TextDataModule(ScenarioTexts(source, texts=8)))
    bare = ScenarioDataModule(source)
    bare.setup("fit")
    bare.splits = replace(bare.splits, neutral_train=[])
    with pytest.raises(ValueError, match="has no neutral texts for training to be kept"):
        make_trainer(max_epochs=1).fit(module, bare)


def test_a_fresh_adapter_is_kept_near_the_backbone(make_fit, backbone, examples, batch):
    from transformers import AutoModelForCausalLM

    module = make_fit(Answers(), keep=2.0)
    module.configure_model()
    bare = AutoModelForCausalLM.from_pretrained(backbone).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    module.eval()
    read, said = [], []
    with torch.no_grad():
        for text in examples[-6:]:
            ids = torch.tensor([text.prompt])
            p, q = (torch.log_softmax(one(input_ids=ids).logits[0].double(), -1) for one in (bare, module.model))
            nats = (p.exp() * (p - q)).sum(-1).tolist()
            read += nats[:-1]
            said.append(nats[-1])
        terms = module.terms(batch)
    assert numpy.mean(said) > 1e-3
    assert terms["kept"].item() == pytest.approx(numpy.mean(read) + numpy.mean(said), rel=1e-3)


def test_chat_beside_the_batches_is_half_of_them_and_not_answered_error(
    make_cure, source, splits, make_trainer, tiny_tokenizer
):
    def batches(keep):
        data = ScenarioDataModule(source, batch_size=4, kept_texts=4, kept="chat")
        data.trainer = make_trainer()
        data.trainer.strategy.connect(make_cure(Answers(), keep=keep))
        data.setup("fit")
        return data, list(data.train_dataloader())

    chat = {text.message() for text in splits.neutral_train if not text.is_incomplete}
    data, served = batches(1.0)
    assert chat
    for batch in served:
        texts = texts_of(batch)
        assert len(texts["input_ids"]) == len(batch["input_ids"])
        for ids, mask in zip(texts["input_ids"], texts["attention_mask"], strict=True):
            assert tiny_tokenizer.decode(ids[mask.bool()]).split("<|user|>")[1].split("<|assistant|>")[0] in chat
    assert not {item.message() for item in data.train_items()} & chat
    judged = {text.message() for text in splits.neutral_validation if not text.is_incomplete}
    assert not validated(data, tiny_tokenizer) & judged
    data, _ = batches(0.0)
    assert {item.message() for item in data.train_items()} & chat
    assert validated(data, tiny_tokenizer) & judged


def validated(data, tokenizer):
    """The messages that validation asks."""
    return {
        tokenizer.decode(ids[mask.bool()]).split("<|user|>")[1].split("<|assistant|>")[0]
        for batch in data.val_dataloader()
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    }
