"""The laws of steering, on two-layer random models of three families.

Each test holds what a user may rely on whatever the model: batches, padding, the KV cache and beams change nothing
about an edit, and nothing of it is left behind. The reference is a hook written here that is told the columns to edit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa_lightning.activations.capture import capture
from fa_lightning.activations.sites import Site, module_at
from fa_lightning.interventions.intervention import Intervention, steering
from fa_lightning.regressors.maps import Affine, Identity, MeanShift, NormMatchedRandom, Regressor, ResidualMLP

HIDDEN, VOCABULARY, NEW_TOKENS = 32, 64, 5
RULES = ["all", "last", "generated", "from_2", "from_6"]
PROMPTS = [[5, 9, 11, 3, 17, 8], [7, 12], [21, 4, 6, 30], [2, 40, 41, 42, 43]]


def make_model(family: str, hidden: int = HIDDEN) -> Any:
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
    )

    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    wide = common | {"hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**wide, num_key_value_heads=2, initializer_range=0.3)).eval()
    if family == "neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**wide, initializer_range=0.3)).eval()
    narrow = common | {"n_embd": hidden, "n_layer": 2, "n_head": 4, "n_positions": 64, "tie_word_embeddings": False}
    return GPT2LMHeadModel(GPT2Config(**narrow, initializer_range=0.3)).eval()


@pytest.fixture(scope="module", params=["llama", "gpt2", "neox"])
def model(request: pytest.FixtureRequest) -> Any:
    return make_model(request.param)


@pytest.fixture(scope="module")
def llama() -> Any:
    return make_model("llama")


def mlp_map() -> Regressor:
    torch.manual_seed(1)
    regressor = ResidualMLP(HIDDEN, width=16, dropout=0.5)
    nn.init.normal_(regressor.layers[-1].weight, std=0.5)
    return regressor


def affine_map() -> Regressor:
    torch.manual_seed(2)
    regressor = Affine(HIDDEN)
    regressor.weight.add_(0.2 * torch.randn(HIDDEN, HIDDEN))
    regressor.bias.add_(torch.randn(HIDDEN))
    return regressor


def shift_map() -> Regressor:
    torch.manual_seed(3)
    regressor = MeanShift(HIDDEN)
    regressor.shift.add_(2 * torch.randn(HIDDEN))
    return regressor


def make_edit(rule: str, regressor: Regressor | None = None, layer: int = 0, strength: float = 0.7) -> Intervention:
    return Intervention(Site(layer, positions=rule), regressor or mlp_map(), strength)


def batch_of(prompts: list[list[int]], side: str = "left", extra: int = 0) -> dict[str, Tensor]:
    """Prompts as a batch, padded on a side, with `extra` columns of padding more than needed."""
    longest = max(map(len, prompts)) + extra
    ids, mask = torch.zeros(2, len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        columns = slice(longest - len(prompt), None) if side == "left" else slice(0, len(prompt))
        ids[row, columns] = torch.tensor(prompt)
        mask[row, columns] = 1
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def logits_at_last_token(model: Any, batch: dict[str, Tensor], **options: Any) -> Tensor:
    """Logits after each row's last real token, (batch, vocabulary)."""
    columns = (batch["attention_mask"] * torch.arange(1, batch["attention_mask"].shape[1] + 1)).argmax(1)
    with torch.no_grad():
        return model(**batch, **options).logits[torch.arange(len(columns)), columns]


