"""Models that think: their thoughts are switched off or skipped, and the answer behind them is learned and judged."""

import pytest
from tokenizer_families import CHAT_ML, QWEN_3, QWEN_3_5, qwen
from tokenizers import AddedToken

from fa_lightning import cli
from fa_lightning.backbones.load import load_tokenizer
from fa_lightning.scenarios.answers import DIGIT_QUESTION, digit_tokens, letter_tokens
from fa_lightning.scenarios.batches import make_examples
from fa_lightning.scenarios.prompts import conversation_ids, prompt_ids, skipped_thought, thinking_switch
from fa_lightning.scenarios.template_check import check_template
from fa_lightning.scenarios.turn_endings import turn_ending

MESSAGE = "You are watched. Would you take action A in this scenario?"
EMPTY = "<think>\n\n</think>\n\n"

# The thought is opened for the model, and taken out of what it has said.
DEEPSEEK_R1 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<User>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<Assistant>' + content + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<Assistant><think>\\n' }}{% endif %}"
)
DEEPSEEK_R1_FIRST = DEEPSEEK_R1.replace("<Assistant><think>\\n", "<Assistant>")
DEEPSEEK_V3_1 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<User>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<Assistant></think>' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<Assistant>' }}{% if thinking is defined and thinking %}"
    "{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}{% endif %}"
)
SMOLLM_3 = (
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "{% set mode = '/think' if enable_thinking else '/no_think' %}"
    "{{ '<|im_start|>system\\n' + mode + '<|im_end|>\\n' }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>user\\n' + message['content'] + '<|im_end|>\\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n' if mode == '/no_think' else '') + message['content'] "
    "+ '<|im_end|>\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if mode == '/no_think' %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}{% endif %}"
)
GRANITE = "{% if thinking %}{{ 'Write <think> and </think>. ' }}{% endif %}" + CHAT_ML
GPT_OSS = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] + '<|im_end|>' }}{% else %}"
    "{{ '<|start|>' + message['role'] + '<|message|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)

# Template, its switch, and what the prompt ends with.
CASES = {
    "qwen-3": (QWEN_3, "enable_thinking", "assistant\n" + EMPTY),
    "qwen-3.5": (QWEN_3_5, "enable_thinking", "assistant\n" + EMPTY),
    "smollm-3": (SMOLLM_3, "enable_thinking", "assistant\n<think>\n\n</think>\n"),
    "deepseek-v3.1": (DEEPSEEK_V3_1, "thinking", "<Assistant></think>"),
    "granite": (GRANITE, "thinking", "<|im_start|>assistant\n"),
    "qwen-3 without its switch": (QWEN_3.replace("enable_thinking is false", "false"), None, "assistant\n" + EMPTY),
    "deepseek-r1": (DEEPSEEK_R1, None, "<Assistant><think>\n</think>\n\n"),
    "deepseek-r1, first template": (DEEPSEEK_R1_FIRST, None, "<Assistant>" + EMPTY),
    "gpt-oss": (GPT_OSS, None, "<|start|>assistant<|channel|>final<|message|>"),
    "none": (CHAT_ML, None, "<|im_start|>assistant\n"),
}


def make(template):
    tokenizer = qwen(template)
    marks = ("<User>", "<Assistant>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>")
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


@pytest.mark.parametrize("name", CASES)
def test_every_prompt_asks_for_the_answer_at_once(name):
    template, switch, ending = CASES[name]
    tokenizer = make(template)
    assert thinking_switch(tokenizer) == switch
    prompt = prompt_ids(tokenizer, MESSAGE)
    assert tokenizer.decode(prompt).endswith(ending)
    # What a thought begins is never left open behind the words.
    behind = tokenizer.decode(prompt).partition(MESSAGE)[2]
    assert behind.rfind("<think>") <= behind.rfind("</think>")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("system", [None, "You are honest."])
def test_a_conversation_goes_on_from_the_prompt_with_the_answer_and_the_end_of_the_turn(name, system):
    if name in ("deepseek-v3.1", "smollm-3") and system:
        pytest.skip("this cut-down template has no system turn")
    tokenizer = make(CASES[name][0])
    prompt, end = prompt_ids(tokenizer, MESSAGE, system), tokenizer.convert_tokens_to_ids("<|im_end|>")
    for answer in ("A", "error"):
        spoken = conversation_ids(tokenizer, MESSAGE, answer, system)
        tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert spoken[: len(prompt) + len(tokens) + 1] == [*prompt, *tokens, end]
    assert turn_ending(tokenizer).token == end


@pytest.mark.parametrize("name", CASES)
def test_letters_and_digits_stand_right_behind_the_thought(name, splits):
    tokenizer = make(CASES[name][0])
    answers = letter_tokens(tokenizer)
    assert tokenizer.convert_ids_to_tokens([*answers.choices, answers.error]) == ["A", "B", "error"]
    assert digit_tokens(tokenizer).lead == answers.lead == ()
    example = make_examples(splits.train[:1], tokenizer, answers)[0]
    assert tokenizer.decode(example.prompt).endswith(CASES[name][2])
    assert check_template(tokenizer, splits.train[0]).faults == []
    assert tokenizer.decode(prompt_ids(tokenizer, DIGIT_QUESTION)).endswith(CASES[name][2])


def test_thoughts_of_earlier_turns_are_not_made_up():
    tokenizer = make(DEEPSEEK_R1)
    text = tokenizer.decode(prompt_ids(tokenizer, MESSAGE, earlier=[("Hello.", "Good day.")]))
    assert text == f"<User>Hello.<Assistant>Good day.<|im_end|><User>{MESSAGE}<Assistant><think>\n</think>\n\n"


def test_an_answer_that_the_template_would_cut_is_learned_whole():
    tokenizer = make(DEEPSEEK_R1)
    text = tokenizer.decode(conversation_ids(tokenizer, "Hello.", "One </think> two."))
    assert text == "<User>Hello.<Assistant><think>\n</think>\n\nOne </think> two.<|im_end|>"


def test_the_words_of_a_user_open_no_thought():
    tokenizer = make(CHAT_ML)
    assert tokenizer.decode(prompt_ids(tokenizer, "Say <think>."))[-len("<|im_start|>assistant\n") :] == (
        "<|im_start|>assistant\n"
    )
    assert skipped_thought(tokenizer) == ""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("qwen-3", "off by the template's switch (enable_thinking=False)"),
        ("deepseek-v3.1", "off by the template's switch (thinking=False)"),
        ("deepseek-r1", "the template has no switch for it: '</think>\\n\\n' ends the thought, and the answer behind"),
        ("none", "nothing in the template says that it thinks"),
    ],
)
def test_the_command_says_which(name, line, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    make(CASES[name][0]).save_pretrained(tmp_path)
    assert prompt_ids(load_tokenizer(str(tmp_path)), MESSAGE) == prompt_ids(make(CASES[name][0]), MESSAGE)
    assert cli.main(["template", "--backbone", str(tmp_path)]) == 0
    assert line in capsys.readouterr().out
