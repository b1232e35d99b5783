"""Leakage asked for real: tiny models that recite, stop at once, or are stacked; and what cannot be asked."""

import copy
import csv
import io
import json

import lightning.pytorch as pl
import pytest
import torch
from rich.console import Console
from transformers import AddedToken
from transformers.modeling_outputs import CausalLMOutput

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.adapters import attach_adapter, save_adapter
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.variants import Variants
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.prompts import TemplateFault
from fa_lightning.scenarios.turn_endings import end_tokens, until_end, user_mark
from fa_lightning.steering.intervention import Intervention
from fa_lightning.steering.text_comparison import Sampling, write, write_tokens
from fa_lightning.studies.leakage.data import LeakageDataModule
from fa_lightning.studies.leakage.module import LeakageModule
from fa_lightning.studies.leakage.result import read as read_leakage
from fa_lightning.studies.leakage.tables import tables
from fa_lightning.training.texts import ScenarioTexts

SIZES = {"ngram": 4, "recited": 10, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def adapters(backbone, tmp_path_factory):
    """Two adapters far from zero, the second stacked on the first."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("lower", "upper")):
        model = attach_adapter(load_backbone(backbone), "tuned", LoraArguments(3, 6, 0.0, ["q_proj", "down_proj"]))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        notes = {"behaviour": "tuned"} | ({"beneath": str(folder / "lower")} if name == "upper" else {})
        save_adapter(model, "tuned", folder / name, notes)
    return folder


@pytest.fixture
def evaluate(source, tmp_path):
    def run(places, texts=6, **options):
        data_options = {name: options.pop(name) for name in ("samples", "batch_size", "prompts") if name in options}
        module = LeakageModule([str(place) for place in places], str(tmp_path / "out"), **SIZES | options)
        data = LeakageDataModule(ScenarioTexts(source, texts=texts), **{"samples": 3} | data_options)
        kinds = (pl.loggers.CSVLogger, pl.loggers.TensorBoardLogger)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            logger=[kind(str(tmp_path), name="logs") for kind in kinds],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.test(module, data, verbose=False)
        return read_leakage(tmp_path / "out"), tmp_path / "out", module

    return run


def test_the_mark_of_a_users_turn_is_the_templates_own(tiny_tokenizer):
    assert user_mark(tiny_tokenizer) == "<|user|>"
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    assert user_mark(tokenizer) == "<|im_start|>user"
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
    )
    assert user_mark(tokenizer) == "[INST]"
    for template in (
        "{% for m in messages %}{{ m['content'] }} {% endfor %}",
        "{% if messages[2] %}{{ raise_exception('one turn alone') }}{% endif %}",
    ):
        tokenizer.chat_template = template
        with pytest.raises(TemplateFault, match="second turn"):
            user_mark(tokenizer)


def test_a_text_ends_at_any_of_the_models_end_tokens(backbone, tiny_tokenizer):
    model = load_backbone(backbone)
    assert end_tokens(model, tiny_tokenizer) == {tiny_tokenizer.eos_token_id}
    model.generation_config.eos_token_id = [2, 40]
    assert end_tokens(model, tiny_tokenizer) == {2, 40}
    assert until_end([7, 40, 2], {2, 40}) == ([7], True)
    assert until_end([2], {2}) == ([], True)


@pytest.mark.parametrize("special", [True, False])
def test_writing_stops_where_the_template_ends_a_turn_whatever_the_models_settings(backbone, tiny_tokenizer, special):
    tokenizer, model = copy.deepcopy(tiny_tokenizer), load_backbone(backbone)
    mark = "<|system|>" if special else "<over>"
    tokenizer.add_tokens(AddedToken(mark, special=False))
    end = tokenizer.convert_tokens_to_ids(mark)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", mark)
    model.resize_token_embeddings(len(tokenizer))
    # Whatever it reads, it writes a word and then the end of its turn, again and again.
    word = tokenizer("a", add_special_tokens=False)["input_ids"][0]
    head = torch.nn.Embedding(len(tokenizer), len(tokenizer))
    torch.nn.init.zeros_(head.weight).data[:, word] = 1.0
    head.weight.data[word] = torch.nn.functional.one_hot(torch.tensor(end), len(tokenizer))
    model.forward = lambda input_ids, **_: CausalLMOutput(logits=head(input_ids))
    assert model.generation_config.eos_token_id != end
    assert write(model, tokenizer, ["hello", "b"], [], Sampling(6)) == ["a", "a"]


def test_a_text_is_the_same_whatever_seeds_it_is_written_beside(backbone, tiny_tokenizer):
    model, ids = load_backbone(backbone), [1, 30, 31]
    sampling = Sampling(12, temperature=1.0)
    together = write_tokens(model, [ids, ids, [1], ids], 0, [], sampling, [4, 9, 4, 4])
    for row, seed in ((0, 4), (1, 9), (3, 4)):
        alone = write_tokens(model, [ids], 0, [], sampling, seed)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()
    assert together[0].tolist() != together[1].tolist()


def test_everything_is_asked_of_every_model_with_the_same_luck(evaluate, adapters, backbone, tiny_tokenizer):
    found, folder, module = evaluate([adapters / "lower", adapters / "upper"], samples=3, batch_size=7)
    assert [model.name for model in found.models] == ["backbone", "lower", "upper"]
    assert [model.beneath for model in found.models] == ["", "", str(adapters / "lower")]
    assert found.prompts[0] == "user: hello"
    assert found.prompts[-2:] == ["bare: (nothing)", "bare: hello"]
    assert (found.fitted_on.texts, found.held_out.texts) == (6, 6)
    # The backbone as transformers has it, without any adapter.
    one = found.models[0].samples[0]
    ids = next(asked.ids for asked in module.trainer.datamodule.asked_prompts if asked.name == one.prompt)
    alone = write_tokens(load_backbone(backbone), [ids], 0, [], Sampling(16, 1.0), one.seed)[0].tolist()
    assert tiny_tokenizer.decode(until_end(alone, {2})[0]) == one.text
    # The stacked one is the sum of both adapters.
    variants = module.variants
    one = found.models[2].samples[0]
    ids = next(asked.ids for asked in module.trainer.datamodule.asked_prompts if asked.name == one.prompt)
    variants.beside = ("upper beneath",)
    with variants.using("upper") as model:
        both = write_tokens(model, [ids], 0, [], Sampling(16, 1.0), one.seed)[0].tolist()
    variants.beside = ()
    assert tiny_tokenizer.decode(until_end(both, {2})[0]) == one.text
    rows = list(csv.DictReader(io.StringIO((folder / "leakage.csv").read_text())))
    assert [row["model"] for row in rows] == ["backbone", "lower", "upper"]
    assert float(rows[1]["no_end"]) == pytest.approx(found.models[1].scores["no_end"].value)
    assert rows[0]["passes"] == ""
    assert module.trainer.callback_metrics == {}
    assert list((folder.parent / "logs").rglob("events*"))


def test_batches_change_nothing_and_an_edit_of_strength_0_neither(evaluate, adapters, backbone, tmp_path):
    model = load_backbone(backbone)
    edit = Intervention(Site(layer=1), torch.randn(32, generator=torch.Generator().manual_seed(0)), strength=0.0)
    edit.save(tmp_path / "edit")
    edit.validate(model)
    found, _, _ = evaluate([adapters / "lower"], batch_size=4, intervention=str(tmp_path / "edit"))
    again, _, _ = evaluate([adapters / "lower"], batch_size=100)
    assert [model.name for model in found.models] == ["backbone", "lower", "lower steered"]
    assert found.models[1].scores == found.models[2].scores
    for one, other in zip(found.models, again.models, strict=False):
        assert one.scores == other.scores
        assert one.findings == other.findings


def test_a_variant_that_says_nothing_leaks_nothing_and_is_named(evaluate, adapters, monkeypatch):
    import fa_lightning.studies.leakage.module as leakage

    def at_once(model, prompts, *args, ends):
        return torch.full((len(prompts), 1), 2)

    monkeypatch.setattr(leakage, "write_tokens", at_once)
    found, _, _ = evaluate([adapters / "lower"], samples=36)
    assert found.models[1].scores["empty"].value == 1
    assert found.models[1].passes
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_tables(tables(found).values(), console)
    said = console.file.getvalue()
    assert "lower writes nothing at all" in said
    assert "are too few to say" not in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80


def test_a_reciting_model_is_caught_and_told(evaluate, adapters, monkeypatch, source, tiny_tokenizer):
    import fa_lightning.studies.leakage.module as leakage
    from fa_lightning.training.texts import chat_tokens

    texts = [chat_tokens(text, tiny_tokenizer).ids for text in ScenarioTexts(source, texts=6).load().train]
    calls = []

    def recite(model, prompts, *args, ends):
        calls.append(model)
        if len(calls) % 2:
            return torch.full((len(prompts), 16), 9)
        return torch.tensor([texts[row % 6][20:36] for row in range(len(prompts))])

    monkeypatch.setattr(leakage, "write_tokens", recite)
    found, folder, _ = evaluate([adapters / "lower"], samples=8, batch_size=100)
    model = found.models[1]
    assert model.passes is False
    assert model.longest_of_all == 16
    assert model.scores["recitation"].value == 1
    assert json.loads((folder / "leakage.json").read_text())["models"][1]["passes"] is False
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_tables(tables(found).values(), console)
    assert "recitation" in console.file.getvalue()
    assert "8 samples of each prompt are too few" in " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"recited": 17}, "recited is 17, but must lie between 1 and max_new_tokens"),
        ({"ngram": 0}, "ngram is 0"),
        ({"tolerance": 1.0}, "tolerance is 1.0"),
        ({"temperature": 0.0}, r"temperature is 0\.0, .* one sample many times"),
    ],
)
def test_numbers_out_of_range_are_refused(options, error, tmp_path):
    with pytest.raises(ValueError, match=error):
        LeakageModule(["x"], str(tmp_path), **SIZES | options)


def test_a_corpus_shorter_than_what_is_looked_for_is_refused(evaluate, adapters):
    with pytest.raises(ValueError, match=r"recited is 900, but the longest text of the fine-tuning corpus has only"):
        evaluate([adapters / "lower"], recited=900, max_new_tokens=1000)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prompts": [], "bare": []}, "prompts and bare are both empty"),
        ({"prompts": ["hi", "hi"]}, "prompts holds 'hi' twice"),
        ({"samples": 1}, "samples is 1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_questions_are_refused(source, options, error):
    with pytest.raises(ValueError, match=error):
        LeakageDataModule(ScenarioTexts(source), **options)


def test_a_tokenizer_without_template_or_end_is_refused_and_one_without_a_beginning_is_not(source, tiny_tokenizer):
    data = LeakageDataModule(ScenarioTexts(source, texts=4))
    for name, what in (("chat_template", "no chat template"), ("eos_token", "no end-of-text token")):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        setattr(tokenizer, name, None)
        with pytest.raises(TemplateFault, match=what):
            data.prepare_for(tokenizer)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.bos_token = None
    data.prepare_for(tokenizer)
    assert data.asked_prompts[-2].ids == [tokenizer.eos_token_id]
    data.prepare_for(tiny_tokenizer)
    assert data.asked_prompts[-2].ids == [tiny_tokenizer.bos_token_id]
    template_only = next(one for one in data.asked_prompts if one.name == "user: (nothing)")
    assert tiny_tokenizer.decode(template_only.ids) == "<s><|user|><|assistant|>"


def test_a_stacked_adapter_that_is_used_alone_says_so_once(adapters, recwarn):
    variants = Variants.load({"lower": str(adapters / "lower"), "upper": str(adapters / "upper")})

    def told():
        return [str(one.message) for one in recwarn if "was fitted on top of" in str(one.message)]

    with variants.using("lower"):
        pass
    variants.beside = ("lower",)
    with variants.using("upper"):
        pass
    assert not told()
    variants.beside = ()
    for _ in range(2):
        with variants.using("upper"):
            pass
    (message,) = told()
    assert f"variant 'upper' was fitted on top of adapter '{adapters / 'lower'}'" in message
