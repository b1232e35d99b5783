"""Statements as batches, and the module that judges models by them."""

import csv
import json
import re

import pytest
import torch
from adapter_fits import fit_of
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from made_up_safe_scores import made_up_safe_scores
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.common.codec import encode
from fa_lightning.common.numbers import compact
from fa_lightning.scenarios.answers import digit_tokens
from fa_lightning.scenarios.statements.embedded import TEMPLATES, EmbeddedStatements
from fa_lightning.scenarios.statements.statement import StatementSplits, limited_statements
from fa_lightning.studies.statements.module import StatementsModule
from fa_lightning.studies.statements.result import read as read_result
from fa_lightning.training.objectives.answers import Answers
from fa_lightning.training.statement_data import (
    Codes,
    StatementDataModule,
    StatementDataset,
    make_statement_examples,
    questions_of,
)


class FewStatements(EmbeddedStatements):
    """Some of the embedded statements in each split."""

    def load(self):
        splits = super().load()
        return StatementSplits(*(limited_statements(splits.statements(s), 12) for s in ("train", "validation", "test")))


@pytest.fixture
def few():
    return FewStatements()


@pytest.fixture(scope="module")
def examples(tiny_tokenizer):
    statements = limited_statements(EmbeddedStatements().load().test, 10)
    (question,) = questions_of(TEMPLATES, ["2/harm"])
    return statements, make_statement_examples(
        statements, question, tiny_tokenizer, digit_tokens(tiny_tokenizer), Codes.of(statements), first_index=100
    )


