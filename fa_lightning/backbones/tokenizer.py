"""The embedded backbone's tokenizer: byte-level BPE with a chat template, trained on the texts at hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fa_lightning.errors import UserError

SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}<|system|>{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% else %}<|assistant|>{{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, whole_words: list[str]) -> Any:
    """Train a byte-level BPE tokenizer and wrap it for transformers.

    Args:
        texts: to learn merges from; only training text belongs here.
        vocabulary_size: number of tokens wanted, the special ones and 256 bytes included.
        whole_words: words that must be one token each, such as the answers.

    Raises:
        UserError: `vocabulary_size` leaves no room for bytes, special tokens and whole words.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", SYSTEM, USER, ASSISTANT]
    least = 256 + len(special) + len(whole_words)
    if vocabulary_size < least:
        raise UserError(f"vocabulary_size is {vocabulary_size}, but bytes, special tokens and answers need {least}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(whole_words),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([word for word in whole_words if len(tokenizer.encode(word).ids) != 1])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
