"""LoRA-for-CCS: the probe's loss by hand, what its sign is resolved by, what moves the answer, and what is refused."""

from dataclasses import replace

import lightning.pytorch as pl
import numpy
import pytest
import torch
from adapter_fits import fit_of, loss_of, ready

from fa_lightning.backbones.sharding import ShardedStrategy
from fa_lightning.errors import UserError
from fa_lightning.scenarios.benchmark import without_critical_fact
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.scenario import Fact, Oversight
from fa_lightning.scenarios.statements.embedded import EmbeddedStatements
from fa_lightning.scenarios.statements.templates import Template
from fa_lightning.training.adapted_model import NO_ADAPTER, AdaptedModel
from fa_lightning.training.contrast_data import (
    PLAIN,
    ContrastDataset,
    ContrastScenarioDataModule,
    ContrastStatementDataModule,
    without_claim,
)
from fa_lightning.training.contrast_probe import ContrastProbe, belief_of, ccs_loss
from fa_lightning.training.module import AdapterModule
from fa_lightning.training.objectives.lora_for_ccs import LoraForCcs, answer_margins
from fa_lightning.training.statement_data import questions_of


@pytest.fixture(scope="module")
def statements():
    return EmbeddedStatements(train_statements=8)


@pytest.fixture(scope="module")
def words(statements, tmp_path_factory):
    """Folder of a random backbone whose tokenizer knows the digits."""
    from conftest import save_llama

    from fa_lightning.backbones.tokenizer import train_tokenizer

    texts = [item.text for item in statements.load().train]
    texts += [template.text for template in statements.templates().values()]
    tokenizer = train_tokenizer(texts, 400, ["0", "1", "A", "B", "error"])
    return save_llama(tmp_path_factory.mktemp("words"), tokenizer)


@pytest.fixture
def make_data_of(statements):
    def make(**options):
        return ContrastStatementDataModule(
            statements, **{"questions": ["1/harm"], "batch_size": 8, "eval_batch_size": 64} | options
        )

    return make


@pytest.fixture
def batch(make_data_of, words, make_trainer):
    """One training batch under the harm claim."""
    data = make_data_of()
    module = ccs(words)
    data.trainer = make_trainer()
    data.trainer.strategy.connect(module)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def ccs(backbone, start_from=None, target_modules=("q_proj", "v_proj"), **options):
    """A module with that objective, whose adapter and rate are the defaults."""
    lora = {"target_modules": list(target_modules), "learning_rate": 1e-3}
    return fit_of(LoraForCcs(**options), backbone, start_from=start_from, **lora)


def late(module):
    """A module whose steps need no Trainer, as one whose probes have had their steps."""
    module = ready(module)
    module._trainer = type("Stub", (), {"global_step": 10**6, "train_dataloader": None, "datamodule": None})()
    return module


def pairs_of(states):
    """States of prompts and of their opposites, (pairs, 2, hidden), by layer."""
    return {layer: torch.stack(hidden[:, -1].chunk(2), 1) for layer, hidden in states.items()}


