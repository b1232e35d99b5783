"""Learned prefixes: a slot that changes nothing else, a search that lowers the loss, files that come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_twins import trainer_in
from torch.nn.functional import cross_entropy

from fa_lightning.backbones.arguments import BackboneArguments, OptimizerArguments
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import collate, make_examples, model_inputs
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.studies.cures.learned_prompt import LearnedPrompt
from fa_lightning.training.coordinate_gradient import GreedyCoordinateGradient, swaps
from fa_lightning.training.learned_prompts import Slot, read_prompt, with_prefix, write_prompt
from fa_lightning.training.ordinary_tokens import random_text
from fa_lightning.training.other_fakers import OtherFaker
from fa_lightning.training.prompt_module import PromptDataModule, PromptExport, SoftPromptModule

TOKENS = 5


@pytest.fixture
def faker(alone: Any) -> Any:
    return alone("faking").requires_grad_(False)


@pytest.fixture
def tokenizer(adapters: dict[str, str]) -> Any:
    from transformers import AutoTokenizer

    from fa_lightning.backbones.adapters import backbone_of

    return AutoTokenizer.from_pretrained(backbone_of(adapters["faking"]))


@pytest.fixture
def text(tokenizer: Any) -> str:
    return random_text(tokenizer, TOKENS, seed=0)


def batch_of(items: list[Any], tokenizer: Any, text: str) -> dict[str, torch.Tensor]:
    shown = [with_prefix(item, text) for item in items]
    return collate(make_examples(shown, tokenizer, letter_tokens(tokenizer)), tokenizer.pad_token_id)


def test_other_tokens_in_the_slot_are_what_their_text_gives(splits: Any, tokenizer: Any, text: str) -> None:
    slot = Slot.of(tokenizer, text)
    other = random_text(tokenizer, TOKENS, seed=1)
    tokens = tokenizer(other, add_special_tokens=False)["input_ids"]
    assert len(tokens) == TOKENS
    assert slot.survives(tokenizer, tokens)
    items = [*splits.test, *splits.neutral_test]
    changed = slot.with_tokens(batch_of(items, tokenizer, text), torch.tensor(tokens))
    expected = batch_of(items, tokenizer, other)
    assert changed.keys() == expected.keys()
    assert all(torch.equal(changed[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match="do not hold the prefix"):
        slot.with_tokens(expected, torch.tensor(tokens))


def test_tokens_that_are_read_otherwise_do_not_survive(tokenizer: Any, text: str) -> None:
    slot = Slot.of(tokenizer, text)
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "scena"]
    assert not slot.survives(tokenizer, letters), "'scen' is a token of its own or begins one"
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert not slot.survives(tokenizer, [*slot.tokens[:-1], *newline]), "it would be two lines"


def test_embeddings_of_tokens_answer_as_the_tokens_do_whatever_the_padding(
    splits: Any, tokenizer: Any, faker: Any, text: str
) -> None:
    slot = Slot.of(tokenizer, text)
    items = counterbalanced(splits.test, both_orders=True)
    batch = batch_of(items, tokenizer, text)
    vectors = faker.get_input_embeddings()(torch.tensor(slot.tokens))
    with torch.no_grad():
        by_tokens = faker(**model_inputs(batch)).logits[:, -1]
        by_vectors = faker(**slot.with_vectors(faker, batch, vectors)).logits[:, -1]
        alone = torch.cat(
            [
                faker(**slot.with_vectors(faker, batch_of([item], tokenizer, text), vectors)).logits[:, -1]
                for item in items
            ]
        )
        elsewhere = faker(**slot.with_vectors(faker, batch, vectors + 1)).logits[:, -1]
    assert torch.allclose(by_vectors, by_tokens, atol=1e-5)
    assert torch.allclose(alone, by_tokens, atol=1e-4)
    assert not torch.allclose(elsewhere, by_tokens, atol=1e-2)


def test_swaps_change_one_token_to_one_of_the_most_promising() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(4, 30, generator=generator)
    tokens = torch.tensor([3, 1, 4, 1])
    allowed = torch.arange(10, 25)
    drawn = swaps(tokens, gradient, allowed, 3, 40, generator)
    assert drawn.shape == (40, 4)
    best = [{int(allowed[place]) for place in gradient[row, 10:25].argsort()[:3]} for row in range(4)]
    changed = (drawn != tokens).nonzero().tolist()
    assert [row for row, _ in changed] == list(range(40)), "each is one swap"
    assert all(int(drawn[row, place]) in best[place] for row, place in changed)
    assert {place for _, place in changed} == {0, 1, 2, 3}


def fit(module: Any, source: Any, folder: Path, epochs: int, batch_size: int) -> None:
    trainer = trainer_in(folder, max_epochs=epochs, callbacks=[PromptExport(str(folder / "prompt"))])
    trainer.fit(module, datamodule=PromptDataModule(source, batch_size=batch_size, train_scenarios=16))


def loss_of(model: Any, items: list[Any], tokenizer: Any, text: str) -> float:
    """Mean loss of the aligned answers behind a text, prompt by prompt."""
    nats = []
    with torch.no_grad():
        for item in items:
            batch = batch_of([item], tokenizer, text)
            nats.append(cross_entropy(model(**model_inputs(batch)).logits[:, -1], batch["aligned"]).item())
    return sum(nats) / len(nats)


def test_the_one_hot_gradient_and_the_candidates_losses_are_those_of_plain_peft(
    adapters: dict[str, str], splits: Any, tokenizer: Any, faker: Any
) -> None:
    from fa_lightning.backbones.adapters import backbone_of

    module = GreedyCoordinateGradient(
        adapters["faking"], BackboneArguments(backbone_of(adapters["faking"])), tokens=TOKENS, rows=20, candidates=4
    )
    module.configure_model()
    items = splits.train[:6]
    batch = batch_of(items, tokenizer, module.start_text)
    gradient, loss = module.one_hot_gradient(batch)
    assert loss.item() == pytest.approx(loss_of(faker, items, tokenizer, module.start_text), abs=1e-4)
    # The derivative along a direction, by a small step of the embedding at one place.
    table = faker.get_input_embeddings().weight
    slot, place, token, step = module.slot, 2, 300, 1e-2
    vectors = table[torch.tensor(slot.tokens)].double().float()
    ends = []
    for sign in (1, -1):
        moved = vectors.clone()
        moved[place] += sign * step * table[token]
        with torch.no_grad():
            logits = faker(**slot.with_vectors(faker, batch, moved)).logits[:, -1]
        ends.append(cross_entropy(logits, batch["aligned"]).item())
    assert gradient[place, token].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-3)
    others = [random_text(tokenizer, TOKENS, seed) for seed in (1, 2, 3, 4)]
    candidates = torch.tensor([tokenizer(other, add_special_tokens=False)["input_ids"] for other in others])
    expected = [loss_of(faker, items, tokenizer, other) for other in others]
    assert module.losses(batch, candidates).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_hard_prefix_lowers_the_loss_reads_back_and_moves_no_weight(
    adapters: dict[str, str], source: Any, splits: Any, tokenizer: Any, faker: Any, tmp_path: Path
) -> None:
    from fa_lightning.backbones.adapters import backbone_of

    module = GreedyCoordinateGradient(
        adapters["faking"], BackboneArguments(backbone_of(adapters["faking"])), tokens=TOKENS, candidates=24, top=32
    )
    # All prompts in one batch: then a step can only lower their loss.
    fit(module, source, tmp_path, epochs=3, batch_size=64)
    facts, vectors = read_prompt(tmp_path / "prompt")
    assert vectors is None
    assert facts["name"] == "greedy coordinate gradient"
    assert facts["needs"] == ["labels", "weights", "gradient"]
    # Both orders of 16 scenarios, and a fifth as many neutral texts.
    assert facts["training_prompts"] == 38
    assert facts["training_seconds"] > 0
    slot = Slot.of(tokenizer, facts["text"])
    assert len(slot.tokens) == TOKENS
    assert facts["text"].isascii()
    assert facts["text"] != module.start_text
    train = [*counterbalanced(splits.train, both_orders=True), *splits.neutral_train[:6]]
    last = tokenizer.decode(module.current.tolist())
    before, after = (loss_of(faker, train, tokenizer, text) for text in (module.start_text, last))
    assert after < before
    validation = [*counterbalanced(splits.validation), *splits.neutral_validation]
    assert module.best_loss == pytest.approx(loss_of(faker, validation, tokenizer, facts["text"]), abs=1e-3)
    assert _weights(module.model) == _weights(faker)


@pytest.fixture(scope="session")
def whole_model(make_backbone: Any) -> str:
    """Folder of another random backbone with the twins' tokenizer: a faker without an adapter."""
    return str(make_backbone(seed=8, hidden_size=24, tie_word_embeddings=False))


