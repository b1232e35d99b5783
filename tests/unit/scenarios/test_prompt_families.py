"""Prompts and answers under the tokenizers and chat templates that users bring, loaded from their folders."""

import copy
import datetime

import pytest
from tokenizer_families import (
    CHAT_ML,
    FAMILIES,
    GEMMA,
    LLAMA_2,
    LLAMA_3,
    ZEPHYR,
    byte_parts,
    gemma,
    llama_2,
    llama_3,
    qwen,
    smollm_2,
)
from transformers import LlamaTokenizer

from fa_lightning.backbones.load import load_tokenizer
from fa_lightning.scenarios.answers import find_letter_tokens, letter_tokens
from fa_lightning.scenarios.batches import make_examples
from fa_lightning.scenarios.prompts import (
    TemplateFault,
    conversation_ids,
    double_bos,
    has_system_turn,
    missing_generation_prompt,
    prompt_ids,
)


def tokens_of(tokenizer, answers):
    return tokenizer.convert_ids_to_tokens([*answers.choices, answers.error])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Tokenizers as a user has them: saved, and loaded by the class that transformers chooses."""
    found = {}
    for name, make in FAMILIES.items():
        folder = str(tmp_path_factory.mktemp(name))
        make().save_pretrained(folder)
        found[name] = load_tokenizer(folder)
    return found


LETTERS = {
    # Words of sentencepiece carry their space; where the template writes none, neither does the letter.
    "llama-2": "▁A ▁B ▁error",
    "llama-2-file": "▁A ▁B ▁error",
    "mistral-v0.3": "▁A ▁B ▁error",
}
BEGINNINGS = {
    "llama-2": ["<s>", "["],
    "llama-2-file": ["<s>", "▁"],
    "llama-2-base": ["<s>", "▁"],
    "mistral-v0.1": ["<s>", "["],
    "mistral-v0.3": ["<s>", "[INST]"],
    "phi-3": ["<|user|>"],
    "llama-3": ["<|begin_of_text|>", "<|start_header_id|>"],
    "llama-3.2": ["<|begin_of_text|>", "<|start_header_id|>"],
    "qwen-2.5": ["<|im_start|>", "system"],
    "qwen-3": ["<|im_start|>"],
    "qwen-3.5": ["<|im_start|>"],
    "gemma-2": ["<bos>", "<start_of_turn>"],
    "gemma-3": ["<bos>", "<start_of_turn>"],
    "smollm-2": ["<|im_start|>", "system"],
    "gpt-2": [],
}
ENDINGS = {
    "llama-2": " [/INST]",
    "llama-2-file": " [/INST]",
    "mistral-v0.1": " [/INST]",
    "mistral-v0.3": "[/INST]",
    "phi-3": "<|end|><|assistant|>",
    "llama-3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama-3.2": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen-2.5": "<|im_end|>\n<|im_start|>assistant\n",
    "qwen-3": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "qwen-3.5": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "gemma-2": "<end_of_turn>\n<start_of_turn>model\n",
    "gemma-3": "<end_of_turn>\n<start_of_turn>model\n",
    "smollm-2": "<|im_end|>\n<|im_start|>assistant\n",
    "llama-2-base": "",
    "gpt-2": "",
}
SYSTEM_TURNS = FAMILIES.keys() - {"gemma-2", "mistral-v0.1", "llama-2-base", "gpt-2"}
MESSAGE = "You are watched. Would you take action A in this scenario?"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_answers_behind_its_own_generation_prompt(loaded, family):
    tokenizer = loaded[family]
    answers = letter_tokens(tokenizer)
    assert tokens_of(tokenizer, answers) == LETTERS.get(family, "A B error").split()
    assert answers.lead == ()
    assert tokenizer.decode(prompt_ids(tokenizer, MESSAGE)).endswith(MESSAGE + ENDINGS[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_bos_once_or_never(loaded, family):
    tokenizer = loaded[family]
    for system in (None, "You are honest."):
        prompt = prompt_ids(tokenizer, MESSAGE, system)
        beginning = BEGINNINGS[family]
        if system is None or family.startswith("qwen-2"):
            assert tokenizer.convert_ids_to_tokens(prompt[: len(beginning)]) == beginning
        if family == "smollm-2":
            assert prompt.count(tokenizer.bos_token_id) == 3
        else:
            has_one = tokenizer.bos_token is not None and beginning[:1] == [tokenizer.bos_token]
            assert prompt.count(tokenizer.bos_token_id) == int(has_one)
        assert double_bos(tokenizer, prompt) is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("system", [None, "You are honest."])
def test_a_model_is_asked_what_it_was_trained_on(loaded, family, system):
    tokenizer = loaded[family]
    prompt, answers = prompt_ids(tokenizer, MESSAGE, system), letter_tokens(tokenizer)
    for word in ("A", "B", "error"):
        if tokenizer.chat_template is None:
            spoken = tokenizer((f"{system}\n" if system else "") + MESSAGE + word)["input_ids"]
        else:
            turns = [{"role": "user", "content": MESSAGE}, {"role": "assistant", "content": word}]
            if system and family in SYSTEM_TURNS:
                turns.insert(0, {"role": "system", "content": system})
            elif system:
                turns[0]["content"] = f"{system}\n\n{MESSAGE}"
            spoken = tokenizer.apply_chat_template(turns, return_dict=False)
        target = answers.error if word == "error" else answers.letter(word)
        if family != "llama-3.2":
            assert spoken[: len(prompt) + 1] == [*prompt, target]
        assert conversation_ids(tokenizer, MESSAGE, word, system)[: len(prompt) + 1] == [*prompt, target]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_hears_its_system_message(loaded, family):
    tokenizer = loaded[family]
    assert has_system_turn(tokenizer) is (family in SYSTEM_TURNS)
    text = tokenizer.decode(prompt_ids(tokenizer, MESSAGE, "You are honest."))
    assert text.count("You are honest.") == 1
    assert text.index("You are honest.") < text.index(MESSAGE)


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(loaded, monkeypatch):
    def prompt_on(year, month, day):
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(year, month, day)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        tokenizer = loaded["llama-3.2"]
        raw = tokenizer.apply_chat_template([{"role": "user", "content": MESSAGE}], tokenize=False)
        return raw, tokenizer.decode(prompt_ids(tokenizer, MESSAGE))

    (raw_before, before), (raw_after, after) = prompt_on(2031, 3, 5), prompt_on(2031, 4, 6)
    assert "Today Date: 05 Mar 2031" in raw_before
    assert "Today Date: 06 Apr 2031" in raw_after
    assert before == after
    assert before.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    )


@pytest.mark.parametrize("format", ["%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%d"])
def test_the_fixed_day_is_one_that_a_calendar_knows(loaded, format):
    tokenizer = copy.deepcopy(loaded["llama-3"])
    tokenizer.chat_template = "{{ strftime_now('" + format + "') }}|{{ messages[0]['content'] }}"
    text = tokenizer.decode(prompt_ids(tokenizer, MESSAGE))
    assert text == datetime.date(2024, 7, 26).strftime(format) + "|" + MESSAGE


def test_a_template_is_chosen_among_several(loaded):
    tokenizer = copy.deepcopy(loaded["llama-3"])
    several = {"tool_use": "{{ 1 / 0 }}", "default": tokenizer.chat_template}
    tokenizer.chat_template = several
    assert prompt_ids(tokenizer, MESSAGE) == prompt_ids(loaded["llama-3"], MESSAGE)


UNFIT = {
    "double BOS": lambda: llama_3("{{ bos_token }}" + LLAMA_3),
    "missing generation prompt": lambda: qwen(CHAT_ML.split("{% if add")[0]),
    "lost spaces": lambda: byte_level_read_as_sentencepiece(),
    "masked answer": lambda: gemma(GEMMA.replace("message['content'] | trim", "messages[0]['content']")),
    "merged answer": lambda: llama_3(ZEPHYR.replace("'<|assistant|>' }}\n", "'<|assistant|>' }}")),
    "broken template": lambda: llama_3("{{ raise_exception('not today') }}"),
}


def byte_level_read_as_sentencepiece():
    """What transformers 5.3 makes of byte-level files that name Llama's class (DeepSeek's distilled models)."""
    vocabulary, merges = byte_parts(["<unk>", "<s>", "</s>"])
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.chat_template = LLAMA_2
    return tokenizer


@pytest.mark.parametrize("fault", UNFIT)
def test_unfit_templates_are_refused_before_anything_is_fitted(fault, splits):
    tokenizer = UNFIT[fault]()
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(TemplateFault, match=r"^tokenizer '") as caught:
        make_examples(splits.train[:2], tokenizer, letter_tokens(tokenizer), 1024)
    assert caught.value.name == fault
    assert caught.value.next_step in str(caught.value)


def test_a_turn_mark_that_is_also_bos_counts_as_double_only_at_the_front():
    twice = smollm_2()
    twice.chat_template = "{{ bos_token }}" + twice.chat_template
    fault = double_bos(twice, prompt_ids(twice, MESSAGE))
    assert fault.name == "double BOS"
    assert "4 times" in fault.what


def test_words_of_a_message_that_are_bos_count():
    tokenizer = llama_2()
    assert double_bos(tokenizer, prompt_ids(tokenizer, "Say <s> twice.")).name == "double BOS"
    base = llama_2(None)
    assert double_bos(base, prompt_ids(base, "Say <s> twice.")).name == "double BOS"


def test_templates_that_always_begin_the_answer_need_no_flag():
    always = qwen(CHAT_ML.replace("{% if add_generation_prompt %}", "{% if messages[-1]['role'] == 'user' %}"))
    assert missing_generation_prompt(always, letter_tokens(always).lead) is None
    roleless = qwen("{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}")
    assert missing_generation_prompt(roleless, find_letter_tokens(roleless).lead).name == "missing generation prompt"
