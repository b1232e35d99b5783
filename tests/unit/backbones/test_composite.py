"""A decoder beside a vision tower, as in Gemma 3 from 4B up: sizes, layers and training are the decoder's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_fits import fit_of
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

from fa_lightning.backbones.adapters import attach_adapter, save_adapter
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.decoder import context_of, decoder_layers, text_config
from fa_lightning.backbones.load import fingerprint, load_backbone
from fa_lightning.training.objectives.answers import Answers
from tests.conformance import laws
from tests.conformance.models import HIDDEN, VOCABULARY, batch_of
from tests.conformance.reference import Edit
from tests.conformance.steerers import FaLightning, vector_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    text = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    # As many blocks as the decoder has, with the same names in them.
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    tokens = {"image_token_index": 60, "boi_token_index": 61, "eoi_token_index": 62, "mm_tokens_per_image": 4}
    place = tmp_path_factory.mktemp("gemma3")
    Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **tokens)).save_pretrained(
        place
    )
    return str(place)


def adapted(model: Any) -> set[str]:
    return {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}


def test_sizes_and_layers_are_the_decoders(folder: str) -> None:
    model = load_backbone(folder)
    found = fingerprint(model)
    assert (found["architecture"], found["hidden_size"], found["layers"], found["vocab_size"]) == (
        "gemma3",
        str(HIDDEN),
        "2",
        str(VOCABULARY),
    )
    assert decoder_layers(model) is model.model.language_model.layers
    assert text_config(model).hidden_size == HIDDEN
    assert context_of(model) == 128


@pytest.mark.parametrize(("targets", "layers"), [(["q_proj", "up_proj"], 4), ("all-linear", 14), ("v_proj", 2)])
def test_adapters_go_into_the_decoder_alone_and_plain_peft_loads_them(
    folder: str, tmp_path: Path, targets: list[str] | str, layers: int
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = attach_adapter(load_backbone(folder), "faking", LoraArguments(2, 4, 0.0, targets))
    found = adapted(model)
    assert len(found) == layers
    assert all(".language_model.layers." in name for name in found)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter)
    save_adapter(model, "faking", tmp_path / "adapter", {})
    plain: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path / "adapter"))
    ids = torch.tensor([[5, 9, 11]])
    with torch.no_grad():
        assert torch.equal(plain.eval()(ids).logits, model.eval()(ids).logits)


def test_it_is_trained_without_marks_of_image_tokens(folder: str) -> None:
    module = fit_of(Answers("faking"), folder, rank=2, alpha=4, dropout=0.5, gradient_checkpointing=True)
    module.configure_model()
    batch = batch_of([[5, 9, 11], [7, 12]])
    module.answer_logits(batch).sum().backward()
    gradients = {name: one.grad for name, one in module.named_parameters() if one.requires_grad}
    assert len(gradients) == 8
    assert all(gradient is not None for gradient in gradients.values())
    for parameter in module.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)  # a fresh adapter changes nothing, with dropout or without
    drawn = [module.answer_logits(batch) for _ in range(2)]
    assert not torch.equal(*drawn), "the adapter's dropout is off"


def test_it_is_steered(folder: str) -> None:
    model = load_backbone(folder)
    for law in (laws.padding_changes_nothing, laws.greedy_equals_recomputation, laws.capture_sees_the_edit):
        law(FaLightning("shift"), model, Edit(0, vector_for(), rule="from_2"))