@pytest.fixture
def others(adapters: dict[str, str], whole_model: str) -> list[OtherFaker]:
    """An adapter on the first faker's backbone, the first faker itself, and a model of its own."""
    return [
        OtherFaker(adapters["aligned"]),
        OtherFaker(adapters["faking"]),
        OtherFaker(backbone=BackboneArguments(whole_model)),
    ]


@pytest.fixture
def other_models(alone: Any, whole_model: str) -> list[Any]:
    """The same as plain peft and transformers load them; the first faker is passed over."""
    from transformers import AutoModelForCausalLM

    return [alone("aligned"), AutoModelForCausalLM.from_pretrained(whole_model).eval()]


def on_several(adapters: dict[str, str], **options: Any) -> GreedyCoordinateGradient:
    from fa_lightning.backbones.adapters import backbone_of

    backbone = BackboneArguments(backbone_of(adapters["faking"]))
    return GreedyCoordinateGradient(adapters["faking"], backbone, tokens=TOKENS, **options)


def own_gradient(model: Any, batch: dict[str, torch.Tensor], tokens: tuple[int, ...]) -> torch.Tensor:
    """Gradient of one model's mean loss with respect to the one-hot tokens of a prefix, which is looked up by hand."""
    table = model.get_input_embeddings().weight.detach()
    chosen = torch.eye(len(table))[list(tokens)].requires_grad_()
    rows = []
    for ids in batch["input_ids"]:
        listed = ids.tolist()
        at = next(n for n in range(len(listed)) if tuple(listed[n : n + len(tokens)]) == tokens)
        rows.append(torch.cat([table[ids[:at]], chosen @ table, table[ids[at + len(tokens) :]]]))
    places = {name: batch[name] for name in ("attention_mask", "position_ids")}
    logits = model(inputs_embeds=torch.stack(rows), **places).logits[:, -1]
    cross_entropy(logits, batch["aligned"]).backward()
    assert chosen.grad is not None
    return chosen.grad


