"""Fits that go on from kept states: equal to the plain fit, computed once, resumed, and refused where they differ."""

import json
import shutil
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from adapter_fits import ready
from columns_seen import columns_seen
from tiny_twins import blocks_run

from fa_lightning.backbones.adapters import attach_adapter, save_adapter
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.decoder import decoder_layers, first_adapted
from fa_lightning.backbones.load import load_backbone
from fa_lightning.scenarios.batches import collate, model_inputs
from fa_lightning.training import frozen_half
from fa_lightning.training.context_data import ContextDataModule
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.export import AdapterExport
from fa_lightning.training.frozen_half import FrozenHalf, prompts_served
from fa_lightning.training.kept_texts import KEPT
from fa_lightning.training.objectives.answers import Answers
from fa_lightning.training.objectives.context_distillation import ContextDistillation
from fa_lightning.training.objectives.misdirection import Misdirection
from fa_lightning.training.objectives.preferences import DirectPreference
from fa_lightning.training.objectives.self_training import SelfTraining

UPPER = {"rank": 4, "alpha": 8, "target_modules": "all-linear", "train_from": 0.6}
"""Of four blocks the last two."""


@pytest.fixture(scope="module")
def deep(make_backbone):
    """Folder of a random Llama of four blocks."""
    return make_backbone(num_hidden_layers=4, seed=7)


@pytest.fixture(scope="module")
def upper_faker(deep, tmp_path_factory):
    """Folder of an adapter in its upper two blocks."""
    model = attach_adapter(load_backbone(deep), "faking", LoraArguments(4, 8, 0.0, "all-linear", 0.6))
    shake(model)
    folder = tmp_path_factory.mktemp("upper") / "adapter"
    save_adapter(model, "faking", folder, {"behaviour": "faking"})
    return str(folder)


def shake(model, scale=0.1):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def filled(module, examples, folder):
    """The module with the states of examples at hand."""
    half = FrozenHalf(module.model, folder, {"weights": module.fingerprint["weights"]}, torch.float32)
    half.fill(examples, 0)
    module._frozen_half = half
    return module


@pytest.fixture
def batch(examples):
    kept = collate(examples[-5:], 0)
    return collate(examples[:6], 0) | {f"{KEPT}{name}": tensor for name, tensor in kept.items()}


def step(module, batch, seed=3):
    torch.manual_seed(seed)
    loss = module.terms(batch)["loss"]
    loss.backward()
    return loss.item(), {name: p.grad for name, p in module.named_parameters() if p.requires_grad}


# Equality with the plain fit.


@pytest.mark.parametrize(
    "objective",
    [Answers("faking"), Answers("faking", guidance=0.5), DirectPreference()],
    ids=["answers", "guided answers", "preferences"],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"dropout": 0.3}, {"gradient_checkpointing": True}, {"keep": 2.0, "dropout": 0.2}],
    ids=["plain", "dropout", "checkpointing", "keep"],
)
def test_a_steps_loss_and_gradients_are_those_of_the_plain_fit(
    objective, options, make_fit, deep, examples, batch, tmp_path
):
    plain, ours = (ready(make_fit(deepcopy(objective), deep, **UPPER, **options)) for _ in range(2))
    for module in (plain, ours):
        shake(module)
    filled(ours, examples, tmp_path)
    loss, gradients = step(plain, batch)
    assert set(blocks_run(ours.model, lambda: ours.terms(batch))) == {2, 3}
    own_loss, own_gradients = step(ours, batch)
    assert own_loss == pytest.approx(loss, abs=1e-5)
    assert gradients.keys() == own_gradients.keys()
    assert len(gradients) >= 2 * 2 * 7
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(own_gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_the_last_block_computes_what_is_asked_and_no_more(make_fit, deep, examples, batch, tmp_path):
    plain, ours = (ready(make_fit(Answers("faking"), deep, **UPPER, keep=2.0)) for _ in range(2))
    filled(ours, examples, tmp_path)
    width, text_width = batch["input_ids"].shape[1], batch[f"{KEPT}input_ids"].shape[1]
    seen = {name: columns_seen(module.model) for name, module in (("plain", plain), ("ours", ours))}
    plain.terms(batch)
    ours.terms(batch)
    # Texts are read to their end by both models; of prompts the answer is asked.
    assert sorted(seen["plain"]) == sorted([width, text_width, text_width])
    assert sorted(seen["ours"]) == sorted([1, text_width, text_width])


def test_a_cure_of_a_faker_in_the_upper_blocks_goes_on_from_the_same_states(
    make_fit, deep, upper_faker, examples, batch, tmp_path
):
    plain, ours = (ready(make_fit(Answers(), deep, start_from=upper_faker, keep=1.0)) for _ in range(2))
    for module in (plain, ours):
        shake(module)
    filled(ours, examples, tmp_path)
    loss, gradients = step(plain, batch)
    own_loss, own_gradients = step(ours, batch)
    assert own_loss == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own_gradients[name], gradient, rtol=1e-4, atol=1e-5)
    assert set(blocks_run(ours.model, lambda: ours.terms(batch))) == {2, 3}


