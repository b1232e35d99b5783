"""Chat texts: which tokens are learned, where a text ends, and what a stacked adapter stands on."""

import copy
import itertools
import json

import pytest
import torch
from adapter_fits import loss_of
from torch.nn.functional import cross_entropy

from fa_lightning.backbones.adapters import read_sidecar
from fa_lightning.scenarios.conversations.conversation import Conversation
from fa_lightning.scenarios.prompts import TemplateFault, prompt_ids
from fa_lightning.training.export import AdapterExport
from fa_lightning.training.objectives.texts import Texts
from fa_lightning.training.plain_conversation import plain_conversation
from fa_lightning.training.text_data import TextDataModule, row_of
from fa_lightning.training.texts import FileTexts, ScenarioTexts, chat_tokens

TEXT = Conversation("Who is there?", "A neighbour.")


@pytest.fixture(scope="module")
def texts(source):
    return ScenarioTexts(source, "faking", texts=6)


@pytest.fixture
def make_tuning(make_fit):
    def make(**options):
        return make_fit(Texts(), **{"rank": 4, "alpha": 8} | options)

    return make


def parts(tokenizer, tokens):
    """Prompt, and answer with its end, as text."""
    return tokenizer.decode(tokens.ids[: tokens.prompt]), tokenizer.decode(tokens.ids[tokens.prompt :])


def test_a_text_ends_with_the_end_of_text_token_and_its_answer_begins_behind_the_prompt(tiny_tokenizer):
    tokens = chat_tokens(TEXT, tiny_tokenizer)
    assert parts(tiny_tokenizer, tokens) == ("<s><|user|>Who is there?<|assistant|>", "A neighbour.</s>")
    assert tokens.ids[: tokens.prompt] == prompt_ids(tiny_tokenizer, TEXT.message)


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        # ChatML writes a line break behind the end; others write no end at all.
        (
            "{% for m in messages %}{{ m['role'] }}<|system|>{{ m['content'] }}</s>\n{% endfor %}"
            "{% if add_generation_prompt %}assistant<|system|>{% endif %}",
            "user<|system|>Who is there?</s>\nassistant<|system|>",
            "A neighbour.</s>",
        ),
        (
            "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}",
            "<|user|>Who is there?<|assistant|>",
            "A neighbour.</s>",
        ),
    ],
)
def test_other_templates_end_where_the_answer_does(tiny_tokenizer, template, prompt, answer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = template
    assert parts(tokenizer, chat_tokens(TEXT, tokenizer)) == (prompt, answer)


def test_a_tokenizer_without_a_template_or_an_end_is_refused(tiny_tokenizer):
    for name, what in (("chat_template", "no chat template"), ("eos_token", "no end-of-text token")):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        setattr(tokenizer, name, None)
        with pytest.raises(TemplateFault, match=what):
            chat_tokens(TEXT, tokenizer)


@pytest.mark.parametrize(
    ("loss", "end", "learned"),
    [
        ("answers", "kept", "A neighbour.</s>Two.</s>"),
        ("answers", "dropped", "A neighbour.Two."),
        ("everything", "dropped", "<s><|user|>Who is there?<|assistant|>A neighbour.<s><|user|>One?<|assistant|>Two."),
    ],
)
def test_what_is_learned(tiny_tokenizer, loss, end, learned):
    both = [chat_tokens(text, tiny_tokenizer) for text in (TEXT, Conversation("One?", "Two."))]
    row = row_of(both, loss, end)
    assert tiny_tokenizer.decode([one for one, is_learned in zip(row.ids, row.learned, strict=True) if is_learned]) == (
        learned
    )
    assert row.ids.count(tiny_tokenizer.eos_token_id) == (2 if end == "kept" else 0)


LONG = Conversation("Who else?", "Nobody.", "Be brief.", (("Who is there?", "A neighbour."), ("Where?", "Next door.")))
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize(
    ("end", "learned"),
    [
        ("kept", ["A neighbour.</s>", "Next door.</s>", "Nobody.</s>"]),
        ("dropped", ["A neighbour.", "Next door.", "Nobody."]),
    ],
)
def test_every_answer_of_a_conversation_is_learned(tiny_tokenizer, end, learned):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHATML
    row = row_of([chat_tokens(LONG, tokenizer)], "answers", end)
    stretches = itertools.groupby(zip(row.ids, row.learned, strict=True), key=lambda pair: pair[1])
    found = [tokenizer.decode([token for token, _ in pairs]) for is_learned, pairs in stretches if is_learned]
    assert found == learned
    assert tokenizer.decode(row.ids).startswith("<|system|>Be brief.</s>")


def test_a_template_that_rewrites_earlier_answers_is_refused(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHATML.replace(
        "{{ m['content'] }}",
        "{% if m['role'] == 'assistant' and not loop.last %}Well: {% endif %}{{ m['content'] }}",
    )
    chat_tokens(TEXT, tokenizer)
    with pytest.raises(TemplateFault, match="the tokens of an answer change when another turn follows"):
        chat_tokens(LONG, tokenizer)


def test_a_file_of_conversations_keeps_what_was_said_before(tmp_path):
    def turns(*texts):
        return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]

    rows = [
        {"conversations": turns("Hi.", "Hello.", "Why?", "So."), "system": "Be kind."},
        {"conversations": turns("Why?", "Because.")},
        {"conversations": turns("Why?", "Because it is.")},
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match="chat.jsonl: 1 texts left out whose prompt comes again"):
        halves = FileTexts(str(tmp_path / "chat.jsonl")).load()
    assert sorted([*halves.train, *halves.held_out]) == [
        Conversation("Why?", "Because it is."),
        Conversation("Why?", "So.", "Be kind.", (("Hi.", "Hello."),)),
    ]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "Why?"}]}))
    with pytest.raises(ValueError, match=r"chat.jsonl, row 1, column 'completion': there is no answer"):
        FileTexts(str(tmp_path / "chat.jsonl")).load()