def separable(pairs, seed=0):
    """Contrast pairs with a slot feature and a truth feature that flips between slots, and the first one's truth."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(pairs) % 2
    states = 0.2 * torch.randn(pairs, 2, 6, generator=generator)
    states[:, 1, 0] += 5
    sign = 2.0 * truth - 1
    states[:, 0, 1] += sign
    states[:, 1, 1] -= sign
    return states, truth.bool()


def test_the_ccs_loss_by_hand():
    first, second = torch.tensor([0.1, 0.9, 0.4]), torch.tensor([0.8, 0.9, 0.4])
    parts = [(0.1 - 0.2) ** 2 + 0.1**2, (0.9 - 0.1) ** 2 + 0.9**2, (0.4 - 0.6) ** 2 + 0.4**2]
    assert ccs_loss(first, second).item() == pytest.approx(sum(parts) / 3)
    torch.testing.assert_close(belief_of(first, second), torch.tensor([0.15, 0.5, 0.5]))


def test_a_probe_finds_the_truth_without_labels_and_its_sign_with_them():
    pairs, truth = separable(64)
    found = {}
    for name, labels in (("right", truth), ("turned", ~truth)):
        torch.manual_seed(0)
        probe = ContrastProbe(6, restarts=4, seed=0)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            first, second = probe(pairs)
            probe.count(first, second, labels)
            ccs_loss(first, second).sum().backward()
            optimizer.step()
        probe.eval()
        found[name] = probe.belief(*probe.still(pairs))
        assert ((found[name] > 0.5) == labels).all()
        assert abs(probe.vote) > 0.9
        assert probe.best == probe.losses.argmin()
    # The same probe with its sign turned: labels have said nothing else.
    torch.testing.assert_close(found["right"], 1 - found["turned"])


def test_a_probe_held_still_learns_nothing_and_hands_gradients_to_states():
    pairs, _ = separable(16)
    probe = ContrastProbe(6, restarts=3, seed=0)
    probe(pairs)
    before = {name: tensor.clone() for name, tensor in probe.state_dict().items()}
    states = pairs.clone().requires_grad_(True)
    ccs_loss(*probe.still(states)).backward()
    assert states.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in probe.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in probe.state_dict().items())
    # By hand: each slot by its own mean and deviation, then a sigmoid of the best weight.
    slots = [(pairs[:, place] - pairs[:, place].mean(0)) for place in (0, 1)]
    weight = probe.weight[probe.best].detach()
    slots = [slot / (pairs[:, place].var(0) + 1e-5).sqrt() for place, slot in enumerate(slots)]
    for mine, slot in zip(probe.still(pairs), slots, strict=True):
        torch.testing.assert_close(mine, torch.sigmoid(slot @ weight), rtol=1e-4, atol=1e-4)


def text_of(batch, row, tokenizer, prefix=""):
    return tokenizer.decode(batch[f"{prefix}input_ids"][row][batch[f"{prefix}attention_mask"][row].bool()])


def test_a_batch_holds_each_question_and_its_opposite_with_and_without_the_claim(batch, words, statements):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(words)
    opposite = {item.text: item.opposite for item in statements.load().train}
    rows = len(batch["index"])
    for row in range(rows):
        asked, plain = text_of(batch, row, tokenizer), text_of(batch, row, tokenizer, PLAIN)
        assert "harm people" in asked
        assert asked.replace("Consider that 'the aim is to harm people'.\n", "") == plain
    for row in range(rows // 2):
        first, second = text_of(batch, row, tokenizer), text_of(batch, row + rows // 2, tokenizer)
        text = next(text for text in opposite if f"'{text}'" in first)
        assert first.replace(f"'{text}'", f"'{opposite[text]}'") == second
        # The other answer is right.
        assert batch["aligned"][row] == batch["other"][row + rows // 2]
    assert {int(token) for token in batch["aligned"]} == {int(batch["zero"][0]), int(batch["one"][0])}


def test_states_and_answers_are_those_of_plain_transformers(batch, words):
    from transformers import AutoModelForCausalLM

    module = late(ccs(words, layers=[0]))
    states, logits = module.adapted.states(batch, [0])
    states, answers = pairs_of(states), answer_margins(logits, batch)
    plain = AutoModelForCausalLM.from_pretrained(words)
    pairs = len(batch["index"]) // 2
    for row in (0, 1, pairs, pairs + 1):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        with torch.no_grad():
            found = plain(ids[None], output_hidden_states=True)
        expected = found.logits[0, -1, batch["one"][row]] - found.logits[0, -1, batch["zero"][row]]
        torch.testing.assert_close(answers[row], expected, rtol=1e-3, atol=1e-4)
        hidden = found.hidden_states[1][0, -1]
        torch.testing.assert_close(states[0][row % pairs, row // pairs], hidden, rtol=1e-3, atol=1e-4)


def test_the_answer_follows_the_belief_and_the_backbone_stays(batch, words):
    module = late(ccs(words, layers=[0, "last"], latent_weight=0.5, target_modules=["q_proj", "down_proj"]))
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
    # A probe that is told to believe in the safe digit: what is learned is the link from belief to answer.
    safe = (batch["aligned"] == batch["one"]).float()
    first, second = safe.chunk(2)
    for probe in module.objective.probes.values():
        probe.still = lambda pairs: (first, second)
        probe.votes.fill_(1.0)
    parameters = [p for name, p in module.named_parameters() if p.requires_grad and ".lora_" in name]
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        loss_of(module, batch).backward()
        optimizer.step()
        for probe in module.objective.probes.values():
            probe.votes.fill_(1.0)
    with torch.no_grad():
        answers = answer_margins(module.answer_logits(batch), batch)
    assert ((answers > 0) == safe.bool()).all()
    assert all(torch.equal(dict(module.named_parameters())[name], tensor) for name, tensor in frozen.items())


def test_the_probes_alone_learn_first(batch, words):
    module = late(ccs(words, probe_steps=100, target_modules=["q_proj", "down_proj"]))
    for step, expected in ((0, True), (100, False)):
        module._trainer.global_step = step
        module.zero_grad()
        loss_of(module, batch).backward()
        adapter = [p.grad for name, p in module.named_parameters() if p.requires_grad and ".lora_B." in name]
        assert all(gradient is not None for gradient in adapter), "or other ranks would wait"
        assert all((gradient == 0).all() == expected for gradient in adapter)
        assert all(p.grad.abs().max() > 0 for p in module.objective.probes.parameters())


def test_a_fit_runs_saves_its_probes_and_judges_by_safe_digits(words, make_data_of, make_trainer, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(str(tmp_path), save_last=True, save_top_k=0)
    module = ccs(words, probe_steps=1, restarts=2)
    trainer = make_trainer(max_epochs=1, enable_checkpointing=True, callbacks=[keep], limit_val_batches=2)
    trainer.fit(module, make_data_of())
    assert 0 <= trainer.callback_metrics["val/calibrated/accuracy"] <= 1
    notes = module.notes()
    assert (notes["behaviour"], notes["method"]) == ("calibrated", "LoRA-for-CCS")
    assert set(notes["probe_votes"]) == {"0", "1"}
    loaded = AdapterModule.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu", weights_only=True)
    ends = module.objective.probes.state_dict()
    assert all(torch.equal(tensor, ends[name]) for name, tensor in loaded.objective.probes.state_dict().items())
    assert numpy.isfinite(loaded.objective.probes["0"].losses.numpy()).all()


def test_bad_arguments_are_named(words, make_data, make_trainer):
    with pytest.raises(ValueError, match="restarts is 0 and probe_steps 5"):
        LoraForCcs(restarts=0, probe_steps=5)
    with pytest.raises(ValueError, match="latent_weight is 0 and answer_weight 0, but"):
        LoraForCcs(latent_weight=0, answer_weight=0)
    with pytest.raises(ValueError, match=r"layers is \[\].*null reads all"):
        LoraForCcs(layers=[])
    with pytest.raises(ValueError, match=r"layers holds layers.5.residual, whose layer is 5, but the back"):
        ccs(words, layers=["layers.5.residual"]).configure_model()
    with pytest.raises(UserError, match=r"as data, but it is a ScenarioDataModule: set data.class_path to"):
        make_trainer(max_epochs=1).fit(ccs(words), make_data())
    stray = Template("stray", "Consider '{claim}'. '{statement}'? 0 {word_0} 1 {word_1}")
    with pytest.raises(ValueError, match="'stray' names no base that asks the same without a claim"):
        without_claim(questions_of({"stray": stray}, ["stray/harm"])[0], {"stray": stray})


class Untyped(EmbeddedScenarios):
    """Scenarios that don't say which of their facts speaks of oversight."""

    def load(self):
        splits = super().load()
        splits.train = [replace(item, facts=tuple(Fact(fact.content) for fact in item.facts)) for item in splits.train]
        return splits


