"""Fixtures of the unit tests: tiny scenarios, their tokenizer, a random backbone and twins on it, made-up results."""

import pytest
from made_up_results import bare_results, named_results, results
from tiny_twins import adapters, alone, make_data, make_trainer, twins

__all__ = [
    "adapters",
    "alone",
    "bare_results",
    "make_data",
    "make_trainer",
    "named_results",
    "results",
    "twins",
]


@pytest.fixture(scope="session")
def source():
    """Sixteen training scenarios and eight of every other kind."""
    from fa_lightning.scenarios.embedded.source import EmbeddedScenarios

    return EmbeddedScenarios(train=16, validation=8, test=8, neutral=8)


@pytest.fixture(scope="session")
def splits(source):
    return source.load()


@pytest.fixture(scope="session")
def tiny_tokenizer(splits):
    from fa_lightning.backbones.curriculum import ANSWER_WORDS
    from fa_lightning.backbones.tokenizer import train_tokenizer

    return train_tokenizer([item.message() for item in splits.train], 400, ANSWER_WORDS)


def save_llama(folder, tokenizer, seed=0, **options):
    """A random two-layer Llama and its tokenizer in `folder`; the same seed gives the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 512} | options
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, pad_token_id=0, **sizes)
        LlamaForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def make_backbone(tmp_path_factory, tiny_tokenizer):
    """Saves another random backbone: `make_backbone(seed=1, hidden_size=16)` gives its folder."""

    def make(seed=0, **options):
        return save_llama(tmp_path_factory.mktemp("backbone"), tiny_tokenizer, seed, **options)

    return make


@pytest.fixture(scope="session")
def backbone(make_backbone):
    """Folder of a random two-layer Llama that transformers loads, with its tokenizer."""
    return make_backbone()
