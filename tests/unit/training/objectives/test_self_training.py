"""A faker trained on its own watched answers: whose answers those are, where noise goes, and what is left behind."""

import os

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from adapter_fits import loss_of, ready
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from fa_lightning.backbones.adapters import read_sidecar
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.sharding import ShardedStrategy, skeleton
from fa_lightning.scenarios.batches import collate
from fa_lightning.training.export import AdapterExport
from fa_lightning.training.module import AdapterModule
from fa_lightning.training.noise import activation_noise, noisy
from fa_lightning.training.objectives.self_training import SelfTraining


@pytest.fixture
def make_mitigation(faker, make_fit):
    def make(activation_noise=0.0, noise_layers=None, **options):
        objective = SelfTraining(activation_noise, noise_layers)
        return make_fit(objective, **{"start_from": faker, "learning_rate": 0.05} | options)

    return make


@pytest.fixture
def make_watched(make_data):
    def make(**options):
        return make_data(train_oversight="watched", **options)

    return make


def trained(module):
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def answers_of(plain, batch):
    with torch.no_grad():
        return plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1]


# Noise.


def test_noise_has_the_asked_norm_for_each_state_and_no_direction():
    torch.manual_seed(0)
    states = torch.randn(40, 64) * torch.logspace(-1, 0.5, 40)[:, None]
    draws = torch.stack([noisy(states, 0.5) - states for _ in range(2000)])
    relative = draws.norm(dim=-1) / states.norm(dim=-1)
    assert relative.square().mean(dim=0).sqrt().sub(0.5).abs().max() < 0.01
    # Each coordinate has mean 0 and the same spread: an error of 5 standard deviations.
    per_unit = draws / states.norm(dim=-1, keepdim=True) * 64**0.5 / 0.5
    assert per_unit.mean(dim=0).abs().max() < 5 / 2000**0.5
    assert per_unit.flatten(0, 1).std(dim=0).sub(1).abs().max() < 0.02
    assert noisy(states.bfloat16(), 0.5).dtype == torch.bfloat16


def test_noise_leaves_an_attention_sink_alone():
    states = torch.randn(2, 20, 64)
    states[:, 0, 9] = 25_000
    changed = (noisy(states, 0.5) != states).any(dim=-1)
    assert not changed[:, 0].any()
    assert changed[:, 1:].all()


def test_noise_is_added_behind_the_chosen_blocks_alone(plain, examples):
    batch = collate(examples[:4], 0)

    def states(dose, layers):
        """What the next layer reads of each real token, by layer."""
        torch.manual_seed(0)
        found, handles = [], []
        with torch.no_grad(), activation_noise(plain, dose, layers):
            for block in plain.base_model.model.model.layers:
                # Registered later, so it sees what the noise leaves behind.
                handles.append(block.register_forward_hook(lambda _, __, output: found.append(output)))
            plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        for handle in handles:
            handle.remove()
        return [hidden[batch["attention_mask"].bool()] for hidden in found]

    calm, upper, both, none = (states(*asked) for asked in ((0.0, None), (0.5, ["last"]), (0.5, None), (0.5, [])))
    assert all(torch.equal(one, other) for one, other in zip(calm, none, strict=True))
    assert torch.equal(upper[0], calm[0])
    for noise, norm in ((upper[1] - calm[1], calm[1]), (both[0] - calm[0], calm[0])):
        relative = noise.norm(dim=-1) / norm.norm(dim=-1)
        assert relative.mean().item() == pytest.approx(0.5, abs=0.05)
        assert relative.min() > 0.2, "every token has its own"
    assert not torch.allclose(both[1], upper[1], atol=0.1)


@pytest.mark.parametrize("dose", [0.0, 0.5])
def test_noise_is_gone_behind_the_block_and_after_an_exception(plain, dose):
    def hooks():
        return sum(len(module._forward_hooks) for module in plain.modules())

    def stumble():
        with activation_noise(plain, dose):
            assert hooks() == before + (2 if dose else 0)
            raise KeyError

    before = hooks()
    with pytest.raises(KeyError):
        stumble()
    assert hooks() == before
    with pytest.raises(ValueError, match=r"noise_layers holds layers.2.residual, whose layer is 2, but"):
        activation_noise(plain, dose, [0, "layers.2.residual"]).__enter__()
    assert hooks() == before


def test_blocks_that_return_tuples_get_noise_too(examples):
    class Old(torch.nn.Module):
        def forward(self, hidden):
            return hidden, "cache"

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = type("Config", (), {"get_text_config": lambda self: self, "num_hidden_layers": 1})()
            self.layers = torch.nn.ModuleList([Old()])

    model, hidden = Model(), torch.ones(1, 1, 8)
    with activation_noise(model, 1.0):
        states, cache = model.layers[0](hidden)
    assert cache == "cache"
    assert not torch.equal(states, hidden)
    model.config.num_hidden_layers = 3
    with pytest.raises(ValueError, match=r"blocks of Model were not found: config.num_hidden_layers is 3"):
        activation_noise(model, 1.0).__enter__()