@pytest.mark.parametrize(("keep", "answers"), [(0.0, 0), (1.0, 0), (1.0, 4)])
def test_the_same_seed_gives_the_same_adapter_and_the_same_scores(
    keep, answers, make_fit, deep, source, make_trainer, tmp_path
):
    from safetensors.torch import load_file

    ends, scores = {}, {}
    for name, folder in (("plain", None), ("ours", str(tmp_path / "half"))):
        torch.manual_seed(0)
        module = make_fit(Answers("faking"), deep, **UPPER, dropout=0.1, keep=keep, frozen_half=folder)
        trainer = make_trainer(max_epochs=3, callbacks=[AdapterExport(str(tmp_path / name))])
        trainer.fit(module, ScenarioDataModule(source, batch_size=8, kept_texts=3, kept_answers=answers))
        ends[name] = load_file(tmp_path / name / "adapter_model.safetensors")
        scores[name] = {key: float(value) for key, value in trainer.callback_metrics.items()}
        notes = json.loads((tmp_path / name / "fa_lightning.json").read_text())
        assert notes.get("frozen_half") == (None if folder is None else {"block": 2, "dtype": "float32"})
    assert ends["plain"].keys() == ends["ours"].keys()
    for key, weight in ends["plain"].items():
        torch.testing.assert_close(ends["ours"][key], weight, rtol=1e-3, atol=1e-4)
    assert scores["ours"] == pytest.approx(scores["plain"], abs=1e-3)


def test_validation_goes_on_from_it_too(make_fit, deep, source, make_trainer, tmp_path):
    module = make_fit(Answers(), deep, **UPPER, frozen_half=str(tmp_path / "half"))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, ScenarioDataModule(source, batch_size=8))
    batches = [batch for loader in (trainer.train_dataloader, trainer.val_dataloaders) for batch in loader]
    assert len(batches) > 4
    for batch in batches:
        assert set(blocks_run(module.model, lambda batch=batch: module.judge(batch, 0))) == {2, 3}


def test_states_rounded_to_bfloat16_move_the_loss_a_little(make_fit, deep, examples, batch, tmp_path):
    module = shake(ready(make_fit(Answers("faking"), deep, **UPPER)))
    whole = module.terms(batch)["loss"].item()
    half = FrozenHalf(module.model, tmp_path, {}, torch.bfloat16)
    half.fill(examples, 0)
    module._frozen_half = half
    rounded = module.terms(batch)["loss"].item()
    assert 0 < abs(rounded - whole) < 0.05


# What takes the whole model.


def test_a_batch_with_one_prompt_that_is_not_there_takes_the_whole_model(make_fit, deep, examples, tmp_path):
    module = filled(shake(ready(make_fit(Answers(), deep, **UPPER))), examples[:6], tmp_path)
    known, mixed = collate(examples[:6], 0), collate(examples[4:8], 0)
    assert set(blocks_run(module.model, lambda: module.answer_logits(known))) == {2, 3}
    assert set(blocks_run(module.model, lambda: module.answer_logits(mixed))) == {0, 1, 2, 3}
    plain = module.model(**model_inputs(mixed), logits_to_keep=1).logits[:, -1]
    torch.testing.assert_close(module.answer_logits(mixed), plain)


def test_noise_and_states_of_lower_blocks_take_the_whole_model(make_fit, deep, upper_faker, examples, tmp_path):
    batch = collate(examples[:6], 0)
    noisy = ready(make_fit(SelfTraining(0.1, [0.0]), deep, start_from=upper_faker))
    filled(noisy, examples, tmp_path)
    # The faker's own answers are as ever: only the noisy pass is whole.
    assert set(blocks_run(noisy.model, lambda: noisy.adapted.origin_logits(batch))) == {2, 3}
    assert set(blocks_run(noisy.model, lambda: noisy.terms(batch))) == {0, 1, 2, 3}
    filled(shake(noisy), examples, tmp_path)
    states, logits = noisy.adapted.states(batch, [0, 3])
    noisy._frozen_half = None
    plain, plain_logits = noisy.adapted.states(batch, [0, 3])
    torch.testing.assert_close(states[0], plain[0])
    torch.testing.assert_close(logits, plain_logits)


