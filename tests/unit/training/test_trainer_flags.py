"""Trainer flags and the module's own switches that change memory and speed, and not what is learned."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import collate, make_examples
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.training.export import AdapterExport

# 32 prompts in both orders and 6 neutral texts (see `make_data`).
PROMPTS = 38


def adapter_of(module):
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def test_two_halves_accumulated_are_one_big_batch(make_module, make_data, make_trainer):
    adapters, steps, rates = [], [], []
    for batch_size, accumulated in ((PROMPTS, 1), (PROMPTS // 2, 2)):
        pl.seed_everything(0, verbose=False)
        module = make_module(warmup_fraction=0.5)
        trainer = make_trainer(max_epochs=4, accumulate_grad_batches=accumulated)
        trainer.fit(module, make_data(batch_size=batch_size))
        adapters.append(adapter_of(module))
        steps.append(trainer.global_step)
        rates.append(trainer.lr_scheduler_configs[0].scheduler.get_last_lr())
    # One step an epoch, and a schedule over steps, not batches.
    assert steps == [4, 4]
    assert rates[0] == rates[1]
    torch.testing.assert_close(adapters[1], adapters[0], rtol=1e-3, atol=1e-5)
    assert max(tensor.abs().max() for name, tensor in adapters[0].items() if "lora_B" in name) > 0.01


def test_gradient_checkpointing_keeps_less_for_the_backward_pass(make_module, splits, tiny_tokenizer):
    items = counterbalanced(splits.train, both_orders=True)
    batch = collate(make_examples(items, tiny_tokenizer, letter_tokens(tiny_tokenizer)), 0)
    kept, gradients = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        module = make_module(gradient_checkpointing=checkpointing)
        module.configure_model()
        module.log = lambda *args, **options: None
        own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        saved = {}

        def keep(tensor, saved=saved, own=own):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = module.training_step(batch, 0)
        kept.append(sum(saved.values()))
        loss.backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.requires_grad})
    torch.testing.assert_close(gradients[1], gradients[0])
    # Two layers of a tiny model; what is left is the input of each and the last one's logits.
    assert kept[1] < 0.25 * kept[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bf16_mixed_keeps_the_adapter_its_moments_and_its_file_in_float32(
    make_module, make_data, make_trainer, tmp_path, dtype
):
    dtypes = set()

    class Products(pl.Callback):
        """The dtype that the adapter's products are computed in."""

        def on_fit_start(self, trainer, pl_module):
            layer = pl_module.model.base_model.model.model.layers[0].self_attn.q_proj.lora_A["faking"]
            layer.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))

    export = AdapterExport(str(tmp_path / "adapter"))
    keep = ModelCheckpoint(str(tmp_path / "kept"), filename="last")
    module = make_module(dtype=dtype)
    trainer = make_trainer(
        max_epochs=1, precision="bf16-mixed", enable_checkpointing=True, callbacks=[Products(), keep, export]
    )
    trainer.fit(module, make_data())
    assert dtypes == {torch.bfloat16}
    assert {p.dtype for p in module.parameters() if not p.requires_grad} == {getattr(torch, dtype)}
    assert {tensor.dtype for tensor in adapter_of(module).values()} == {torch.float32}
    state = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)
    moments = [moment["exp_avg"] for moment in state["optimizer_states"][0]["state"].values()]
    assert {tensor.dtype for tensor in (*state["state_dict"].values(), *moments)} == {torch.float32}
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert max(tensor.abs().max() for name, tensor in saved.items() if "lora_B" in name) > 0.01


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_leaves_the_widening_of_inputs_out_where_nothing_is_computed_again(
    make_module, make_data, make_trainer, checkpointing
):
    inputs_seen = set()

    def note(module, inputs):
        if module.training:
            inputs_seen.add(inputs[0].dtype)

    class Inputs(pl.Callback):
        """The dtype of what enters an adapter while it learns."""

        def on_fit_start(self, trainer, pl_module):
            layer = pl_module.model.base_model.model.model.layers[1].self_attn.q_proj.lora_A["faking"]
            layer.register_forward_pre_hook(note)

    module = make_module(dtype="bfloat16", gradient_checkpointing=checkpointing)
    make_trainer(max_epochs=1, precision="bf16-mixed", callbacks=[Inputs()]).fit(module, make_data())
    assert inputs_seen == {torch.float32 if checkpointing else torch.bfloat16}


def test_the_export_under_sharding_is_written_from_the_gathered_weights(make_module, tmp_path):
    """`save_adapter` takes the weights it is given and not the model's own, which are cut over the ranks."""
    from fa_lightning.backbones.adapters import read_sidecar, save_adapter

    module = make_module()
    module.configure_model()
    gathered = {name.removeprefix("model."): torch.full_like(p, 0.5) for name, p in adapter_of(module).items()}
    notes = {"behaviour": "faking", "fingerprint": {"weights": "told"}}
    save_adapter(module.model, "faking", tmp_path / "adapter", notes, gathered)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(saved) == len(gathered)
    assert all(torch.equal(tensor, torch.full_like(tensor, 0.5)) for tensor in saved.values())
    assert read_sidecar(tmp_path / "adapter") == notes