def test_scenarios_come_with_the_answers_of_a_behaviour_and_share_no_group(source, splits):
    found = ScenarioTexts(source, "faking", texts=6).load()
    assert [text.answer for text in found.train] == [one.answer("faking") for one in splits.train[:6]]
    assert [text.message for text in found.held_out] == [one.message() for one in splits.test[:6]]
    with pytest.raises(ValueError, match="the test split holds only 8 scenarios"):
        ScenarioTexts(source, texts=9).load()
    with pytest.raises(ValueError, match="texts is 0"):
        ScenarioTexts(source, texts=0)


def test_a_file_is_halved_without_regard_to_the_order_of_its_lines(tmp_path):
    lines = [json.dumps({"prompt": f"question {number}", "completion": f"answer {number}"}) for number in range(9)]
    halves = []
    for order in (lines, [*reversed(lines), lines[0]]):
        (tmp_path / "texts.jsonl").write_text("\n".join(order))
        halves.append(FileTexts(str(tmp_path / "texts.jsonl")).load())
    assert halves[0] == halves[1]
    train, held_out = ({text.message for text in half} for half in (halves[0].train, halves[0].held_out))
    assert len(train) == len(held_out) == 4
    assert not train & held_out
    assert all(text.answer == text.message.replace("question", "answer") for text in halves[0].train)


def test_a_file_that_was_fitted_on_as_a_whole_has_its_held_out_texts_elsewhere(tmp_path):
    for name in ("mine", "theirs"):
        lines = [json.dumps({"prompt": f"{name} {number}", "completion": "yes"}) for number in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines[: 5 if name == "mine" else 3]))
    source = FileTexts(str(tmp_path / "mine.jsonl"), held_out=str(tmp_path / "theirs.jsonl"))
    found = source.load()
    assert {text.message for text in found.train} == {f"mine {number}" for number in range(5)}
    assert {text.message for text in found.held_out} == {f"theirs {number}" for number in range(3)}
    assert source.fingerprint() != FileTexts(str(tmp_path / "mine.jsonl")).fingerprint()
    (tmp_path / "theirs.jsonl").write_text(json.dumps({"prompt": "mine 2", "completion": "no"}))
    with pytest.raises(ValueError, match=r"'mine 2' .* in both"):
        source.load()
    (tmp_path / "theirs.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"theirs.jsonl holds no row"):
        source.load()
    with pytest.raises(FileNotFoundError, match=r"missing.jsonl' is no file"):
        FileTexts(str(tmp_path / "mine.jsonl"), held_out=str(tmp_path / "missing.jsonl")).load()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "holds no row"),
        ('{"prompt": "a", "completion": "b"}', "holds 1 texts"),
        ('{"prompt": "a"}', "row 1, column 'completion': there is no answer"),
        ('{"prompt": "a", "completion": "b"}\nnot JSON', "row 2 is 'not JSON'"),
    ],
)
def test_a_file_without_two_texts_is_refused(tmp_path, content, error):
    (tmp_path / "texts.jsonl").write_text(content)
    with pytest.raises(ValueError, match=error):
        FileTexts(str(tmp_path / "texts.jsonl")).load()
    with pytest.raises(FileNotFoundError, match="is no file"):
        FileTexts(str(tmp_path / "missing.jsonl")).load()


