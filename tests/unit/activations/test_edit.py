"""Running from a layer on equals running it all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_twins import blocks_run
from torch import Tensor

from fa_lightning.activations.capture import capture
from fa_lightning.activations.edit import block_outputs, edited, layer_below, resumed
from fa_lightning.activations.sites import Site
from fa_lightning.training.states import recorded_states


def model_of(family: str) -> Any:
    from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, GPT2Config, LlamaConfig, OPTConfig

    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    configs: dict[str, Any] = {
        "llama": lambda: LlamaConfig(**common, intermediate_size=32),
        "gpt2": lambda: GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_positions=32),
        "opt": lambda: OPTConfig(**common, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=32),
        "bloom": lambda: BloomConfig(vocab_size=50, hidden_size=16, n_layer=3, n_head=2),
        "falcon": lambda: FalconConfig(**common, alibi=False),
    }
    return AutoModelForCausalLM.from_config(configs[family]()).eval()


def inputs() -> dict[str, Tensor]:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    ids = torch.randint(1, 50, (2, 5), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bloom", "falcon"])
def test_resuming_gives_the_same_logits_and_leaves_nothing_behind(family: str) -> None:
    model, batch = model_of(family), inputs()
    with torch.no_grad():
        with block_outputs(model, [0, 1]) as outputs:
            whole = model(**batch, use_cache=False).logits
        for layer in (0, 1):
            with resumed(model, layer, outputs[layer]), capture(model, [Site(2)], stop=False) as above:
                part = model(**batch, use_cache=False).logits
            torch.testing.assert_close(part, whole, rtol=0, atol=0)
            assert above["layers.2.residual"].shape[:2] == (2, 5)
        other = {**batch, "input_ids": batch["input_ids"].flip(1)}
        fresh = model(**other, use_cache=False).logits
    assert not torch.allclose(fresh, whole), "the blocks run again"


def test_blocks_that_lend_their_keys_and_values_to_others_run_all_the_same() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    sizes = {"vocab_size": 50, "vocab_size_per_layer_input": 50, "hidden_size": 16, "hidden_size_per_layer_input": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 32}
    config = AutoConfig.for_model(
        "gemma4_text", num_hidden_layers=5, num_kv_shared_layers=3, layer_types=kinds, **sizes, **heads
    )
    model, batch = AutoModelForCausalLM.from_config(config).eval(), inputs()
    with torch.no_grad():
        with block_outputs(model, range(5)) as outputs, edited(model, Site(4), lambda states: states + 1):
            whole = model(**batch, use_cache=False).logits
        for layer in range(4):
            with resumed(model, layer, outputs[layer]), edited(model, Site(4), lambda states: states + 1):
                torch.testing.assert_close(model(**batch, use_cache=False).logits, whole, rtol=0, atol=0)


def test_the_skipped_blocks_do_not_run() -> None:
    model, batch = model_of("llama"), inputs()
    with torch.no_grad(), block_outputs(model, [1]) as outputs:
        model(**batch)
    with resumed(model, 1, outputs[1]):
        assert blocks_run(model, lambda: model(**batch)) == [2]
    with pytest.raises(KeyError), resumed(model, 1, outputs[1]):
        raise KeyError
    assert blocks_run(model, lambda: model(**batch)) == [0, 1, 2]


def test_a_layer_that_is_not_there_leaves_no_hook_on_those_that_are() -> None:
    model = model_of("llama")
    for block in (block_outputs(model, [0, 9]), recorded_states(model.model.layers, [0, 9])):
        with pytest.raises(IndexError), block:
            pass
    assert not any(layer._forward_hooks for layer in model.model.layers)


def test_an_edit_at_the_resumed_layer_acts_and_passes_gradients() -> None:
    model, batch = model_of("llama"), inputs()
    model.requires_grad_(False)
    shift = torch.zeros(16, requires_grad=True)

    def loss() -> Tensor:
        with edited(model, Site(1), lambda states: states + shift):
            return model(**batch, use_cache=False).logits.square().sum()

    with torch.no_grad(), block_outputs(model, [1]) as outputs:
        model(**batch, use_cache=False)
    (whole,) = torch.autograd.grad(loss(), shift)
    with resumed(model, 1, outputs[1]):
        (part,) = torch.autograd.grad(loss(), shift)
    torch.testing.assert_close(part, whole)
    assert whole.abs().sum() > 0


def test_the_layer_below_a_part_of_a_block_is_the_one_before() -> None:
    assert [layer_below(Site(2, part)) for part in ("residual", "attention", "mlp")] == [2, 1, 1]  # type: ignore[arg-type]