def generate(model: Any, batch: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    """Greedy new tokens (batch, tokens) and the logits that chose them (batch, tokens, vocabulary)."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    settings = {
        "max_new_tokens": NEW_TOKENS,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    output = model.generate(**inputs, **(settings | options))
    return output.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(output.logits, dim=1)


@contextmanager
def edited_columns(model: Any, edit: Intervention, columns: Tensor) -> Iterator[None]:
    """The reference: the edit on the columns (batch, tokens) that one says, and no cleverness."""
    edit.regressor.eval()

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        new = hidden + edit.strength * (edit.regressor(hidden) - hidden)
        new = torch.where(columns[..., None], new, hidden)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module_at(model, edit.site).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def recomputed(model: Any, edit: Intervention, prompt: list[int]) -> tuple[Tensor, Tensor]:
    """Greedy generation of one prompt with everything recomputed at each step and the edited columns spelt out."""
    tokens, logits = list(prompt), []
    for _ in range(NEW_TOKENS):
        position = torch.arange(len(tokens))
        covered = {
            "all": position >= 0,
            "last": position >= len(prompt) - 1,
            "generated": position >= len(prompt),
            "from_2": position >= 2,
            "from_6": position >= 6,
        }[edit.site.positions]
        with edited_columns(model, edit, covered[None]), torch.no_grad():
            logits.append(model(torch.tensor([tokens]), use_cache=False).logits[0, -1])
        tokens.append(int(logits[-1].argmax()))
    return torch.tensor(tokens[len(prompt) :]), torch.stack(logits)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=2e-4, atol=2e-4)


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_forward_pass_does_not_depend_on_batch_or_padding(model: Any, rule: str, side: str) -> None:
    edit = make_edit(rule)
    with edit.on(model):
        single = torch.cat([logits_at_last_token(model, batch_of([prompt])) for prompt in PROMPTS])
        close(logits_at_last_token(model, batch_of(PROMPTS, side)), single)
        close(logits_at_last_token(model, batch_of(PROMPTS[:3], side, extra=3)), single[:3])
    plain = logits_at_last_token(model, batch_of(PROMPTS))
    changed = (single - plain).abs().amax(1) > 1e-2
    # from_2 does not reach the prompt of two tokens, from_6 none of them, generated no prompt.
    expected = {"generated": [False] * 4, "from_2": [True, False, True, True], "from_6": [False] * 4}
    assert changed.tolist() == expected.get(rule, [True] * 4)


@pytest.mark.parametrize("rule", RULES)
def test_generation_does_not_depend_on_batch_or_padding(model: Any, rule: str) -> None:
    with make_edit(rule).on(model):
        tokens, logits = generate(model, batch_of(PROMPTS))
        wide_tokens, wide_logits = generate(model, batch_of(PROMPTS, extra=4))
        for row, prompt in enumerate(PROMPTS):
            single_tokens, single_logits = generate(model, batch_of([prompt]))
            assert torch.equal(tokens[row], single_tokens[0])
            close(logits[row], single_logits[0])
    assert torch.equal(tokens, wide_tokens)
    close(logits, wide_logits)


def test_masks_without_position_ids_count_real_tokens_too(llama: Any) -> None:
    # Rotary positions are relative, so Llama gives the same logits whether or not it is told of the padding.
    batch = batch_of(PROMPTS, extra=3)
    with make_edit("from_2").on(llama):
        expected = logits_at_last_token(llama, batch)
        close(logits_at_last_token(llama, {name: batch[name] for name in ("input_ids", "attention_mask")}), expected)


def test_a_row_does_not_depend_on_the_others(model: Any) -> None:
    batch = batch_of(PROMPTS)
    other = {name: value.clone() for name, value in batch.items()}
    other["input_ids"][1:] = other["input_ids"][1:].flip(0)
    other["attention_mask"][1:] = other["attention_mask"][1:].flip(0)
    other["position_ids"][1:] = other["position_ids"][1:].flip(0)
    for rule in RULES:
        with make_edit(rule).on(model):
            close(logits_at_last_token(model, batch)[0], logits_at_last_token(model, other)[0])


def test_padding_is_never_edited(model: Any) -> None:
    batch = batch_of(PROMPTS, extra=2)
    site = Site(0)
    with torch.no_grad():
        with capture(model, [site]) as plain:
            model(**batch)
        for rule in RULES:
            with make_edit(rule).on(model), capture(model, [site]) as steered:
                model(**batch)
            padding = batch["attention_mask"] == 0
            assert torch.equal(steered[site.name][padding], plain[site.name][padding])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make_map", [mlp_map, affine_map, shift_map])
def test_cached_generation_equals_recomputation(model: Any, rule: str, make_map: Any) -> None:
    edit = make_edit(rule, make_map())
    with edit.on(model):
        tokens, logits = generate(model, batch_of(PROMPTS[:2]))
    plain, _ = generate(model, batch_of(PROMPTS[:2]))
    assert not torch.equal(tokens, plain)
    for row, prompt in enumerate(PROMPTS[:2]):
        expected_tokens, expected_logits = recomputed(model, edit, prompt)
        assert torch.equal(tokens[row], expected_tokens)
        close(logits[row], expected_logits)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "options",
    [{"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 3}],
    ids=["uncached", "static", "chunked"],
)
def test_every_kind_of_cache_gives_the_same(model: Any, rule: str, options: dict[str, Any]) -> None:
    edit, batch = make_edit(rule), batch_of(PROMPTS)
    with edit.on(model):
        tokens, logits = generate(model, batch)
    needs_prompts = "cache_implementation" not in options
    with edit.on(model, prompt_tokens=batch["attention_mask"].sum(1) if needs_prompts else None):
        other_tokens, other_logits = generate(model, batch, **options)
    assert torch.equal(tokens, other_tokens)
    close(logits, other_logits)


def test_generated_without_a_cache_warns_that_it_does_nothing(llama: Any) -> None:
    with make_edit("generated").on(llama), pytest.warns(UserWarning, match="runs without a cache") as caught:
        generate(llama, batch_of(PROMPTS), use_cache=False)
    assert len([warning for warning in caught if "without a cache" in str(warning.message)]) == 1
    with make_edit("last").on(llama), warnings.catch_warnings():
        warnings.simplefilter("error")
        logits_at_last_token(llama, batch_of(PROMPTS), use_cache=False)


@pytest.mark.parametrize("rule", RULES)
def test_beams_equal_their_recomputation(model: Any, rule: str) -> None:
    edit, batch = make_edit(rule), batch_of(PROMPTS)
    options = {"num_beams": 3, "max_new_tokens": 4, "output_scores": True, "return_dict_in_generate": True}
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with edit.on(model):
        cached = model.generate(**inputs, **options)
    with edit.on(model, prompt_tokens=batch["attention_mask"].sum(1)):
        uncached = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    close(cached.sequences_scores, uncached.sequences_scores)
    plain = model.generate(**inputs, **options)
    assert not torch.allclose(cached.sequences_scores, plain.sequences_scores, atol=1e-3)


def test_beams_equal_a_hand_written_hook(model: Any) -> None:
    edit, batch = make_edit("all"), batch_of([PROMPTS[0], PROMPTS[0][::-1]])
    options = {"num_beams": 3, "max_new_tokens": 4, "return_dict_in_generate": True, "output_scores": True}
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with edit.on(model):
        steered = model.generate(**inputs, **options)
    with edited_columns(model, edit, torch.ones(1, 1, dtype=torch.bool)):
        expected = model.generate(**inputs, **options)
    assert torch.equal(steered.sequences, expected.sequences)
    close(steered.sequences_scores, expected.sequences_scores)


def test_a_hand_written_decoding_loop_is_steered(model: Any) -> None:
    edit = make_edit("generated")
    expected, _ = recomputed(model, edit, PROMPTS[0])
    ids, cache, tokens = torch.tensor([PROMPTS[0]]), None, []
    with edit.on(model), torch.inference_mode():
        for _ in range(NEW_TOKENS):
            output = model(ids, past_key_values=cache, use_cache=True)
            ids, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
            tokens.append(int(ids))
    assert tokens == expected.tolist()


def test_hooks_are_gone_after_the_block_and_after_errors(model: Any) -> None:
    batch = batch_of(PROMPTS)
    plain, before = logits_at_last_token(model, batch), hooks_of(model)
    with make_edit("all").on(model):
        assert hooks_of(model) == before + 2
    with pytest.raises(KeyError), make_edit("all").on(model):
        raise KeyError("inside the block")

    class Broken(MeanShift):
        name = "broken"

        def constant_edit(self) -> None:  # type: ignore[override]
            return None

        def forward(self, h: Tensor) -> Tensor:
            raise RuntimeError("broken map")

    with pytest.raises(RuntimeError, match="broken map"), make_edit("all", Broken(HIDDEN)).on(model):
        model(**batch)
    assert hooks_of(model) == before
    assert torch.equal(logits_at_last_token(model, batch), plain)


def test_an_intervention_that_does_not_fit_leaves_no_hook(model: Any) -> None:
    before = hooks_of(model)
    edits = [make_edit("all"), make_edit("all", layer=2)]
    with (
        pytest.raises(ValueError, match=r"site.layer is 2, but the backbone has 2 layers \(0 to 1\)"),
        steering(model, edits),
    ):
        pass
    with (
        pytest.raises(ValueError, match="hidden_size is 16, but the model's hidden states have 32 units"),
        make_edit("all", Affine(16)).on(model),
    ):
        pass
    assert hooks_of(model) == before


def test_strength_zero_and_the_identity_are_exact_and_free(model: Any) -> None:
    batch = batch_of(PROMPTS)
    plain, before = logits_at_last_token(model, batch), hooks_of(model)
    for edit in (make_edit("all", strength=0.0), make_edit("all", Identity(HIDDEN))):
        with edit.on(model):
            assert hooks_of(model) == before
            assert torch.equal(logits_at_last_token(model, batch), plain)


def test_several_interventions_and_nested_blocks_apply_in_order(model: Any) -> None:
    first, second, third = make_edit("all", affine_map()), make_edit("last"), make_edit("all", shift_map(), layer=1)
    batch, site = batch_of([PROMPTS[0]]), Site(0)
    with capture(model, [site]) as plain, torch.no_grad():
        model(**batch)
    hidden = plain[site.name]
    hidden = hidden + 0.7 * (first.regressor(hidden) - hidden)
    second.regressor.eval()
    hidden[:, -1] += 0.7 * (second.regressor(hidden[:, -1]) - hidden[:, -1])
    with steering(model, [first, second, third]), capture(model, [site, Site(1)], stop=False) as together:
        logits = logits_at_last_token(model, batch)
    close(together[site.name], hidden)
    with first.on(model), steering(model, [second]), third.on(model):
        close(logits_at_last_token(model, batch), logits)
    with steering(model, [second, first, third]):
        assert not torch.allclose(logits_at_last_token(model, batch), logits, atol=1e-2)
    with steering(model, []):
        assert not torch.allclose(logits_at_last_token(model, batch), logits, atol=1e-2)


def test_capture_inside_the_block_sees_steered_states_and_outside_unsteered_ones(model: Any) -> None:
    batch, site, shift = batch_of(PROMPTS), Site(0), torch.arange(HIDDEN, dtype=torch.float32)
    real = batch["attention_mask"].bool()
    with torch.no_grad(), capture(model, [site]) as plain:
        model(**batch)
    with torch.no_grad(), Intervention(site, shift, 0.5).on(model), capture(model, [site]) as steered:
        model(**batch)
    # Exact: one addition in float32.
    assert torch.equal(steered[site.name][real], plain[site.name][real] + 0.5 * shift)


@pytest.mark.parametrize("component", ["attention", "mlp"])
def test_components_are_edited_at_their_own_output(model: Any, component: Any) -> None:
    batch, site = batch_of([PROMPTS[0]]), Site(1, component)
    shift = torch.arange(HIDDEN, dtype=torch.float32)
    with torch.no_grad(), capture(model, [site, Site(1)]) as plain:
        model(**batch)
    with torch.no_grad(), Intervention(site, shift).on(model), capture(model, [site, Site(1)]) as steered:
        model(**batch)
    assert torch.equal(steered[site.name], plain[site.name] + shift)
    if component == "mlp":  # nothing in the block comes after the MLP
        close(steered["layers.1.residual"], plain["layers.1.residual"] + shift)


@pytest.mark.parametrize("rule", ["all", "last"])
def test_gradients_flow_through_the_edit(rule: str) -> None:
    model, batch = make_model("llama"), batch_of(PROMPTS)
    edit = make_edit(rule, affine_map(), strength=0.7)
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    inputs = {"attention_mask": batch["attention_mask"], "position_ids": batch["position_ids"]}

    def loss(embedded: Tensor) -> Tensor:
        return model(inputs_embeds=embedded, **inputs).logits[:, -1].square().mean()

    with edit.on(model):
        loss(embeddings).backward()
        direction = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
        with torch.no_grad():
            rise = loss(embeddings + direction) - loss(embeddings - direction)
    assert embeddings.grad is not None
    torch.testing.assert_close((embeddings.grad * direction).sum() * 2, rise, rtol=2e-2, atol=1e-5)
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        model, batch = make_model("llama").train(), batch_of(PROMPTS)
        if checkpointing:
            model.gradient_checkpointing_enable()
        with make_edit("last").on(model):
            model(**batch, use_cache=False).logits[:, -1].square().mean().backward()
        gradients.append(model.model.embed_tokens.weight.grad)
    close(gradients[1], gradients[0])


@pytest.mark.parametrize("rule", ["all", "last"])
@pytest.mark.parametrize("make_map", [mlp_map, shift_map])
def test_a_bfloat16_model_stays_bfloat16(rule: str, make_map: Any) -> None:
    model, edit, batch = make_model("llama").bfloat16(), make_edit(rule, make_map()), batch_of(PROMPTS)
    with torch.no_grad(), capture(model, [Site(0)]) as plain:
        model(**batch)
    with torch.no_grad(), edit.on(model), capture(model, [Site(0), Site(1)], stop=False) as steered:
        assert model(**batch).logits.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in steered.values()} == {torch.bfloat16}
    hidden = plain["layers.0.residual"][:, -1].float()
    edit.regressor.eval()
    expected = (hidden + 0.7 * (edit.regressor(hidden) - hidden)).bfloat16()
    torch.testing.assert_close(steered["layers.0.residual"][:, -1], expected, rtol=1e-2, atol=1e-2)
    with edit.on(model):
        assert generate(model, batch)[0].shape == (len(PROMPTS), NEW_TOKENS)


# bitsandbytes packs blocks of 64 weights, so the model is that wide.
def test_a_four_bit_model_is_steered(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make_model("llama", hidden=64).save_pretrained(tmp_path)
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantised, dtype=torch.float32)
    regressor = MeanShift(64)
    regressor.shift.copy_(torch.linspace(-3, 3, 64))
    edit, batch = make_edit("all", regressor), batch_of(PROMPTS)
    plain = logits_at_last_token(model, batch)
    with edited_columns(model, edit, batch["attention_mask"].bool()):
        expected = logits_at_last_token(model, batch)
    with edit.on(model):
        steered = logits_at_last_token(model, batch)
        assert generate(model, batch)[0].shape == (len(PROMPTS), NEW_TOKENS)
    close(steered, expected)
    assert not torch.allclose(steered, plain, atol=1e-1)


def test_adapters_are_steered_alike_and_can_be_swapped_inside_the_block() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model: Any = get_peft_model(make_model("llama"), config, adapter_name="aligned")
    model.add_adapter("faking", config)
    model.eval()
    edit, batch = make_edit("all"), batch_of(PROMPTS)
    columns = batch["attention_mask"].bool()
    expected = {}
    for adapter in ("aligned", "faking"):
        model.set_adapter(adapter)
        with edited_columns(model, edit, columns):
            expected[adapter] = logits_at_last_token(model, batch)
    assert not torch.allclose(expected["aligned"], expected["faking"], atol=1e-2)
    with edit.on(model):
        for adapter in ("faking", "aligned"):
            model.set_adapter(adapter)
            close(logits_at_last_token(model, batch), expected[adapter])
        tokens, _ = generate(model, batch)
        single, _ = generate(model, batch_of(PROMPTS[1:2]))
    assert torch.equal(tokens[1], single[0])


def test_the_random_baseline_moves_the_model_as_far_at_the_site(llama: Any) -> None:
    batch, site = batch_of(PROMPTS), Site(0)
    with torch.no_grad(), capture(llama, [site]) as plain:
        llama(**batch)
    edits = []
    for regressor in (mlp_map(), NormMatchedRandom(mlp_map(), seed=4)):
        with torch.no_grad(), make_edit("all", regressor).on(llama), capture(llama, [site]) as steered:
            llama(**batch)
        edits.append(steered[site.name] - plain[site.name])
    close(edits[0].norm(dim=-1), edits[1].norm(dim=-1))
    assert not torch.allclose(edits[0], edits[1], atol=1e-2)
