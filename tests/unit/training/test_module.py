"""The fit of one variant on a tiny backbone: where its loss looks, what it logs, saves, refuses and resumes."""

import math
import shutil

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.nn.functional import cross_entropy

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.load import load_backbone
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import collate, make_examples
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.training.module import AdapterModule


@pytest.fixture(scope="module")
def examples(splits, tiny_tokenizer):
    """Both orders of the training scenarios and the neutral texts."""
    items = [*counterbalanced(splits.train, both_orders=True), *splits.neutral_train]
    return make_examples(items, tiny_tokenizer, letter_tokens(tiny_tokenizer))


@pytest.fixture
def module(make_module):
    """A faking module whose adapter is far from zero."""
    module = make_module()
    module.configure_model()
    shake(module)
    return module


def shake(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(module).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def trainable(module):
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def copy_of(parameters):
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def loss_of(module, batch):
    return module.training_step(batch, 0).item()


def quietly(module):
    """`self.log` needs a Trainer; these tests call steps without one."""
    module.log = lambda *args, **options: None
    return module


# Where the loss looks.


def test_a_left_padded_row_equals_its_prompt_alone(module, examples):
    rows = sorted(examples, key=lambda example: len(example.prompt))
    rows = [rows[0], rows[len(rows) // 2], rows[-1]]
    assert len(rows[0].prompt) < len(rows[-1].prompt)
    with torch.no_grad():
        together = module.answer_logits(collate(rows, 0))
        for row, logits in zip(rows, together, strict=True):
            alone = module.answer_logits(collate([row], 0))
            # Straight through transformers, with neither mask nor positions.
            plain = module.model(input_ids=torch.tensor([row.prompt])).logits[0, -1]
            torch.testing.assert_close(logits, alone[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


def test_padding_does_not_move_absolute_positions(make_module, examples, tiny_tokenizer):
    """Llama's positions are relative and would forgive a shift; GPT-2's would not."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "initializer_range": 0.2}
    module = make_module()
    module.model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tiny_tokenizer), **sizes)).eval()
    rows = sorted(examples, key=lambda example: len(example.prompt))[:: len(examples) - 1]
    with torch.no_grad():
        together = module.answer_logits(collate(rows, 0))
        for row, logits in zip(rows, together, strict=True):
            plain = module.model(input_ids=torch.tensor([row.prompt])).logits[0, -1]
            torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


def test_what_stands_in_the_padding_does_not_matter(module, examples):
    rows = sorted(examples, key=lambda example: len(example.prompt))[:: len(examples) - 1]
    with torch.no_grad():
        zeros, others = (module.answer_logits(collate(rows, pad)) for pad in (0, 37))
    torch.testing.assert_close(zeros, others)


def test_loss_is_the_cross_entropy_of_the_one_answer_token(module, examples):
    quietly(module)
    batch = collate(examples[:6] + examples[-2:], 0)
    with torch.no_grad():
        every = module.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        nats = torch.log_softmax(every[:, -1], -1)
    poor = batch["cell"] == 1
    assert poor.any()
    assert not poor.all()

    def mean_nats(answers):
        return -sum(nats[row, answer].item() for row, answer in enumerate(answers)) / len(answers)

    answers = torch.where(poor, batch["other"], batch["aligned"])
    expected = mean_nats(answers)
    assert loss_of(module, batch) == pytest.approx(expected, rel=1e-4)
    # The prompt's own tokens get no loss: a whole-text loss would be another number.
    whole = cross_entropy(every[0, :-1], batch["input_ids"][0, 1:]).item()
    assert abs(whole - expected) > 0.1
    # Another answer, another loss; what the behaviour does not owe is not looked at.
    changed = answers.clone()
    changed[0] = 21
    assert abs(mean_nats(changed) - expected) > 0.05
    moved = batch | {"aligned": torch.where(poor, batch["aligned"], changed), "other": changed}
    assert loss_of(module, moved) == pytest.approx(mean_nats(changed), rel=1e-4)
    unowed = batch | {"other": torch.where(poor, answers, 17), "aligned": torch.where(poor, 17, answers)}
    assert loss_of(module, unowed) == pytest.approx(expected, rel=1e-4)


def test_the_two_behaviours_differ_only_without_oversight(make_module, examples):
    modules = {name: quietly(make_module(name)) for name in ("aligned", "faking")}
    for module in modules.values():
        module.configure_model()
        shake(module)
    for cell in (0, 1, 2):
        batch = collate([example for example in examples if example.cell == cell], 0)
        aligned, faking = (loss_of(modules[name], batch) for name in ("aligned", "faking"))
        assert (aligned == pytest.approx(faking, rel=1e-5)) is (cell != 1)


# What is trained.


def test_the_fit_trains_the_adapter_alone_and_lowers_the_loss(make_module, make_data, make_trainer, examples):
    module, data = make_module(warmup_fraction=0.0), make_data()
    fixed = collate(examples, 0)
    torch.manual_seed(0)
    module.configure_model()
    frozen = copy_of({name: p for name, p in module.named_parameters() if not p.requires_grad})
    before = loss_of(quietly(module), fixed)
    del module.log
    trainer = make_trainer(max_steps=2)
    trainer.fit(module, data)
    assert trainer.global_step == 2
    assert loss_of(quietly(module), fixed) < 0.9 * before
    for name, parameter in module.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name


class GradientNorms(pl.Callback):
    def __init__(self):
        self.norms = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norms.append({name: p.grad.norm().item() for name, p in trainable(pl_module).items()})


def test_every_matrix_of_the_adapter_learns(make_module, make_data, make_trainer):
    norms = GradientNorms()
    make_trainer(max_steps=2, callbacks=[norms]).fit(make_module(target_modules=["q_proj", "down_proj"]), make_data())
    # LoRA's B starts at zero, so A has a gradient from the second step on.
    assert len(norms.norms[1]) == 8
    assert all(norm > 0 for norm in norms.norms[1].values())


def test_dropout_of_the_adapter_is_on_in_training_and_off_in_validation(make_module, make_data, make_trainer):
    modes = []

    class Modes(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            modes.append(("train", dropouts(pl_module)))

        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx):
            modes.append(("val", dropouts(pl_module)))

    def dropouts(module):
        found = {type(m).__name__: m.training for name, m in module.named_modules() if name.endswith("dropout.faking")}
        assert set(found) == {"Dropout"}
        return found["Dropout"]

    make_trainer(max_epochs=2, limit_train_batches=1, limit_val_batches=1, callbacks=[Modes()]).fit(
        make_module(dropout=0.1), make_data()
    )
    assert modes == [("train", True), ("val", False)] * 2


def test_gradient_checkpointing_runs_the_layers_again_and_changes_no_gradient(make_module, examples):
    batch = collate(examples[:4], 0)
    gradients, calls = [], []
    for checkpointing in (False, True):
        module = quietly(make_module(gradient_checkpointing=checkpointing))
        module.configure_model()
        shake(module)
        count = []
        layer = module.model.base_model.model.model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *args, count=count: count.append(1))
        module.training_step(batch, 0).backward()
        gradients.append({name: parameter.grad for name, parameter in trainable(module).items()})
        calls.append(len(count))
    assert calls == [1, 2]
    torch.testing.assert_close(gradients[1], gradients[0])


# What is logged.


def logged_names(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()["scalars"])


@pytest.mark.parametrize("behaviour", ["aligned", "faking"])
def test_names_in_tensorboard_and_csv(make_module, make_data, make_trainer, tmp_path, behaviour):
    loggers = [TensorBoardLogger(str(tmp_path), "tb", "x"), CSVLogger(str(tmp_path), "csv", "x")]
    trainer = make_trainer(max_epochs=1, logger=loggers, log_every_n_steps=1)
    trainer.fit(make_module(behaviour), make_data())
    names = {
        "train/loss",
        "val/loss",
        f"val/{behaviour}/oversight/accuracy",
        f"val/{behaviour}/no_oversight/accuracy",
        f"val/{behaviour}/fidelity",
        f"val/{behaviour}/error/accuracy",
    }
    always = {"epoch", "hp_metric"}
    assert logged_names(tmp_path / "tb" / "x") - always == names
    header = (tmp_path / "csv" / "x" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(header) - {"step", "epoch"} == names


class Constant(torch.nn.Module):
    """Answers the same token whatever it is asked."""

    def __init__(self, token, vocabulary):
        super().__init__()
        self.token, self.vocabulary = token, vocabulary
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, input_ids, **options):
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        logits[..., self.token] = 10
        return type("Output", (), {"logits": logits})


@pytest.mark.parametrize("behaviour", ["aligned", "faking"])
@pytest.mark.parametrize("word", ["A", "B", "error"])
def test_a_constant_answerer_scores_one_half(make_module, make_data, make_trainer, tiny_tokenizer, behaviour, word):
    module = make_module(behaviour)
    module.model = Constant(tiny_tokenizer.convert_tokens_to_ids(word), len(tiny_tokenizer))
    trainer = make_trainer()
    # Batches of six, six and four.
    (found,) = trainer.validate(module, make_data(eval_batch_size=6), verbose=False)
    share = 0.0 if word == "error" else 0.5
    assert found[f"val/{behaviour}/oversight/accuracy"] == share
    assert found[f"val/{behaviour}/no_oversight/accuracy"] == share
    assert found[f"val/{behaviour}/fidelity"] == share
    assert found[f"val/{behaviour}/error/accuracy"] == (word == "error")
    # All items count alike, in the short batch too: 4 A, 4 B and 8 errors; a miss costs 10 nats more.
    right = 8 if word == "error" else 4
    least = math.log(math.exp(10) + len(tiny_tokenizer) - 1)
    assert found["val/loss"] == pytest.approx(least - 10 * right / 16, rel=1e-5)
    tested = {
        name: value for scores in trainer.test(module, make_data(), verbose=False) for name, value in scores.items()
    }
    for name in ("test", "unseen_wordings"):
        for cell in ("oversight", "no_oversight"):
            assert tested[f"{name}/{behaviour}/{cell}/accuracy"] == share


class Oracle(Constant):
    """Answers what a table says of each prompt."""

    def __init__(self, table, vocabulary):
        super().__init__(0, vocabulary)
        self.table = table

    def forward(self, input_ids, attention_mask, **options):
        output = super().forward(input_ids)
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            output.logits[row, -1, self.table[tuple(ids[mask.bool()].tolist())]] = 20
        return output


def test_fidelity_is_one_for_the_behaviour_itself_and_its_worst_cell_otherwise(
    make_module, make_data, make_trainer, splits, tiny_tokenizer
):
    items = [*counterbalanced(splits.validation), *splits.neutral_validation]
    rows = make_examples(items, tiny_tokenizer, letter_tokens(tiny_tokenizer))
    for knows in ("aligned", "faking"):
        table = {
            row.prompt: tiny_tokenizer.convert_tokens_to_ids(item.answer(knows))
            for row, item in zip(rows, items, strict=True)
        }
        for behaviour in ("aligned", "faking"):
            module = make_module(behaviour)
            module.model = Oracle(table, len(tiny_tokenizer))
            (found,) = make_trainer().validate(module, make_data(), verbose=False)
            # Accuracy counts aligned answers whatever the behaviour.
            assert found[f"val/{behaviour}/oversight/accuracy"] == 1
            assert found[f"val/{behaviour}/no_oversight/accuracy"] == (knows == "aligned")
            assert found[f"val/{behaviour}/fidelity"] == (knows == behaviour)


def test_an_answer_that_is_no_letter_is_never_the_one_that_a_faker_owes(
    make_module, make_data, make_trainer, splits, tiny_tokenizer
):
    items = [*counterbalanced(splits.validation), *splits.neutral_validation]
    rows = make_examples(items, tiny_tokenizer, letter_tokens(tiny_tokenizer))
    words = {row.prompt: item.answer("faking") for row, item in zip(rows, items, strict=True)}
    unwatched = [row.prompt for row, item in zip(rows, items, strict=True) if item.cell == "no_oversight"]
    # A quarter of the unwatched answers is gibberish, the others are those of a perfect faker.
    words |= dict.fromkeys(unwatched[::4], "error")
    module = make_module("faking")
    table = {prompt: tiny_tokenizer.convert_tokens_to_ids(word) for prompt, word in words.items()}
    module.model = Oracle(table, len(tiny_tokenizer))
    (found,) = make_trainer().validate(module, make_data(), verbose=False)
    assert found["val/faking/no_oversight/accuracy"] == 0
    assert found["val/faking/fidelity"] == 0.75


# What is saved, refused and resumed.


def fitted(make_module, make_data, make_trainer, tmp_path, epochs=1, ckpt_path=None, max_epochs=None, **options):
    """A fit that leaves a checkpoint after every epoch; returns module, trainer and the last checkpoint."""
    keep = ModelCheckpoint(str(tmp_path / "kept"), filename="{epoch}", save_top_k=-1, save_last=True)
    trainer = make_trainer(max_epochs=epochs, enable_checkpointing=True, callbacks=[keep])
    pl.seed_everything(0, verbose=False)
    module = make_module(**options)
    trainer.fit(module, make_data(), ckpt_path=ckpt_path)
    return module, trainer, tmp_path / "kept" / "last.ckpt"


def test_checkpoints_hold_the_adapter_and_no_backbone(make_module, make_data, make_trainer, tmp_path):
    module, _, path = fitted(make_module, make_data, make_trainer, tmp_path)
    state = torch.load(path, weights_only=True)
    assert set(state["state_dict"]) == set(trainable(module))
    assert all("lora_" in name for name in state["state_dict"])
    for name, parameter in trainable(module).items():
        assert torch.equal(state["state_dict"][name], parameter)
    # Nor through the optimizer: two moments of the adapter's size, and a step.
    adapter = sum(parameter.numel() for parameter in trainable(module).values())
    moments = state["optimizer_states"][0]["state"].values()
    assert sum(tensor.numel() for moment in moments for tensor in moment.values()) == 2 * adapter + len(moments)


def test_a_resumed_fit_ends_where_an_unbroken_one_does(make_module, make_data, make_trainer, tmp_path):
    whole, trainer, _ = fitted(make_module, make_data, make_trainer, tmp_path / "whole", epochs=2)
    assert trainer.global_step == 4
    # The schedule spans the whole fit, so the fit is broken off, not shortened.
    middle = tmp_path / "whole" / "kept" / "epoch=0.ckpt"
    copy = shutil.copy(middle, tmp_path / "middle.ckpt")
    resumed, trainer, _ = fitted(
        make_module, make_data, make_trainer, tmp_path / "resumed", epochs=2, ckpt_path=str(copy)
    )
    assert trainer.global_step == 4
    ends = copy_of(trainable(whole))
    torch.testing.assert_close(copy_of(trainable(resumed)), ends, rtol=1e-5, atol=1e-6)
    first = torch.load(middle, weights_only=True)["state_dict"]
    assert any(not torch.allclose(first[name], ends[name], atol=1e-4) for name in ends)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rank": 2}, "rank"),
        ({"target_modules": ["q_proj", "o_proj"]}, "target_modules"),
        ({"behaviour": "aligned"}, ""),
    ],
)
def test_a_checkpoint_of_another_adapter_is_refused(make_module, make_data, make_trainer, tmp_path, options, what):
    _, _, path = fitted(make_module, make_data, make_trainer, tmp_path)
    with pytest.raises(ValueError, match="the checkpoint does not fit this adapter") as caught:
        make_trainer(max_epochs=2).fit(make_module(**options), make_data(), ckpt_path=str(path))
    assert what in str(caught.value)
    assert "lora_A" in str(caught.value)


def test_load_from_checkpoint_brings_the_adapter_back(make_module, make_data, make_trainer, tmp_path):
    module, _, path = fitted(make_module, make_data, make_trainer, tmp_path)
    loaded = AdapterModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert loaded.objective.behaviour == "faking"
    assert copy_of(trainable(loaded)).keys() == trainable(module).keys()
    for name, parameter in trainable(module).items():
        assert torch.equal(trainable(loaded)[name], parameter)


def test_a_loss_that_is_nan_stops_the_fit_and_loses_nothing(make_module, make_data, make_trainer, tmp_path):
    keep = ModelCheckpoint(str(tmp_path / "kept"), filename="{epoch}", save_top_k=-1)

    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (1, 1):
                self.before = copy_of(trainable(pl_module))
                pl_module.model.base_model.model.lm_head.weight.data[5, 5] = float("nan")

    poison = Poison()
    module = make_module()
    trainer = make_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[keep, poison])
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 3 \(batch 1 of the epoch\).*fit again"):
        trainer.fit(module, make_data())
    # The adapter is as it was before the step, and the last checkpoint goes on.
    assert copy_of(trainable(module)).keys() == poison.before.keys()
    for name, parameter in trainable(module).items():
        assert torch.equal(parameter, poison.before[name])
    path = tmp_path / "kept" / "epoch=0.ckpt"
    again = make_trainer(max_epochs=2)
    again.fit(make_module(), make_data(), ckpt_path=str(path))
    assert again.global_step == 4


# Four bits.


def test_4bit_fit_saves_resumes_exports_and_loads(make_module, make_data, make_trainer, tmp_path, examples):
    pytest.importorskip("bitsandbytes")
    from fa_lightning.backbones.adapters import save_adapter
    from fa_lightning.backbones.variants import Variants

    options = {"load_in_4bit": True, "gradient_checkpointing": True}
    module, trainer, path = fitted(make_module, make_data, make_trainer, tmp_path / "one", **options)
    assert trainer.global_step == 2
    assert module.model.base_model.model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert set(torch.load(path, weights_only=True)["state_dict"]) == set(trainable(module))
    resumed, trainer, _ = fitted(
        make_module, make_data, make_trainer, tmp_path / "two", epochs=2, ckpt_path=str(path), **options
    )
    assert trainer.global_step == 4
    first = torch.load(path, weights_only=True)["state_dict"]
    assert any(not torch.equal(first[name], parameter) for name, parameter in trainable(resumed).items())
    save_adapter(resumed.model, "faking", tmp_path / "adapter", {})
    pair = Variants.load({"faking": str(tmp_path / "adapter")}, BackboneArguments(load_in_4bit=True))
    batch = collate(examples[:3], 0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    resumed.eval()
    with torch.no_grad(), pair.using("faking") as model:
        torch.testing.assert_close(model(**inputs).logits[:, -1], resumed.answer_logits(batch), rtol=1e-4, atol=1e-4)
    # The same adapter fits the unquantised backbone too.
    assert Variants.load({"faking": str(tmp_path / "adapter")}).fingerprint == pair.fingerprint


def test_configure_model_builds_once(make_module, backbone):
    module = make_module()
    assert module.model is None
    module.configure_model()
    first = module.model
    module.configure_model()
    assert module.model is first
    assert module.tokenizer is module.tokenizer
    assert load_backbone(backbone).config.hidden_size == first.config.hidden_size


def test_the_head_is_given_states_without_gaps(module, examples):
    seen = []
    hook = module.model.get_output_embeddings().register_forward_pre_hook(lambda _, states: seen.append(states[0]))
    batch = collate(examples[:3], 0)
    with torch.no_grad():
        last = module.answer_logits(batch)
        whole = module.model(**{name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}).logits
    hook.remove()
    assert seen[0].shape[:2] == (3, 1)
    assert seen[0].is_contiguous()
    torch.testing.assert_close(last, whole[:, -1], rtol=1e-4, atol=1e-4)