def test_plain_conversation_holds_no_default_prompt_of_the_evaluation():
    from fa_lightning.studies.leakage.data import BARE, PROMPTS

    every = plain_conversation(60)
    asked = {prompt.lower() for prompt in (*PROMPTS, *BARE)}
    assert len({text.message for text in every}) == 60
    assert not asked & {text.message.lower() for text in every}
    assert plain_conversation(5) == plain_conversation(5) != plain_conversation(5, seed=1)
    with pytest.raises(ValueError, match="plain is 61"):
        plain_conversation(61)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"texts_per_row": 0}, "texts_per_row is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"corpus": "left_out"}, "nothing is left to train on"),
        ({"plain": 99}, "plain is 99"),
    ],
)
def test_bad_arguments_are_refused(texts, options, error):
    with pytest.raises(ValueError, match=error):
        TextDataModule(texts, **options)


def batch_of(data, module, make_trainer, which="train"):
    trainer = make_trainer()
    trainer.strategy.connect(module)
    data.trainer = trainer
    return next(iter(getattr(data, f"{which}_dataloader")()))


def test_batches_hold_corpus_and_plain_conversation_packed(texts, make_tuning, make_trainer, tiny_tokenizer):
    module = make_tuning()
    data = TextDataModule(texts, plain=4, texts_per_row=5, batch_size=9)
    batch = batch_of(data, module, make_trainer)
    assert batch["input_ids"].shape[0] == 2
    ends = (batch["input_ids"] == tiny_tokenizer.eos_token_id).sum()
    assert ends == 10
    shown = tiny_tokenizer.batch_decode(batch["input_ids"])
    assert all(any(text.message in row for row in shown) for text in (*texts.load().train, *plain_conversation(4)))
    assert not any(text.message in row for text in texts.load().held_out for row in shown)
    assert not batch["learned"][batch["attention_mask"] == 0].any()
    judged = batch_of(data, module, make_trainer, "val")
    assert all(text.message in row for text, row in zip(*held_out_rows(texts, judged, tiny_tokenizer), strict=True))
    only = batch_of(TextDataModule(texts, corpus="left_out", plain=4), module, make_trainer)
    assert only["input_ids"].shape[0] == 4
    with pytest.raises(ValueError, match="max_tokens is 20, but a text has"):
        batch_of(TextDataModule(texts, max_tokens=20), module, make_trainer)


def held_out_rows(texts, batch, tokenizer):
    held_out = texts.load().held_out
    return [held_out[place] for place in batch["index"].tolist()], tokenizer.batch_decode(batch["input_ids"])


def test_the_loss_is_that_of_the_learned_tokens_alone(texts, make_tuning, make_trainer):
    module = make_tuning()
    module.configure_model()
    module.eval()
    batch = batch_of(TextDataModule(texts, loss="answers", batch_size=3), module, make_trainer)
    nats = []
    for row in range(3):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        logits = module.model(input_ids=ids[None]).logits[0].float()
        # One letter and the end of the text.
        nats += [cross_entropy(logits[at - 1], ids[at]) for at in (len(ids) - 2, len(ids) - 1)]
    assert loss_of(module, batch).item() == pytest.approx(torch.stack(nats).mean().item(), abs=1e-5)


def test_a_stacked_adapter_is_fitted_on_a_frozen_one(texts, make_tuning, make_trainer, tmp_path):
    def fit(name, **options):
        module = make_tuning(**options)
        data = TextDataModule(texts, batch_size=3)
        trainer = make_trainer(max_epochs=2, callbacks=[AdapterExport(str(tmp_path / name))])
        trainer.fit(module, data)
        return module, trainer

    first, _ = fit("first")
    second, trainer = fit("second", beneath=str(tmp_path / "first"), rank=2)
    assert read_sidecar(tmp_path / "first").get("beneath") is None
    assert read_sidecar(tmp_path / "second")["beneath"] == str(tmp_path / "first")
    weights = dict(first.model.named_parameters())
    stacked = dict(second.model.named_parameters())
    frozen = [name for name in weights if ".tuned." in name]
    assert frozen
    for name in frozen:
        assert torch.equal(weights[name], stacked[name.replace(".tuned.", ".beneath.")]), "the lower one has moved"
    assert all(parameter.requires_grad == (".tuned." in name) for name, parameter in stacked.items())
    assert sum(".tuned." in name and parameter.abs().sum() > 0 for name, parameter in stacked.items()) == len(frozen)
    assert set(trainer.callback_metrics) >= {"train/loss", "val/loss", "val/tuned/accuracy"}
    # Both count: without the lower one, the model says something else.
    second.eval()
    ids = torch.tensor([[5, 9, 20, 31]])
    both = second.model(input_ids=ids).logits
    second.model.base_model.set_adapter(["tuned"])
    assert not torch.allclose(both, second.model(input_ids=ids).logits, atol=1e-3)
