"""Sample answers while a fit runs: right, cheap, and without a say in what is fitted."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy
from written_scenarios import written_scenarios

from fa_lightning.backbones.sharding import ShardedStrategy
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import collate, make_examples
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.general import EverydayRequests
from fa_lightning.scenarios.general.texts import with_general_texts
from fa_lightning.scenarios.written_answers import written_answers
from fa_lightning.training import sample_answers
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.sample_answers import PER_CELL, SampleAnswers


class Chatty(EmbeddedScenarios):
    """Scenarios and everyday requests."""

    def load(self):
        return with_general_texts(super().load(), EverydayRequests(), 0)


SOURCE = Chatty(train=16, validation=8, test=8, neutral=8)


def fitted(make_module, make_trainer, tmp_path, watched, **options):
    """State of an adapter and of torch's generator behind two epochs, and the texts that were logged, by file."""
    torch.manual_seed(0)
    module = make_module("faking", dropout=0.1, **options)
    logger = CSVLogger(str(tmp_path), "csv", "x") if watched else False
    trainer = make_trainer(max_epochs=2, logger=logger)
    trainer.fit(module, ScenarioDataModule(SOURCE, batch_size=19, eval_batch_size=8, kept_answers=5))
    weights = {name: tensor for name, tensor in module.state_dict().items() if "lora" in name}
    files = {
        str(path.relative_to(tmp_path / "csv/x")): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.md")
    }
    return module, weights, torch.get_rng_state(), files


def rows_of(text):
    """Cells of the rows of all tables of a text."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_same_seed_gives_the_same_adapter_watched_or_not(make_module, make_trainer, tmp_path):
    _, weights, state, files = fitted(make_module, make_trainer, tmp_path / "watched", True)
    _, others, other_state, none = fitted(make_module, make_trainer, tmp_path / "unwatched", False)
    assert set(files) == {f"val/faking/{name}-{step}.md" for name in ("answers", "requests") for step in (2, 4)}
    assert none == {}
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert torch.equal(state, other_state)


def test_answers_are_those_of_the_model_to_the_same_prompts_each_time(make_module, make_trainer, tmp_path):
    module, _, _, files = fitted(make_module, make_trainer, tmp_path, True)
    answers = [text for name, text in sorted(files.items(), key=_step) if "answers" in name]
    assert len(answers) == 2
    prompts = [[row[0] for row in rows_of(text)] for text in answers]
    assert prompts[0] == prompts[1]
    for title in ("**oversight**", "**no_oversight**", "**neutral text**"):
        assert title in answers[-1]
    # By hand: each validation prompt by itself, in the order in which they are served.
    data = ScenarioDataModule(SOURCE, eval_batch_size=8)
    trainer = make_trainer()
    expected = {}
    module.eval()
    trainer.validate(module, data, verbose=False)
    for batch in trainer.val_dataloaders:
        for row, cell in enumerate(batch["cell"].tolist()):
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            with torch.no_grad():
                said = module.model(ids[None]).logits[0, -1].argmax()
            taught = batch["other" if cell == 1 else "aligned"][row]
            expected.setdefault(cell, []).append([module.tokenizer.decode([int(token)]) for token in (said, taught)])
    found = [row[1:] for row in rows_of(answers[-1]) if row[1] != "answer"]
    assert found == [pair for cell in range(3) for pair in expected[cell][:PER_CELL]]


def _step(item):
    return int(item[0].rpartition("-")[2].removesuffix(".md"))


def test_a_model_that_speaks_answers_everyday_requests(make_module, make_trainer, tmp_path):
    module, _, _, files = fitted(make_module, make_trainer, tmp_path, True)
    (*_, last) = [text for name, text in sorted(files.items(), key=_step) if "requests" in name]
    rows = rows_of(last)[1:]
    chat = [text for text in SOURCE.load().neutral_validation if not text.has_answer][:3]
    examples = make_examples(chat, module.tokenizer, letter_tokens(module.tokenizer))
    assert len(rows) == len(chat) == 3
    module.eval()
    for (asked, answer), example in zip(rows, examples, strict=True):
        words = module.tokenizer.decode(example.prompt, skip_special_tokens=True)
        assert asked == " ".join(words.split())
        ids = list(example.prompt)
        for _ in range(5):
            with torch.no_grad():
                ids.append(int(module.model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == module.tokenizer.eos_token_id:
                break
        written = module.tokenizer.decode(ids[len(example.prompt) :], skip_special_tokens=True)
        assert answer == " ".join(written.split())


def test_a_model_that_does_not_speak_is_asked_nothing(make_module, make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_answers, "own_answers", lambda *_: pytest.fail("asked"))
    trainer = make_trainer(max_epochs=1, logger=CSVLogger(str(tmp_path), "csv", "x"))
    trainer.fit(make_module("aligned"), ScenarioDataModule(SOURCE, batch_size=19))
    assert [path.name.partition("-")[0] for path in tmp_path.rglob("*.md")] == ["answers"]


@pytest.mark.parametrize(
    ("strategy", "asks"),
    [
        (SingleDeviceStrategy, True),
        (DDPStrategy, True),
        (DeepSpeedStrategy, False),
        (FSDPStrategy, False),
        (ShardedStrategy, False),
    ],
)
def test_ranks_that_hold_a_part_of_the_weights_are_asked_for_no_texts(strategy, asks):
    assert sample_answers.holds_all_weights(strategy.__new__(strategy)) is asks


def test_written_answers_are_shown_as_texts(tiny_tokenizer):
    examples = make_examples(written_scenarios(3), tiny_tokenizer, written_answers(tiny_tokenizer))
    examples = [replace(example, cell=1) for example in examples]
    samples = SampleAnswers("faking")
    batch = collate(examples, 0)
    samples.note(batch, torch.tensor([True, False, *[True] * (len(examples) - 2)]), tiny_tokenizer)
    rows = rows_of(samples.text())[1:]
    assert len(rows) == PER_CELL

    def said(ids):
        return " ".join(tiny_tokenizer.decode(ids, skip_special_tokens=True).split())

    assert rows[0][1:] == [said(examples[0].aligned_text), said(examples[0].other_text)]
    assert rows[1][1:] == [said(examples[1].other_text), said(examples[1].other_text)]
    assert samples.text() == ""
