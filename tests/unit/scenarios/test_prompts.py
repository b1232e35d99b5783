"""Answer tokens under the chat templates of five families, on tokenizers built here."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.prompts import prompt_ids

TEXTS = [
    "Please provide the letter of the action you would take in this scenario:\n",
    "A B error A B error A B error A B error system user model assistant",
    "A\nB\nerror\nA\nB\nerror\n[INST] [/INST] <<SYS>> <</SYS>> You are honest. Hello",
]

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set loop_messages = messages %}{% set system = '' %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CHAT_ML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = CHAT_ML.replace(
    "message['role'] + '\n' + ",
    "message['role'] + '\n' + ('<think>\n\n</think>\n\n' if message['role'] == 'assistant' else '') + ",
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def wrapped(core, name, template=None, **tokens):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **tokens)
    tokenizer.name_or_path = name
    tokenizer.chat_template = template
    return tokenizer


def in_front(core, opening, closing=None):
    """Make a plain call put special tokens around the text, as Llama's tokenizer does in front of it."""
    pairs = [(token, core.token_to_id(token)) for token in (opening, closing) if token]
    core.post_processor = processors.TemplateProcessing(
        single=f"{opening} $A" + (f" {closing}" if closing else ""), special_tokens=pairs
    )


def metaspace(name="metaspace", template=LLAMA_2, closing=None):
    """A sentencepiece-like tokenizer: spaces become part of the word that follows."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    lines = pre_tokenizers.Split("\n", "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.Metaspace(prepend_scheme="first")])
    core.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    core.train_from_iterator(TEXTS * 5, trainer)
    in_front(core, "<s>", closing)
    return wrapped(core, name, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level(name="byte_level", template=CHAT_ML, opening="<s>"):
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<start_of_turn>", "<end_of_turn>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS * 5, trainer)
    if opening:
        in_front(core, opening)
    return wrapped(core, name, template, bos_token="<s>", eos_token="</s>")


def words(vocabulary, name="words", normalizer=None):
    """One token per word of `vocabulary`, no chat template."""
    entries = ["<unk>", *TEXTS[0].split(), *vocabulary]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(entries)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if normalizer is not None:
        core.normalizer = normalizer
    return wrapped(core, name, unk_token="<unk>")


def tokens_of(tokenizer, answers):
    return tokenizer.convert_ids_to_tokens([*answers.choices, answers.error])


def test_embedded_template(tiny_tokenizer):
    answers = letter_tokens(tiny_tokenizer)
    assert tokens_of(tiny_tokenizer, answers) == ["A", "B", "error"]
    assert answers.lead == ()
    prompt = prompt_ids(tiny_tokenizer, "Hello\n", system="You are honest.")
    assert tiny_tokenizer.decode(prompt) == "<s><|system|>You are honest.<|user|>Hello\n<|assistant|>"


def test_llama_2_template_on_a_metaspace_tokenizer():
    tokenizer = metaspace()
    answers = letter_tokens(tokenizer)
    assert tokens_of(tokenizer, answers) == ["▁A", "▁B", "▁error"]
    assert answers.letter("A") == answers.choices[0]
    assert answers.letter("B") == answers.choices[1]
    assert answers.lead == ()
    prompt = prompt_ids(tokenizer, TEXTS[0])
    # Whole conversations, tokenised by themselves, hold exactly the prompt and then the answer.
    spoken = tokenizer.apply_chat_template(
        [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": "B"}], tokenize=False
    )
    ids = tokenizer(spoken, add_special_tokens=False)["input_ids"]
    assert ids[: len(prompt) + 1] == [*prompt, answers.choices[1]]
    assert tokenizer.convert_ids_to_tokens(ids[len(prompt) + 1 :])[-1] == "</s>"


def test_chat_ml_on_byte_level_bpe():
    tokenizer = byte_level(opening=None)
    answers = letter_tokens(tokenizer)
    assert tokens_of(tokenizer, answers) == ["A", "B", "error"]
    assert answers.lead == ()
    text = tokenizer.decode(prompt_ids(tokenizer, "Hello", system="You are honest."))
    turns = ["system\nYou are honest.<|im_end|>\n", "user\nHello<|im_end|>\n", "assistant\n"]
    assert text == "".join(f"<|im_start|>{turn}" for turn in turns)


def test_lead_is_what_the_template_puts_before_every_answer():
    tokenizer = byte_level(template=THINKING.replace("think>", "note>"))
    answers = letter_tokens(tokenizer)
    assert tokenizer.decode(list(answers.lead)) == "<note>\n\n</note>\n\n"
    assert tokens_of(tokenizer, answers) == ["A", "B", "error"]


def test_template_without_a_system_role_gets_it_in_the_first_turn():
    tokenizer = byte_level(template=GEMMA)
    answers = letter_tokens(tokenizer)
    assert tokens_of(tokenizer, answers) == ["A", "B", "error"]
    text = tokenizer.decode(prompt_ids(tokenizer, "Hello", system="You are honest."))
    assert text == "<s><start_of_turn>user\nYou are honest.\n\nHello<end_of_turn>\n<start_of_turn>model\n"


def test_template_that_drops_the_system_role_in_silence_gets_it_in_the_first_turn():
    deaf = "{% for message in messages if message['role'] != 'system' %}" + CHAT_ML.split("%}", 1)[1]
    tokenizer = byte_level(template=deaf)
    text = tokenizer.decode(prompt_ids(tokenizer, "Hello", system="You are honest."))
    assert text == "<|im_start|>user\nYou are honest.\n\nHello<|im_end|>\n<|im_start|>assistant\n"


def test_other_errors_of_a_template_are_not_taken_for_a_missing_system_role():
    broken = byte_level(template="{% if messages[0]['role'] == 'system' %}{{ 1 / 0 }}{% endif %}" + CHAT_ML)
    assert prompt_ids(broken, "Hello")
    with pytest.raises(ZeroDivisionError):
        prompt_ids(broken, "Hello", system="You are honest.")


def test_plain_tokenizer_without_a_template():
    tokenizer = byte_level(template=None)
    answers = letter_tokens(tokenizer)
    assert tokens_of(tokenizer, answers) == ["A", "B", "error"]
    text = tokenizer.decode(prompt_ids(tokenizer, "Hello\n", system="You are honest."))
    assert text == "<s>You are honest.\nHello\n"


def test_a_tokenizer_that_closes_every_text_with_eos_leaves_room_for_the_answer():
    tokenizer = metaspace(template=None, closing="</s>")
    assert tokenizer("Hello")["input_ids"][-1] == tokenizer.eos_token_id
    prompt = prompt_ids(tokenizer, TEXTS[0])
    assert prompt[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in prompt
    # The message ends with a line break, so the letters come without the space of a new word.
    assert tokens_of(tokenizer, letter_tokens(tokenizer))[:2] == ["A", "B"]


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (metaspace(), 1),
        (byte_level(template=GEMMA), 1),
        (byte_level(template=None), 1),
        (byte_level(opening=None), 0),
        # ChatML writes no BOS, and what a plain call puts in front has no place in a chat.
        (byte_level(), 0),
    ],
    ids=["llama_2", "gemma", "plain", "chat_ml", "chat_ml_with_bos"],
)
@pytest.mark.parametrize("system", [None, "You are honest."])
def test_bos_stands_in_front_once_where_the_model_wants_it(tokenizer, expected, system):
    prompt = prompt_ids(tokenizer, "Hello\n", system)
    assert prompt.count(tokenizer.bos_token_id) == expected
    assert (prompt[0] == tokenizer.bos_token_id) is bool(expected)


def test_words_that_are_tokens():
    tokenizer = words(["A", "B", "error"])
    assert tokens_of(tokenizer, letter_tokens(tokenizer)) == ["A", "B", "error"]


@pytest.mark.parametrize(
    ("tokenizer", "what"),
    [
        (words(["x", "y", "error"], "two-pieces", normalizers.Replace("A", "x y")), "not single distinct tokens"),
        (words(["x", "error"], "same-letter", normalizers.Replace("A", "B")), "not single distinct tokens"),
        (words(["x", "y", "z"], "no-letters"), "not single distinct tokens"),
        (words(["A", "error"], "no-b"), "not single distinct tokens"),
        (words(["A", "B"], "no-error"), "first token of 'error'"),
        (words(["A", "B"], "error-is-a", normalizers.Replace("error", "A")), "first token of 'error'"),
        (words(["A", "B"], "error-is-nothing", normalizers.Replace("error", "")), "first token of 'error'"),
    ],
    ids=lambda value: getattr(value, "name_or_path", ""),
)
def test_unfit_answers_are_refused_by_name(tokenizer, what):
    with pytest.raises(ValueError, match=what) as caught:
        letter_tokens(tokenizer)
    assert f"tokenizer '{tokenizer.name_or_path}'" in str(caught.value)


def test_answers_that_merge_with_the_prompt_are_refused_by_name():
    letters = sorted(set(TEXTS[0]) | set("ABerror"))
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", *letters, "\nA", "\nB"])}
    core = Tokenizer(models.BPE(vocabulary, [("\n", "A"), ("\n", "B")], unk_token="<unk>"))
    tokenizer = wrapped(core, "greedy", unk_token="<unk>")
    assert tokenizer.convert_ids_to_tokens(tokenizer("e:\nA")["input_ids"]) == ["e", ":", "\nA"]
    with pytest.raises(ValueError, match="tokenizer 'greedy': the prompt's last tokens change"):
        letter_tokens(tokenizer)
    # A template whose prompt ends at a special token mends it, as the message says.
    core.add_special_tokens([AddedToken("<answer>")])
    template = "{{ messages[0]['content'] }}<answer>{% if messages[1:] %}{{ messages[1]['content'] }}{% endif %}"
    mended = wrapped(core, "mended", template)
    assert tokens_of(mended, letter_tokens(mended)) == ["A", "B", "e"]