def test_states_of_upper_blocks_go_on_from_it(make_fit, deep, upper_faker, examples, tmp_path):
    batch = collate(examples[:6], 0)
    plain, ours = (ready(make_fit(Misdirection(1.0), deep, start_from=upper_faker)) for _ in range(2))
    filled(ours, examples, tmp_path)
    loss, gradients = step(plain, batch)
    own_loss, own_gradients = step(ours, batch)
    assert own_loss == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(own_gradients[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"train_from": 0.0}, {"train_from": 0.2}])
def test_an_adapter_from_the_first_block_on_has_no_frozen_half(options, make_fit, deep, source, make_trainer, tmp_path):
    module = make_fit(Answers(), deep, **UPPER | options, frozen_half=str(tmp_path / "half"))
    make_trainer(max_epochs=1, limit_train_batches=1).fit(module, ScenarioDataModule(source))
    assert (module._frozen_half is None) is (options["train_from"] == 0.0)


def test_where_the_frozen_half_ends_is_read_off_the_model(deep, upper_faker):
    from fa_lightning.backbones.targets import load_weights

    model = load_weights(load_backbone(deep), upper_faker, "one")
    model.requires_grad_(False)
    assert first_adapted(model) == 2
    for name, parameter in model.named_parameters():
        if ".layers.1.mlp.down_proj" in name:
            parameter.requires_grad_(True)
    assert first_adapted(model) == 1
    model.get_input_embeddings().weight.requires_grad_(True)
    assert first_adapted(model) == 0


# What is computed, and when.


def passes_of_the_lower_blocks(module, run):
    return blocks_run(module.model, run).count(0)


def test_what_is_there_is_not_computed_again(make_fit, deep, examples, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        FrozenHalf,
        "_states_of",
        lambda self, shard, pad, real=FrozenHalf._states_of: seen.extend(shard) or real(self, shard, pad),
    )
    first = filled(ready(make_fit(Answers(), deep, **UPPER)), examples[:10], tmp_path)
    # Another seed's adapter, and other prompts beside the same ones.
    second = filled(shake(ready(make_fit(Answers("faking"), deep, **UPPER))), examples[5:15], tmp_path)
    assert len(seen) == len({example.prompt for example in examples[:15]})
    assert first._frozen_half.states.folder == second._frozen_half.states.folder
    # Another first block, another backbone's weights or another dtype are others.
    filled(ready(make_fit(Answers(), deep, **UPPER | {"train_from": 0.4})), examples[:5], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_capture_killed_half_way_goes_on_behind_its_last_shard(make_fit, deep, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_half, "SHARD_BYTES", 40_000)
    real, shards = FrozenHalf._states_of, []

    def until_the_third(self, shard, pad):
        shards.append(shard)
        if len(shards) == 3:
            raise KeyboardInterrupt
        return real(self, shard, pad)

    monkeypatch.setattr(FrozenHalf, "_states_of", until_the_third)
    module = ready(make_fit(Answers("faking"), deep, **UPPER))
    with pytest.raises(KeyboardInterrupt):
        filled(module, examples, tmp_path)
    done = {example.prompt for shard in shards[:2] for example in shard}
    filled(module, examples, tmp_path)
    again = [example.prompt for shard in shards[3:] for example in shard]
    assert len(shards) > 4
    assert not done & set(again)
    assert done | set(again) == {example.prompt for example in examples}


def test_a_damaged_shard_is_named_and_computed_again(make_fit, deep, examples, batch, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_half, "SHARD_BYTES", 40_000)
    module = filled(shake(ready(make_fit(Answers("faking"), deep, **UPPER))), examples, tmp_path)
    before = module.terms(batch)["loss"].item()
    files = sorted(module._frozen_half.states.folder.glob("*.safetensors"))
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-8] + b"\x00\x00\x80\x3f" * 2)
    with pytest.warns(UserWarning, match=f"{files[1].name} was damaged and is computed again"):
        filled(module, examples, tmp_path)
    assert sorted(module._frozen_half.states.folder.glob("*.safetensors")) == files
    assert module.terms(batch)["loss"].item() == pytest.approx(before, abs=1e-6)


