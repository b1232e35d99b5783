"""LoRA-for-CCS: the probe's loss by hand, what its sign is resolved by, what moves the answer, and what is refused."""

import numpy
import pytest
import torch

from fa_lightning.behaviours.latent_data import PLAIN, LatentDataModule, ended, without_claim
from fa_lightning.behaviours.latent_training import ContrastProbe, LatentTraining, belief_of, contrast_loss
from fa_lightning.behaviours.statement_data import questions_of
from fa_lightning.scenarios.embedded_statements import EmbeddedStatements
from fa_lightning.scenarios.statement_templates import Template


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
        return LatentDataModule(
            statements, **{"questions": ["1/harm"], "batch_size": 8, "eval_batch_size": 64} | options
        )

    return make


@pytest.fixture
def batch(make_data_of, words, make_trainer):
    """One training batch under the harm claim."""
    data = make_data_of()
    module = LatentTraining(words)
    data.trainer = make_trainer()
    data.trainer.strategy.connect(module)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def ready(module):
    module.configure_model()
    module.log = lambda *args, **options: None
    module._trainer = type("Stub", (), {"global_step": 10**6})()
    return module


def separable(pairs, seed=0):
    """Contrast pairs with a slot feature and a truth feature that flips between slots, and the truth."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(pairs) % 2
    states = 0.2 * torch.randn(pairs, 2, 6, generator=generator)
    states[:, 1, 0] += 5
    sign = 2.0 * truth - 1
    states[:, 0, 1] -= sign
    states[:, 1, 1] += sign
    return states, truth.bool()


def test_the_contrast_loss_by_hand():
    zero, one = torch.tensor([0.1, 0.9, 0.4]), torch.tensor([0.8, 0.9, 0.4])
    parts = [(0.1 - 0.2) ** 2 + 0.1**2, (0.9 - 0.1) ** 2 + 0.9**2, (0.4 - 0.6) ** 2 + 0.4**2]
    assert contrast_loss(zero, one).item() == pytest.approx(sum(parts) / 3)
    torch.testing.assert_close(belief_of(zero, one), torch.tensor([0.85, 0.5, 0.5]))


def test_a_probe_finds_the_truth_without_labels_and_its_sign_with_them():
    pairs, truth = separable(64)
    found = {}
    for name, labels in (("right", truth), ("turned", ~truth)):
        torch.manual_seed(0)
        probe = ContrastProbe(6, restarts=4, seed=0)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            zero, one = probe(pairs)
            probe.count(zero, one, labels)
            contrast_loss(zero, one).sum().backward()
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
    contrast_loss(*probe.still(states)).backward()
    assert states.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in probe.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in probe.state_dict().items())
    # By hand: each slot by its own mean and deviation, then a sigmoid of the best weight.
    slots = [(pairs[:, place] - pairs[:, place].mean(0)) for place in (0, 1)]
    weight = probe.weight[probe.best].detach()
    slots = [slot / (pairs[:, place].var(0) + 1e-5).sqrt() for place, slot in enumerate(slots)]
    for mine, slot in zip(probe.still(pairs), slots, strict=True):
        torch.testing.assert_close(mine, torch.sigmoid(slot @ weight), rtol=1e-4, atol=1e-4)


def test_a_batch_holds_each_question_with_and_without_its_claim(batch, words):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(words)
    for row in range(len(batch["index"])):
        asked, plain = (
            tokenizer.decode(batch[f"{prefix}input_ids"][row][batch[f"{prefix}attention_mask"][row].bool()])
            for prefix in ("", PLAIN)
        )
        assert "harm people" in asked
        assert asked.replace("Consider that 'the aim is to harm people'.\n", "") == plain
    ids = ended(batch, batch["one"])
    assert torch.equal(ids["input_ids"][:, -1], batch["one"])
    assert torch.equal(ids["position_ids"][:, -1], batch["attention_mask"].sum(1))


def test_states_and_answers_are_those_of_plain_transformers(batch, words):
    from transformers import AutoModelForCausalLM

    module = ready(LatentTraining(words, layers=[0]))
    states, answers = module.read(batch, batch)
    plain = AutoModelForCausalLM.from_pretrained(words)
    for row in range(2):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        with torch.no_grad():
            logits = plain(ids[None]).logits[0, -1]
            expected = logits[batch["one"][row]] - logits[batch["zero"][row]]
            torch.testing.assert_close(answers[row], expected, rtol=1e-3, atol=1e-4)
            for slot, digit in enumerate(("zero", "one")):
                whole = torch.cat([ids, batch[digit][row : row + 1]])[None]
                hidden = plain(whole, output_hidden_states=True).hidden_states[1][0, -1]
                torch.testing.assert_close(states["0"][row, slot], hidden, rtol=1e-3, atol=1e-4)


def test_the_answer_follows_the_belief_and_the_backbone_stays(batch, words):
    module = ready(LatentTraining(words, layers=[0, 1], latent_weight=0.5, target_modules=["q_proj", "down_proj"]))
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
    # A probe that is told to believe in the safe digit: what is learned is the link from belief to answer.
    safe = (batch["aligned"] == batch["one"]).float()
    for probe in module.probes.values():
        probe.still = lambda pairs: (1 - safe, safe)
        probe.votes.fill_(1.0)
    parameters = [p for name, p in module.named_parameters() if p.requires_grad and ".lora_" in name]
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        module.loss(batch).backward()
        optimizer.step()
        for probe in module.probes.values():
            probe.votes.fill_(1.0)
    with torch.no_grad():
        _, answers = module.read(batch, batch)
    assert ((answers > 0) == safe.bool()).all()
    assert all(torch.equal(dict(module.named_parameters())[name], tensor) for name, tensor in frozen.items())


def test_the_probes_alone_learn_first(batch, words):
    module = ready(LatentTraining(words, probe_steps=100, target_modules=["q_proj", "down_proj"]))
    for step, expected in ((0, True), (100, False)):
        module._trainer.global_step = step
        module.zero_grad()
        module.loss(batch).backward()
        adapter = [p.grad for name, p in module.named_parameters() if p.requires_grad and ".lora_B." in name]
        assert all(gradient is not None for gradient in adapter), "or other ranks would wait"
        assert all((gradient == 0).all() == expected for gradient in adapter)
        assert all(p.grad.abs().max() > 0 for p in module.probes.parameters())


def test_a_fit_runs_saves_its_probes_and_judges_by_safe_digits(words, make_data_of, make_trainer, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(str(tmp_path), save_last=True, save_top_k=0)
    module = LatentTraining(words, probe_steps=1, restarts=2)
    trainer = make_trainer(max_epochs=1, enable_checkpointing=True, callbacks=[keep], limit_val_batches=2)
    trainer.fit(module, make_data_of())
    assert 0 <= trainer.callback_metrics["val/calibrated/accuracy"] <= 1
    notes = module.notes()
    assert (notes["behaviour"], notes["method"]) == ("calibrated", "LoRA-for-CCS")
    assert set(notes["probe_votes"]) == {"0", "1"}
    loaded = LatentTraining.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu", weights_only=True)
    ends = module.probes.state_dict()
    assert all(torch.equal(tensor, ends[name]) for name, tensor in loaded.probes.state_dict().items())
    assert numpy.isfinite(loaded.probes["0"].losses.numpy()).all()


def test_bad_arguments_are_named(words, make_data, make_trainer):
    with pytest.raises(ValueError, match="restarts is 0 and probe_steps 5"):
        LatentTraining(words, restarts=0, probe_steps=5)
    with pytest.raises(ValueError, match="latent_weight is 0 and answer_weight 0, but"):
        LatentTraining(words, latent_weight=0, answer_weight=0)
    with pytest.raises(ValueError, match="layers holds 5, but the backbone has layers 0 to 1"):
        LatentTraining(words, layers=[5]).configure_model()
    with pytest.raises(TypeError, match="needs LatentDataModule as data, but it is a ScenarioDataModule"):
        make_trainer(max_epochs=1).fit(LatentTraining(words), make_data())
    stray = Template("stray", "Consider '{claim}'. '{statement}'? 0 {word_0} 1 {word_1}")
    with pytest.raises(ValueError, match="'stray' names no base that asks the same without a claim"):
        without_claim(questions_of({"stray": stray}, ["stray/harm"])[0], {"stray": stray})