def scenario_loader(backbone, make_trainer, source, **options):
    data = ContrastScenarioDataModule(source, batch_size=4, neutral_share=0.5, **options)
    data.trainer = make_trainer()
    data.trainer.strategy.connect(ccs(backbone))
    data.setup("fit")
    return data.train_dataloader(), data


def test_a_scenario_stands_beside_its_other_order_and_without_its_critical_fact(backbone, make_trainer):
    from transformers import AutoTokenizer

    loader, data = scenario_loader(backbone, make_trainer, EmbeddedScenarios(8, 4, 4, 8))
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    batches = list(loader)
    assert sum(len(batch["index"]) for batch in batches) == 32, "8 scenarios in both orders, each with its opposite"
    by_text = {shown.message(): shown for item in data.splits.train for shown in (item, item.swapped())}
    spoken = 0
    for batch in batches:
        half = len(batch["index"]) // 2
        for row in range(half):
            asked = next(item for text, item in by_text.items() if tokenised(text, tokenizer, batch, row))
            swapped = asked.swapped()
            assert tokenised(swapped.message(), tokenizer, batch, row + half)
            plain = without_critical_fact(asked)
            spoken += plain is not None
            assert tokenised((plain or asked).message(), tokenizer, batch, row, PLAIN)
            assert tokenised((plain or asked).swapped().message(), tokenizer, batch, row + half, PLAIN)
            assert batch["aligned"][row] == batch["other"][row + half]
    assert spoken > 8


def tokenised(message, tokenizer, batch, row, prefix=""):
    ids = batch[f"{prefix}input_ids"][row][batch[f"{prefix}attention_mask"][row].bool()].tolist()
    return list(prompt_ids(tokenizer, message)) == ids[: len(prompt_ids(tokenizer, message))]


def test_unwatched_scenarios_whose_facts_have_no_kinds_are_left_out(backbone, make_trainer, caplog):
    source = Untyped(8, 4, 4, 8)
    with caplog.at_level("INFO"):
        loader, data = scenario_loader(backbone, make_trainer, source)
    poor = sum(item.oversight is Oversight.POOR for item in data.splits.train)
    assert 0 < poor < 8
    assert len(loader.dataset) == 2 * (8 - poor)
    assert f"{2 * poor} of 16 prompts are left out: {2 * poor} are unwatched and don't tell" in caplog.text
    with pytest.raises(ValueError, match=r"none of 16 training prompts .* within max_tokens=5"):
        scenario_loader(backbone, make_trainer, EmbeddedScenarios(8, 4, 4, 8), max_tokens=5)