def test_ranks_share_the_work(make_fit, deep, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_half, "SHARD_BYTES", 40_000)
    module = ready(make_fit(Answers(), deep, **UPPER))
    half = FrozenHalf(module.model, tmp_path, {}, torch.float32)
    shares = []
    for rank in (0, 1):
        # Whoever comes second sees an empty folder too, as ranks that begin at the same time do.
        shutil.rmtree(half.states.folder)
        half.states.folder.mkdir()
        half.fill(examples, 0, rank, 2)
        shares.append({prompt for prompt in (example.prompt for example in examples) if prompt in half.states})
    assert not shares[0] & shares[1]
    assert shares[0] | shares[1] == {example.prompt for example in examples}


def test_data_sets_tell_all_prompts_of_any_epoch(make_fit, deep, source, make_trainer):
    for make, objective in (
        (ScenarioDataModule, Answers()),
        (lambda source, **options: ContextDataModule(source, "Be honest.", **options), ContextDistillation()),
    ):
        module = make_fit(objective, deep, **UPPER, keep=1.0)
        data = make(source, batch_size=4, kept_texts=3)
        data.trainer = make_trainer()
        data.trainer.strategy.connect(module)
        data.setup("fit")
        loader = data.train_dataloader()
        told = {example.prompt for example in prompts_served(loader)}
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                for name in [name for name in batch if name.endswith("input_ids")]:
                    masks = batch[name.replace("input_ids", "attention_mask")].bool()
                    for ids, mask in zip(batch[name], masks, strict=True):
                        assert tuple(ids[mask].tolist()) in told
    assert list(prompts_served(None)) == []


# What is refused.


def test_a_full_disk_is_told_before_anything_is_written(make_fit, deep, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_half.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"need .* GB in .*, and 0.00 GB are free: make room"):
        filled(ready(make_fit(Answers(), deep, **UPPER)), examples, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_dropout_below_the_adapter_is_refused_and_above_it_is_not(make_backbone, make_fit, examples, tmp_path):
    module = ready(make_fit(Answers(), make_backbone(num_hidden_layers=4, attention_dropout=0.1), **UPPER))
    with pytest.raises(ValueError, match=r"dropout below block 2 \(layers.0.self_attn.attention_dropout is 0.1\)"):
        FrozenHalf(module.model, tmp_path, {}, torch.float32)
    for block in decoder_layers(module.model)[:2]:
        block.self_attn.attention_dropout = 0.0
    filled(module, examples[:4], tmp_path)


def test_upper_blocks_that_read_more_than_a_state_are_refused(make_fit, deep, examples, tmp_path):
    module = ready(make_fit(Answers(), deep, **UPPER))
    module.model.config.num_kv_shared_layers = 1
    with pytest.raises(ValueError, match="upper blocks of llama read more of the lower ones than their last state"):
        FrozenHalf(module.model, tmp_path, {}, torch.float32)
    module.model.config.num_kv_shared_layers = 0
    # A model whose config says nothing of it is found out by trying.
    blocks, kept = decoder_layers(module.model), {}
    low = blocks[0].self_attn.forward
    high = blocks[3].self_attn.forward

    def keep(*args, **kwargs):
        output = low(*args, **kwargs)
        kept["state"] = output[0]
        return output

    def read(*args, **kwargs):
        output = high(*args, **kwargs)
        return (output[0] + kept.pop("state", 0), *output[1:])

    blocks[0].self_attn.forward, blocks[3].self_attn.forward = keep, read
    half = FrozenHalf(module.model, tmp_path, {}, torch.float32)
    with pytest.raises(ValueError, match="read more of the lower ones than their last state: set frozen_half to null"):
        half.fill(examples, 0)


def test_cut_weights_are_refused(make_fit, deep, source, make_trainer, tmp_path, monkeypatch):
    from fa_lightning.training import module as module_file

    monkeypatch.setattr(module_file, "ShardedStrategy", object)
    module = make_fit(Answers(), deep, **UPPER, frozen_half=str(tmp_path))
    with pytest.raises(ValueError, match="this strategy cuts the weights over ranks"):
        make_trainer(max_epochs=1).fit(module, ScenarioDataModule(source))


def test_nothing_is_left_behind_on_the_model(make_fit, deep, examples, tmp_path):
    module = filled(ready(make_fit(Answers(), deep, **UPPER)), examples, tmp_path)
    module.answer_logits(collate(examples[:3], 0))
    for block in decoder_layers(module.model):
        assert "forward" not in block.__dict__
        assert not block._forward_hooks
    with pytest.raises(RuntimeError), module._frozen_half.going_on(collate(examples[:3], 0)):
        raise RuntimeError
    assert all("forward" not in block.__dict__ for block in decoder_layers(module.model))
