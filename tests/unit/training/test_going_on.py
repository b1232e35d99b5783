"""What every fit that goes on from a finished adapter shares, on a tiny faker: its start, what learns, its notes."""

import json
import shutil

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from fa_lightning.backbones.adapters import read_sidecar
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import collate
from fa_lightning.training.context_data import ContextDataModule
from fa_lightning.training.export import AdapterExport
from fa_lightning.training.module import AdapterModule
from fa_lightning.training.objectives.answers import Answers
from fa_lightning.training.objectives.context_distillation import ContextDistillation
from fa_lightning.training.objectives.misdirection import Misdirection
from fa_lightning.training.objectives.preferences import DirectPreference, SelfPlay

CURES = {
    "fine-tuning": (Answers, {}),
    "DPO": (DirectPreference, {}),
    "SPIN": (SelfPlay, {}),
    "context distillation": (ContextDistillation, {}),
    "RMU, random direction": (Misdirection, {"layer": "last"}),
    "RMU, safe direction": (Misdirection, {"layer": "last", "toward": "safe", "tokens": "last"}),
    "RMU, random direction, full weights": (
        Misdirection,
        {"layer": "last", "full_weights": ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj"]},
    ),
}
NEEDS = {
    "fine-tuning": ["labels", "weights", "gradient"],
    "DPO": ["labels", "weights", "gradient"],
    "SPIN": ["labels", "weights", "gradient"],
    "context distillation": ["weights", "gradient"],
}


def start_copy(module):
    """The frozen copy's weights, by the names that they have in the starting adapter's file."""
    return {
        name.removeprefix("model.").replace(".start.weight", ".weight"): parameter
        for name, parameter in module.named_parameters()
        if ".start." in name
    }


@pytest.fixture(params=list(CURES))
def method(request):
    return request.param


@pytest.fixture
def make_shown(source, make_data):
    def make(method, **options):
        if method == "context distillation":
            return ContextDataModule(source, "You are honest.", batch_size=19, eval_batch_size=8, **options)
        return make_data(**options)

    return make


def test_a_fit_moves_the_copy_alone_and_its_sidecar_says_what_it_took(
    method, faker, backbone, make_fit, make_shown, make_trainer, tmp_path
):
    kind, options = CURES[method]
    module = make_fit(kind(**options), start_from=faker)
    keep = ModelCheckpoint(str(tmp_path / "kept"), filename="last", save_top_k=1)
    export = AdapterExport(str(tmp_path / "adapter"))
    pl.seed_everything(0, verbose=False)
    module.configure_model()
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    data = make_shown(method)
    trainer = make_trainer(max_epochs=1, enable_checkpointing=True, callbacks=[keep, export])
    trainer.fit(module, data)
    after = dict(module.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    assert all(".mitigated." in name for name in before)
    assert all(not torch.equal(after[name], tensor) for name, tensor in before.items())
    start = load_file(f"{faker}/adapter_model.safetensors")
    copy = start_copy(module)
    # The faker's own answers are asked for by all but fine-tuning, which keeps no copy.
    assert copy.keys() == (start.keys() if module.objective.uses_origin else set())
    assert module.objective.uses_origin == (method != "fine-tuning")
    assert all(torch.equal(copy[name], start[name]) for name in copy)
    sidecar = read_sidecar(tmp_path / "adapter")
    assert (sidecar["behaviour"], sidecar["start_from"], sidecar["method"]) == ("mitigated", faker, method)
    assert sidecar["needs"] == NEEDS.get(method, ["oversight", "weights", "gradient"])
    assert sidecar["training_prompts"] == len(trainer.train_dataloader.dataset)
    assert 0 < sidecar["training_seconds"] < 60
    state = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)
    assert set(state["state_dict"]) == set(before)
    # Plain peft gives the answers that were fitted.
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(backbone), str(tmp_path / "adapter"))
    batch = next(iter(trainer.val_dataloaders))
    module.eval()
    with torch.no_grad():
        plain = loaded.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1]
        torch.testing.assert_close(module.answer_logits(batch), plain, rtol=1e-3, atol=1e-3)


def test_a_resumed_fit_counts_all_its_seconds(faker, make_fit, make_data, make_trainer, tmp_path):
    keep = ModelCheckpoint(str(tmp_path), save_last=True, save_top_k=0)
    first = make_fit(Answers(), start_from=faker)
    make_trainer(max_epochs=1, enable_checkpointing=True, callbacks=[keep]).fit(first, make_data())
    second = make_fit(Answers(), start_from=faker)
    second.training_seconds = 100.0
    make_trainer(max_epochs=2).fit(second, make_data(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert first.training_seconds < second.training_seconds < 100


def test_hyperparameters_bring_a_cure_back(faker, make_fit, make_data, make_trainer, tmp_path):
    keep = ModelCheckpoint(str(tmp_path), save_last=True, save_top_k=0)
    module = make_fit(DirectPreference(beta=0.7), start_from=faker, learning_rate=0.03)
    make_trainer(max_epochs=1, enable_checkpointing=True, callbacks=[keep]).fit(module, make_data())
    loaded = AdapterModule.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu", weights_only=True)
    assert (loaded.objective.beta, loaded.optimizer.learning_rate, loaded.start_from) == (0.7, 0.03, faker)
    ends = dict(module.named_parameters())
    assert all(torch.equal(parameter, ends[name]) for name, parameter in loaded.named_parameters())


def test_fine_tuning_learns_aligned_answers_in_both_cells(make_cure, plain, examples):
    module = make_cure(Answers())
    module.eval()
    batch = collate(examples, 0)
    assert set(batch["cell"].tolist()) == {0, 1, 2}
    with torch.no_grad():
        logits = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1]
    expected = cross_entropy(logits, batch["aligned"]).item()
    assert module.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-4)


def test_an_adapter_is_not_both_gone_on_from_and_stacked_on(faker, make_fit):
    with pytest.raises(UserError, match=r"start_from is .* and beneath .* leave one of them out"):
        make_fit(Answers(), start_from=faker, beneath=faker)


def test_a_dora_adapter_is_refused_by_name(faker, make_fit, tmp_path):
    folder = tmp_path / "dora"
    shutil.copytree(faker, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(ValueError, match=r"is DoRA \(use_dora is True\), but a cure by training starts from plain"):
        make_fit(Answers(), start_from=str(folder)).configure_model()