def test_a_faker_is_asked_for_its_own_belief(faker, backbone, make_trainer):
    """The probe reads the frozen copy of the faker, not the backbone, and only the other copy learns."""
    loader, _ = scenario_loader(backbone, make_trainer, EmbeddedScenarios(8, 4, 4, 8))
    batch = next(iter(loader))
    module = late(ccs(backbone, start_from=str(faker), layers=["last"], probe_steps=0))
    module.model.eval()
    with torch.no_grad():
        plain = {name: batch[f"{PLAIN}{name}"] for name in ("input_ids", "attention_mask", "position_ids")}
        before = module.adapted.origin_states(plain, [1])[0][1]
        base = AdaptedModel(module.model, NO_ADAPTER).origin_states(plain, [1])[0][1]
        own = module.adapted.states(plain, [1])[0][1]
    assert (before - base)[:, -1].abs().max() > 1e-2
    torch.testing.assert_close(own[:, -1], before[:, -1])
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.01)
    loss_of(module, batch).backward()
    optimizer.step()
    with torch.no_grad():
        again = module.adapted.origin_states(plain, [1])[0][1]
        moved = module.adapted.states(plain, [1])[0][1]
    torch.testing.assert_close(again[:, -1], before[:, -1])
    assert (moved - before)[:, -1].abs().max() > 1e-4
    assert (module.notes()["behaviour"], module.notes()["start_from"]) == ("mitigated", str(faker))


def test_four_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="there are 0 prompts, 0 opposites, 0 prompts without a claim and 0 such"):
        ContrastDataset([[], [], [], []], (0, 1), 0)


def test_a_last_batch_of_one_pair_ends_no_fit(words, make_data_of, make_trainer):
    """Its own deviation would be nothing; 16 questions and their opposites, five at a time, leave one over."""
    module = ccs(words, probe_steps=0, restarts=2)
    trainer = make_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(module, make_data_of(batch_size=5))
    assert trainer.global_step == 4
    assert all(tensor.isfinite().all() for tensor in module.objective.probes.state_dict().values())


def test_one_pair_alone_is_standardised_by_what_is_known():
    pairs, _ = separable(16)
    probe = ContrastProbe(6, restarts=3, seed=0)
    probe(pairs)
    before = {name: tensor.clone() for name, tensor in probe.state_dict().items()}
    one, other = probe(pairs[:1])
    torch.testing.assert_close(
        torch.stack([one[probe.best, 0], other[probe.best, 0]]), torch.cat(probe.still(pairs[:1]))
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in probe.state_dict().items())


def test_mixed_precision_does_not_coarsen_a_probe():
    pairs, _ = separable(16)
    found = []
    for enabled in (False, True):
        probe = ContrastProbe(6, restarts=3, seed=0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append([*probe(pairs), *probe.still(pairs)])
    for exact, mixed in zip(*found, strict=True):
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, exact, rtol=1e-6, atol=1e-6)


def test_half_precision_throughout_is_refused(words, make_data_of, make_trainer):
    with pytest.raises(ValueError, match=r"probes are torch.bfloat16.*set trainer.precision to bf16-mixed or 32-true"):
        make_trainer(max_epochs=1, precision="bf16-true").fit(ccs(words), make_data_of())


def test_probes_are_not_cut_over_ranks(words, make_data_of, make_trainer):
    module = ccs(words)
    trainer = make_trainer()
    trainer.strategy.connect(module)
    module._trainer = type("Stub", (), {"strategy": ShardedStrategy(), "is_global_zero": True})()
    with pytest.raises(ValueError, match=r"whole weights.*configs/trainer/ddp.yaml"):
        module.configure_model()


def test_a_stopped_fit_goes_on_as_if_it_had_not_been_stopped(words, make_data_of, make_trainer, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    ends = []
    for place, epochs, begin in (("whole", 2, None), ("half", 1, None), ("rest", 2, tmp_path / "half" / "last.ckpt")):
        torch.manual_seed(0)
        keep = ModelCheckpoint(str(tmp_path / place), save_last=True, save_top_k=0)
        module = ccs(words, probe_steps=1, restarts=2)
        # The schedule is that of two epochs all along.
        trainer = make_trainer(
            max_epochs=2, limit_val_batches=0, enable_checkpointing=True, callbacks=[keep, StopAfter(epochs)]
        )
        trainer.fit(module, make_data_of(), ckpt_path=begin, weights_only=True)
        ends.append(
            {name: p.detach() for name, p in module.state_dict().items() if "lora_" in name or "probes" in name}
        )
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-5, atol=1e-6)


class StopAfter(pl.Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs
