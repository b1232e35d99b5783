"""Ids and positions that the model's tables do not hold are told before a pass ends in an index error."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from fa_lightning.backbones.decoder import context_of, has_position_table
from fa_lightning.backbones.load import load_tokenizer
from fa_lightning.backbones.template_command import main
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import make_examples
from fa_lightning.scenarios.limits import Tables, ids_within, tables_of
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.steering.text_comparison import Sampling, write_tokens
from fa_lightning.training.ordinary_tokens import ordinary_tokens
from tests.conformance.models import FAMILIES, make_model


@pytest.fixture
def padded(backbone: str, tmp_path: Path) -> Path:
    """A model whose tokenizer got a padding token of its own, one past the rows."""
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    AutoModelForCausalLM.from_pretrained(backbone).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_padding_token_one_past_the_rows_is_refused_and_template_tells(padded: Path, capsys) -> None:
    tokenizer = load_tokenizer(str(padded))
    rows = tables_of(tokenizer).ids
    assert tokenizer.pad_token_id == rows
    with pytest.raises(
        ValueError, match=rf"'\[PAD\]' has the id {rows}, but the model's embedding has {rows} rows \(0 to"
    ):
        prompt_ids(tokenizer, "Hello")
    assert main(["--backbone", str(padded)]) == 1
    assert f"has the id {rows}, but" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_was_given_a_row_for_it_is_fine(padded: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(padded)
    model.resize_token_embeddings(model.config.vocab_size + 1)
    model.save_pretrained(padded)
    assert prompt_ids(load_tokenizer(str(padded)), "Hello")


def test_a_word_without_a_row_is_never_put_into_a_prompt(backbone: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    known = len(tokenizer)
    assert tokenizer.add_tokens(["zebra", "quagga"]) == 2
    AutoModelForCausalLM.from_pretrained(backbone).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert ids_within(tokenizer) == range(known + 2)
    loaded = load_tokenizer(str(tmp_path))
    assert len(loaded) == known + 2
    assert ids_within(loaded) == range(known)
    assert set(ordinary_tokens(tokenizer)) - set(ordinary_tokens(loaded)) == {known, known + 1}


def test_a_tokenizer_alone_is_asked_nothing(backbone: str, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(backbone).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tables_of(tokenizer) == Tables()
    assert prompt_ids(tokenizer, "Hello")


def test_prompts_beyond_the_positions_are_refused_and_template_tells(make_backbone, splits, capsys) -> None:
    folder = make_backbone(max_position_embeddings=64)
    tokenizer = load_tokenizer(folder)
    answers = letter_tokens(tokenizer)
    longest = max(len(prompt_ids(tokenizer, item.message())) for item in splits.train)
    assert longest > 64
    with pytest.raises(ValueError, match=rf"longest prompt has {longest} tokens, but the model has positions for 64 "):
        make_examples(splits.train, tokenizer, answers, max_tokens=1024)
    # What max_tokens leaves out needs no position.
    short = [item for item in splits.neutral_train if len(prompt_ids(tokenizer, item.message())) <= 64]
    assert make_examples([*short, splits.train[0]], tokenizer, answers, max_tokens=64)
    assert main(["--backbone", folder]) == 1
    assert "max_position_embeddings is 64" in " ".join(capsys.readouterr().out.split())


def test_writing_beyond_the_positions_is_refused_and_up_to_them_it_is_not() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=2, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval()
    prompts = [[5] * 12, [7] * 3]
    # The last token that is written is not read.
    assert write_tokens(model, prompts, 0, [], Sampling(5)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"longest prompt has 12 tokens, and 6 are to be written .* positions for 16"):
        write_tokens(model, prompts, 0, [], Sampling(6))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_with_a_table_of_positions_ends_in_an_index_error_beyond_it(family: str) -> None:
    model = make_model(family)
    ids = torch.zeros(1, context_of(model) + 8, dtype=torch.long)
    assert has_position_table(model) == (family in ("gpt2", "opt"))
    if has_position_table(model):
        with pytest.raises(IndexError):
            model(ids)