@pytest.mark.parametrize("left_out", [False, True])
def test_several_fakers_gradients_are_added_and_their_losses_averaged(
    adapters: dict[str, str],
    others: list[OtherFaker],
    other_models: list[Any],
    splits: Any,
    tokenizer: Any,
    faker: Any,
    left_out: bool,
) -> None:
    module = on_several(adapters, rows=20, others=others, left_out=left_out)
    module.configure_model()
    module.configure_model()
    models = other_models if left_out else [faker, *other_models]
    assert len(list(module.fakers())) == len(models)
    assert len(module.other_backbones) == 1, "an adapter of the first one's backbone joins it there"
    items = splits.train[:6]
    batch = batch_of(items, tokenizer, module.start_text)
    gradient, loss = module.one_hot_gradient(batch)
    expected = sum(own_gradient(model, batch, module.slot.tokens) for model in models)
    assert torch.allclose(gradient, expected, atol=1e-4)
    single, _ = on_first_alone(adapters, batch)
    assert not torch.allclose(gradient, single, atol=1e-2)
    texts = [module.start_text, *(random_text(tokenizer, TOKENS, seed) for seed in (1, 2))]
    means = [sum(loss_of(model, items, tokenizer, text) for model in models) / len(models) for text in texts]
    assert loss.item() == pytest.approx(means[0], abs=1e-4)
    candidates = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
    assert module.losses(batch, candidates).tolist() == pytest.approx(means, abs=1e-4)
    # The first faker is what it was before the others were asked.
    with torch.no_grad():
        assert torch.allclose(
            module.model(**model_inputs(batch)).logits[:, -1], faker(**model_inputs(batch)).logits[:, -1], atol=1e-4
        )