def test_every_statement_is_asked_in_both_digit_orders(examples, tiny_tokenizer):
    statements, found = examples
    zero, one = (tiny_tokenizer.convert_tokens_to_ids(digit) for digit in "01")
    assert [item.index for item in found] == list(range(100, 120))
    for place, item in enumerate(found):
        statement = statements[place // 2]
        assert item.agree == place % 2
        assert item.affirms is statement.affirms
        assert item.aligned == (one if statement.affirms == bool(item.agree) else zero)
        assert {item.aligned, item.other} == {zero, one}
        assert statement.text in tiny_tokenizer.decode(item.prompt)
    assert sum(item.aligned == one for item in found) == len(found) / 2


def test_batches_are_left_padded(examples, tiny_tokenizer):
    _, found = examples
    batch = StatementDataset(found, tiny_tokenizer.pad_token_id)[list(range(20))]
    for row, item in enumerate(found):
        length = len(item.prompt)
        assert batch["input_ids"][row, -length:].tolist() == list(item.prompt)
        assert batch["attention_mask"][row].tolist() == [0] * (batch["input_ids"].shape[1] - length) + [1] * length
    assert {"affirms", "agree", "right", "identity", "identity_group", "aligned", "other", "index"} <= set(batch)


def test_questions_are_named():
    names = [question.name for question in questions_of(TEMPLATES)]
    assert names[:4] == ["base_short/none", "base_long/none", "base_short_rather/none", "1/harm"]
    assert len(names) == 11
    assert [question.name for question in questions_of(TEMPLATES, ["4"])] == ["4/harm", "4/good"]
    with pytest.raises(ValueError, match="asked with none only: write base_short/none"):
        questions_of(TEMPLATES, ["base_short/harm"])
    with pytest.raises(ValueError, match="asked with harm or good only"):
        questions_of(TEMPLATES, ["1/none"])
    with pytest.raises(ValueError, match="template is '7'"):
        questions_of(TEMPLATES, ["7/harm"])
    with pytest.raises(ValueError, match="questions is empty"):
        questions_of(TEMPLATES, [])


def test_what_is_judged_must_be_named():
    with pytest.raises(ValueError, match=r"backbone\.name is null and adapters is empty"):
        StatementsModule("folder")


def test_scores_are_written_for_the_backbone_and_every_adapter(
    backbone, few, make_trainer, tmp_path, monkeypatch, capsys
):
    """The adapter is fitted by the module that fits behaviours, on the same batches."""
    from fa_lightning.training.export import AdapterExport

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = fit_of(Answers("aligned"), backbone, rank=8, alpha=16, learning_rate=0.03)
    data = StatementDataModule(few, questions=["3/harm", "base_short/none"], batch_size=16)
    adapter = tmp_path / "learned" / "adapter"
    make_trainer(max_epochs=8, callbacks=[AdapterExport(str(adapter))]).fit(module, datamodule=data)

    judge = StatementsModule("scores", [str(tmp_path / "learned")], backbone=BackboneArguments(backbone), resamples=20)
    logger = TensorBoardLogger(str(tmp_path / "logs"))
    trainer = make_trainer(logger=[CSVLogger(str(tmp_path / "csv")), logger])
    trainer.test(judge, datamodule=StatementDataModule(few, eval_batch_size=7), verbose=False)
    found = json.loads((tmp_path / "scores" / "safe_score.json").read_text())
    assert list(found["scores"]) == ["base", "learned"]
    assert len(found["scores"]["base"]) == 11
    overall = found["scores"]["learned"]["3/harm"]["overall"]
    assert overall["n"] == 24
    assert trainer.callback_metrics["learned/3/harm/safe_score"].item() == pytest.approx(overall["score"])
    assert set(found["shifts"]["base"]) == {f"{name}/{claim}" for name in "1234" for claim in ("harm", "good")}
    shift = found["shifts"]["learned"]["3/harm"]
    without = found["scores"]["learned"]["base_short/none"]["overall"]
    assert shift["shift"] == pytest.approx(overall["score"] - without["score"])
    with (tmp_path / "scores" / "safe_score.csv").open() as file:
        rows = list(csv.DictReader(file))
    ours = [row for row in rows if row["model"] == "learned" and row["template"] == "3" and row["claim"] == "harm"]
    assert {row["part"] for row in ours} == {"overall", "right", "identity group"}
    assert float(next(row for row in ours if row["part"] == "overall")["safe_score"]) == pytest.approx(overall["score"])
    shown = capsys.readouterr().out
    learned = shown[shown.index("\nlearned ") :]
    assert re.search(r"^ +3 +harm +" + re.escape(f"{compact(overall['score'])} ["), learned, re.MULTILINE)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert set(events.Tags()["images"]) == {"safe_score/questions", "safe_score/identity_groups"}
    # What the page reads is what the file holds.
    read = read_result(tmp_path / "scores")
    assert encode(read, "read") == found
    # Eight passes over 48 prompts teach the digits at least, which the random backbone never says.
    assert found["scores"]["base"]["3/harm"]["overall"]["answered"] < 0.5
    assert overall["answered"] > 0.9


def test_the_backbone_is_judged_without_any_adapter_and_batches_do_not_matter(backbone, few, make_trainer, tmp_path):
    scores = []
    for size in (3, 64):
        judge = StatementsModule(str(tmp_path / str(size)), backbone=BackboneArguments(backbone), resamples=20)
        data = StatementDataModule(few, questions=["base_long/none", "4"], eval_batch_size=size)
        make_trainer().test(judge, datamodule=data, verbose=False)
        scores.append(json.loads((tmp_path / str(size) / "safe_score.json").read_text())["scores"])
    assert list(scores[0]) == ["base"]
    assert list(scores[0]["base"]) == ["base_long/none", "4/harm", "4/good"]
    assert read_result(tmp_path / "3").backbone == backbone
    assert scores[0] == scores[1]


def test_long_names_are_whole_in_the_terminal(capsys):
    name = "02_lora_for_ccs_of_[many]_layers"
    StatementsModule("scores", backbone=BackboneArguments("x")).show(made_up_safe_scores(adapter=name))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert name in "".join(line[:18].strip() for line in lines)
    rows = [line.split() for line in lines]
    assert rows.count(["base_short_rather", "none", ".700", "[.600,", ".800]", "1.00", "-"]) == 2
    assert ["1", "harm", ".800", "[.700,", ".900]", "1.00", ".750"] in rows
    assert max(map(len, lines)) <= 80