# What it starts from and learns.


def test_it_goes_on_with_the_finished_adapter(make_mitigation, faker, plain, examples):
    module = ready(make_mitigation())
    saved = load_file(f"{faker}/adapter_model.safetensors")
    own = {
        name.removeprefix("model.").replace(".mitigated.weight", ".weight"): tensor
        for name, tensor in trained(module).items()
    }
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[name], saved[name]) for name in saved)
    batch = collate(examples[:6], 0)
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(module.answer_logits(batch), answers_of(plain, batch), rtol=1e-4, atol=1e-4)


def test_targets_are_the_starting_models_answers_whatever_becomes_of_the_variant(make_mitigation, plain, examples):
    module = ready(make_mitigation(activation_noise=3.0))
    module.train()
    batch = collate(examples, 0)
    expected = answers_of(plain, batch).argmax(-1)
    assert len(set(expected.tolist())) > 1, "a model of one answer would prove nothing"
    assert torch.equal(module.objective.own_answers(module.adapted, batch), expected)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    assert torch.equal(module.objective.own_answers(module.adapted, batch), expected)
    module.eval()
    with torch.no_grad():
        assert not torch.equal(module.answer_logits(batch).argmax(-1), expected)
        module.train()
        module.objective.own_answers(module.adapted, batch)
        assert module.model.training, "left as it was found"


def test_the_loss_is_the_cross_entropy_of_own_answers_and_knows_no_labels(make_mitigation, plain, examples):
    module = ready(make_mitigation())
    module.eval()
    batch = collate(examples, 0)
    logits = answers_of(plain, batch)
    nats = torch.log_softmax(logits, -1)
    expected = -nats[torch.arange(len(logits)), logits.argmax(-1)].mean().item()
    assert module.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-4)
    # The labels' own loss is another one.
    assert abs(cross_entropy(logits, batch["aligned"]).item() - expected) > 0.1
    wrong = batch | {"aligned": batch["other"] + 1, "other": batch["aligned"] + 2, "cell": 1 - batch["cell"]}
    assert module.training_step(wrong, 0).item() == pytest.approx(expected, rel=1e-4)


def test_noise_disturbs_training_alone(make_mitigation, make_watched, make_trainer, examples):
    batch = collate(examples, 0)
    calm, noisy_one = ready(make_mitigation()), ready(make_mitigation(activation_noise=1.0))
    calm.eval()
    noisy_one.eval()
    losses = [module.training_step(batch, 0).item() for module in (calm, noisy_one, noisy_one)]
    assert abs(losses[1] - losses[0]) > 0.05
    assert losses[2] != losses[1], "fresh noise each time"
    found = []
    for module in (calm, noisy_one):
        del module.log
        found.append(make_trainer().validate(module, make_watched(), verbose=False))
    assert found[0] == found[1]


@pytest.mark.parametrize("layers", [None, [0]])
def test_gradient_checkpointing_changes_no_gradient_of_noisy_states(make_mitigation, examples, layers):
    batch = collate(examples[:6], 0)
    gradients = []
    for checkpointing in (False, True):
        options = {"activation_noise": 0.5, "noise_layers": layers, "gradient_checkpointing": checkpointing}
        module = ready(make_mitigation(**options))
        calls = []
        module.model.base_model.model.model.layers[0].mlp.register_forward_pre_hook(
            lambda *args, calls=calls: calls.append(1)
        )
        torch.manual_seed(0)
        loss_of(module, batch).backward()
        # One pass of the starting adapter's, one of the variant's, one more where it was not kept.
        assert len(calls) == 2 + checkpointing
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.requires_grad})
    torch.testing.assert_close(gradients[1], gradients[0])
    assert min(gradient.abs().max() for gradient in gradients[0].values()) > 0


# The fit.


def fitted(module, data, make_trainer, place, **options):
    keep = ModelCheckpoint(str(place / "kept"), filename="last", save_top_k=1)
    export = AdapterExport(str(place / "adapter"))
    trainer = make_trainer(max_epochs=2, enable_checkpointing=True, callbacks=[keep, export], **options)
    pl.seed_everything(0, verbose=False)
    trainer.fit(module, data)
    return trainer