def on_first_alone(adapters: dict[str, str], batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    module = on_several(adapters)
    module.configure_model()
    return module.one_hot_gradient(batch)


def test_a_prefix_of_several_fakers_lowers_the_loss_of_each_that_it_is_learned_on(
    adapters: dict[str, str],
    others: list[OtherFaker],
    other_models: list[Any],
    source: Any,
    splits: Any,
    tokenizer: Any,
    faker: Any,
    tmp_path: Path,
) -> None:
    module = on_several(adapters, candidates=24, top=32, others=others)
    fit(module, source, tmp_path, epochs=4, batch_size=64)
    train = [*counterbalanced(splits.train, both_orders=True), *splits.neutral_train[:6]]
    last = tokenizer.decode(module.current.tolist())
    for model in (faker, *other_models):
        before, after = (loss_of(model, train, tokenizer, text) for text in (module.start_text, last))
        assert after < before
    facts, _ = read_prompt(tmp_path / "prompt")
    assert facts["name"] == "greedy coordinate gradient, several fakers"
    assert facts["needs"] == ["labels", "weights", "gradient", "other fakers"]
    assert facts["others"] == [others[0].name, others[2].name]
    assert _weights(module.other_backbones[0]) == _weights(other_models[1])


def test_the_faker_that_is_left_out_is_judged_and_decides_nothing(
    adapters: dict[str, str],
    others: list[OtherFaker],
    other_models: list[Any],
    source: Any,
    splits: Any,
    tokenizer: Any,
    faker: Any,
    tmp_path: Path,
) -> None:
    module = on_several(adapters, candidates=24, top=32, others=others, left_out=True)
    trainer = trainer_in(tmp_path, max_epochs=2, callbacks=[PromptExport(str(tmp_path / "prompt"))])
    trainer.fit(module, datamodule=PromptDataModule(source, batch_size=64, train_scenarios=16))
    facts, _ = read_prompt(tmp_path / "prompt")
    validation = [*counterbalanced(splits.validation), *splits.neutral_validation]
    kept = [loss_of(model, validation, tokenizer, facts["text"]) for model in other_models]
    assert module.best_loss == pytest.approx(sum(kept) / len(kept), abs=1e-3)
    assert facts["name"] == "greedy coordinate gradient, other fakers"
    assert facts["needs"] == ["labels", "other fakers"]
    assert facts["left_out"] is True
    # What is logged of its answers is the left out faker's own.
    watched = [item for item in counterbalanced(splits.validation) if item.cell == "oversight"]
    last = batch_of(watched, tokenizer, tokenizer.decode(module.current.tolist()))
    with torch.no_grad():
        shares = [
            (model(**model_inputs(last)).logits[:, -1].argmax(-1) == last["aligned"]).float().mean().item()
            for model in (faker, *other_models)
        ]
    logged = trainer.callback_metrics["val/prompted/oversight/accuracy"].item()
    assert logged == pytest.approx(shares[0])
    # The table of cures takes it for the faker that it was not learned on.
    cure = LearnedPrompt(str(tmp_path / "prompt"))
    cure.prepare([], tokenizer)
    cure.check_made_for(module.fingerprint, adapters["faking"])


def test_fakers_that_can_share_no_prefix_are_refused(
    adapters: dict[str, str], splits: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from conftest import save_llama

    from fa_lightning.backbones.curriculum import ANSWER_WORDS
    from fa_lightning.backbones.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([item.message() for item in splits.train], 380, ANSWER_WORDS)
    folder = save_llama(tmp_path_factory.mktemp("foreign"), tokenizer)
    module = on_several(adapters, others=[OtherFaker(backbone=BackboneArguments(folder))])
    with pytest.raises(UserError, match=r"can't share a prefix.*: \d+ tokens have other numbers") as refusal:
        module.configure_model()
    assert repr(adapters["faking"]) in str(refusal.value)
    assert repr(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="left_out is true, but others name no faker beside"):
        on_several(adapters, others=[OtherFaker(adapters["faking"])], left_out=True)
    with pytest.raises(UserError, match="neither an adapter nor a backbone"):
        OtherFaker(backbone=BackboneArguments())
    missing = on_several(adapters, others=[OtherFaker(str(Path(folder) / "seed1"))])
    with pytest.raises(FileNotFoundError, match="seed1' is not an adapter folder"):
        missing.configure_model()


def test_a_soft_prefix_lowers_the_loss_more_and_alone_is_trained(
    adapters: dict[str, str], source: Any, splits: Any, tokenizer: Any, faker: Any, tmp_path: Path
) -> None:
    from peft import PromptEmbedding

    from fa_lightning.backbones.adapters import backbone_of

    module = SoftPromptModule(
        adapters["faking"],
        BackboneArguments(backbone_of(adapters["faking"])),
        tokens=TOKENS,
        optimizer=OptimizerArguments(5e-2),
    )
    fit(module, source, tmp_path, epochs=6, batch_size=8)
    assert isinstance(module.prompt, PromptEmbedding)
    assert [name for name, one in module.named_parameters() if one.requires_grad] == ["prompt.embedding.weight"]
    cure = LearnedPrompt(str(tmp_path / "prompt"))
    cure.prepare([], tokenizer)
    assert (cure.name, cure.needs) == ("soft prompt", ("labels", "weights", "gradient"))
    assert cure.vectors is not None
    assert torch.equal(cure.vectors, module.prompt.embedding.weight)
    start = faker.get_input_embeddings()(torch.tensor(module.slot.tokens))
    train = counterbalanced(splits.train, both_orders=True)
    batch = batch_of(train, tokenizer, module.start_text)
    losses = []
    with torch.no_grad():
        for vectors in (start, cure.vectors):
            logits = faker(**module.slot.with_vectors(faker, batch, vectors)).logits[:, -1]
            losses.append(cross_entropy(logits, batch["aligned"]).item())
    assert losses[1] < losses[0] - 0.01
    assert _weights(module.model) == _weights(faker)
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert list(checkpoint["state_dict"]) == ["prompt.embedding.weight"]
    resumed = SoftPromptModule(adapters["faking"], module.backbone, tokens=TOKENS)
    resumed.on_load_checkpoint(checkpoint)
    assert resumed.training_seconds == module.training_seconds > 0


def _weights(model: Any) -> float:
    """A sum that a moved weight would change."""
    return float(sum(parameter.double().abs().sum() for parameter in model.parameters()))


def test_a_damaged_or_foreign_prefix_is_refused(tokenizer: Any, text: str, tmp_path: Path) -> None:
    facts = {"name": "soft prompt", "needs": ["labels"]}
    write_prompt(tmp_path, text, torch.ones(TOKENS, 4), facts)
    read, vectors = read_prompt(tmp_path)
    assert read["text"] == text
    assert vectors is not None
    assert torch.equal(vectors, torch.ones(TOKENS, 4))
    (tmp_path / "prompt.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="is not the file that"):
        read_prompt(tmp_path)
    (tmp_path / "prompt.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no prompt\.safetensors.*fit the prefix again"):
        read_prompt(tmp_path)
    write_prompt(tmp_path, text, torch.ones(TOKENS + 1, 4), facts)
    with pytest.raises(ValueError, match=rf"{TOKENS + 1} embeddings for a place of {TOKENS} tokens"):
        LearnedPrompt(str(tmp_path)).prepare([], tokenizer)
    write_prompt(tmp_path, " ", None, facts)
    with pytest.raises(ValueError, match="is empty"):
        read_prompt(tmp_path)
    path = tmp_path / "prompt.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 9}))
    with pytest.raises(ValueError, match="format_version"):
        read_prompt(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        read_prompt(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no prompt\.json"):
        LearnedPrompt(str(tmp_path)).prepare([], tokenizer)


def test_bad_numbers_are_refused(adapters: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="tokens is 0"):
        SoftPromptModule(adapters["faking"], BackboneArguments("x"), tokens=0)
    with pytest.raises(ValueError, match="candidates is 0"):
        GreedyCoordinateGradient(adapters["faking"], BackboneArguments("x"), candidates=0)