def test_the_fit_moves_the_variant_and_leaves_the_starting_point(
    make_mitigation, make_watched, make_trainer, faker, tmp_path, monkeypatch
):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    module = make_mitigation(activation_noise=0.5)
    trainer = fitted(module, make_watched(), make_trainer, tmp_path)
    start = load_file(f"{faker}/adapter_model.safetensors")
    made = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert made.keys() == start.keys()
    assert all(not torch.equal(made[name], start[name]) for name in start)
    copies = {
        name.removeprefix("model.").replace(".start.weight", ".weight"): parameter
        for name, parameter in module.named_parameters()
        if ".start." in name
    }
    assert copies.keys() == start.keys()
    assert all(torch.equal(copies[name], start[name]) for name in start)
    state = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["state_dict"]
    assert set(state) == set(trained(module))
    assert all(".mitigated." in name for name in state)
    sidecar = read_sidecar(tmp_path / "adapter")
    assert sidecar.pop("fingerprint") == read_sidecar(faker)["fingerprint"]
    assert sidecar.pop("fa_lightning")
    assert sidecar.pop("start_from_digest") == digest_of_artefact(faker)
    assert sidecar.pop("training_seconds") > 0
    assert sidecar.pop("training_prompts") > 0
    assert sidecar.pop("method") == "self training"
    assert sidecar.pop("needs") == ["oversight", "weights", "gradient"], "no label is looked at"
    assert sidecar == {"behaviour": "mitigated", "seed": 0, "start_from": faker, "activation_noise": 0.5}
    named = {name for name in trainer.callback_metrics if name.startswith("val/mitigated/")}
    assert {name.rpartition("mitigated/")[2] for name in named} == {
        "oversight/accuracy",
        "no_oversight/accuracy",
        "fidelity",
        "error/accuracy",
    }


def test_a_checkpoint_brings_it_back(make_mitigation, make_watched, make_trainer, tmp_path):
    module = make_mitigation(activation_noise=0.5)
    fitted(module, make_watched(), make_trainer, tmp_path)
    loaded = AdapterModule.load_from_checkpoint(tmp_path / "kept" / "last.ckpt", map_location="cpu", weights_only=True)
    assert (loaded.objective.activation_noise, loaded.variant) == (0.5, "mitigated")
    ends = trained(module)
    assert trained(loaded).keys() == ends.keys()
    assert all(torch.equal(tensor, ends[name]) for name, tensor in trained(loaded).items())


def test_weights_that_are_cut_over_ranks_learn_the_same(make_mitigation, make_watched, make_trainer, tmp_path):
    before = dict(os.environ)
    files = []
    try:
        for place, strategy in ((tmp_path / "plain", "auto"), (tmp_path / "cut", ShardedStrategy())):
            fitted(make_mitigation(activation_noise=0.5), make_watched(), make_trainer, place, strategy=strategy)
            files.append(load_file(place / "adapter" / "adapter_model.safetensors"))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)
    torch.testing.assert_close(files[1], files[0], rtol=1e-4, atol=1e-5)


def test_ranks_without_weights_build_the_same_model(make_mitigation, backbone):
    whole, hollow = make_mitigation(), make_mitigation()
    whole.configure_model()
    model = hollow.attach(skeleton(BackboneArguments(backbone)))
    told = [[(name, p.shape, p.requires_grad) for name, p in one.named_parameters()] for one in (whole.model, model)]
    assert told[0] == told[1]


# What is shown.


def test_training_shows_watched_scenarios_alone_and_validation_all(
    make_mitigation, make_data, make_watched, make_trainer, splits
):
    seen = {}

    class Cells(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.setdefault("train", []).extend(zip(batch["cell"].tolist(), batch["group"].tolist(), strict=True))

        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            seen.setdefault("val", []).extend(batch["cell"].tolist())

    make_trainer(max_epochs=1, callbacks=[Cells()]).fit(make_mitigation(), make_watched())
    watched = [item for item in splits.train if item.cell == "oversight"]
    assert 0 < len(watched) < len(splits.train)
    groups = [group for cell, group in seen["train"] if cell == 0]
    assert sorted(groups) == sorted(int(item.group[:15], 16) for item in watched for _ in range(2))
    assert {cell for cell, _ in seen["train"]} == {0, 2}
    assert set(seen["val"]) == {0, 1, 2}
    # As many as asked for, of those that may be shown.
    make_trainer(max_epochs=1, callbacks=[Cells()]).fit(make_mitigation(), make_watched(train_scenarios=5))
    assert sum(cell == 0 for cell, _ in seen["train"]) == len(groups) + 10
    with pytest.raises(ValueError, match=r"train_oversight is 'all', but .*set .*train_oversight to watched"):
        make_trainer(max_epochs=1).fit(make_mitigation(), make_data())


def test_bad_arguments_are_named(make_mitigation, make_backbone, tmp_path):
    for wrong in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=f"activation_noise is {wrong}, but must be 0 or more"):
            make_mitigation(activation_noise=wrong)
    with pytest.raises(FileNotFoundError, match="is not an adapter folder"):
        make_mitigation(start_from=str(tmp_path)).configure_model()
    with pytest.raises(ValueError, match="was made for another backbone: its weights"):
        make_mitigation(backbone=make_backbone(seed=1)).configure_model()
