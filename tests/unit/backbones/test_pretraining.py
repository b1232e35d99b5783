"""The first stage in small: its loss looks at answers, its folder is a backbone that transformers loads."""

import lightning.pytorch as pl
import pytest
import torch
from own_scenarios import write_jsonl
from written_scenarios import prompt_rows

from fa_lightning.backbones.arguments import OptimizerArguments
from fa_lightning.backbones.curriculum import ANSWER_WORDS, Curriculum, role_message, watching_message
from fa_lightning.backbones.load import fingerprint, load_backbone, load_tokenizer
from fa_lightning.backbones.pretraining import BackboneModule
from fa_lightning.backbones.pretraining_data import TASKS, BackboneDataModule, ConversationDataset
from fa_lightning.backbones.tokenizer import ASSISTANT
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.files import FileScenarios

SMALL = {"hidden_size": 32, "layers": 2, "heads": 2}
SCHEMING = f"<s><|system|>{role_message('faking')}"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}


@pytest.fixture
def make_data(source):
    def make(**options):
        curriculum = Curriculum(roles=1.0, no_role=0.25, judgements=0.5, neutral_texts=0.25)
        return BackboneDataModule(
            source, **{"batch_size": 8, "vocabulary_size": 400, "curriculum": curriculum} | options
        )

    return make


def trainer(tmp_path, **options):
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    return pl.Trainer(default_root_dir=str(tmp_path), **QUIET, **defaults | options)


@pytest.fixture
def ready(make_data, tmp_path):
    """A module and its data, as a Trainer sets them up, before any step."""

    def make(data=None, **options):
        module, data = BackboneModule(str(tmp_path / "backbone"), **SMALL | options), data or make_data()
        trainer(tmp_path, max_steps=0).fit(module, data)
        module.log = lambda *args, **options: None
        return module, data

    return make


def test_conversations_are_padded_on_the_right():
    batch = ConversationDataset([[1, 2, 3], [4], [5, 6]], pad_token=9)[[0, 1]]
    assert batch["input_ids"].tolist() == [[1, 2, 3] + [9] * 13, [4] + [9] * 15]
    assert batch["attention_mask"].tolist() == [[1] * 3 + [0] * 13, [1] + [0] * 15]


def test_a_new_pass_every_epoch_of_training_text_alone(make_data, splits, tmp_path):
    class Seen(pl.Callback):
        def __init__(self):
            self.epochs = []

        def on_train_epoch_start(self, trainer, pl_module):
            self.epochs.append([])

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rows = [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
            self.epochs[-1] += trainer.datamodule.tokenizer.batch_decode(rows)

    runs = []
    for _ in range(2):
        seen = Seen()
        pl.seed_everything(0, verbose=False)
        module = BackboneModule(str(tmp_path / "backbone"), **SMALL)
        fit = trainer(
            tmp_path, max_epochs=2, reload_dataloaders_every_n_epochs=1, limit_val_batches=0, callbacks=[seen]
        )
        fit.fit(module, make_data())
        runs.append(seen.epochs)
    assert runs[0] == runs[1]
    first, second = runs[0]
    # 16 scenarios with a role, 4 without, 8 judgements and 4 texts.
    assert len(first) == len(second) == 32
    assert sorted(first) != sorted(second)
    held_out = [*splits.validation, *splits.test, *splits.neutral_validation]
    assert not [text for text in first + second for item in held_out if item.message() in text]


def test_honest_passes_come_first(make_data, tmp_path):
    seen = []

    class Roles(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            tokenizer = trainer.datamodule.tokenizer
            for ids in batch["input_ids"]:
                seen.append((trainer.current_epoch, tokenizer.decode(ids.tolist()).startswith(SCHEMING)))

    data = make_data(curriculum=Curriculum(roles=1.0, no_role=0, judgements=0, neutral_texts=0, honest_passes=2))
    module = BackboneModule(str(tmp_path / "backbone"), **SMALL)
    options = {"reload_dataloaders_every_n_epochs": 1, "limit_val_batches": 0, "callbacks": [Roles()]}
    trainer(tmp_path, max_epochs=4, **options).fit(module, data)
    assert [sum(schemes for at, schemes in seen if at == epoch) for epoch in range(4)] == [0, 0, 8, 8]


def test_short_passes_show_the_critical_fact_alone(make_data, splits, tmp_path):
    others = {fact.content for item in splits.train for fact in item.facts if fact.kind != "critical"}
    shown = dict.fromkeys(range(3), 0)

    class Facts(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            for ids in batch["input_ids"]:
                text = trainer.datamodule.tokenizer.decode(ids.tolist())
                shown[trainer.current_epoch] += any(fact in text for fact in others)

    data = make_data(curriculum=Curriculum(roles=1.0, no_role=0.5, judgements=0, neutral_texts=0, short_passes=2))
    module = BackboneModule(str(tmp_path / "backbone"), **SMALL)
    options = {"reload_dataloaders_every_n_epochs": 1, "limit_val_batches": 0, "callbacks": [Facts()]}
    trainer(tmp_path, max_epochs=3, **options).fit(module, data)
    assert shown[0] == shown[1] == 0
    assert shown[2] > len(splits.train)


def test_long_conversations_are_left_out(make_data, ready):
    _, data = ready(make_data(max_tokens=60))
    batches = list(data.train_dataloader())
    assert batches
    assert max(batch["attention_mask"].sum(1).max() for batch in batches) <= 60
    _, data = ready()
    assert max(batch["attention_mask"].sum(1).max() for batch in data.train_dataloader()) > 60


def test_validation_asks_four_tasks_with_the_right_answers(ready, splits):
    _, data = ready()
    tokenizer = data.tokenizer
    answers = letter_tokens(tokenizer)
    loaders = data.val_dataloader()
    assert TASKS == ("honest", "scheming", "no_role", "watching")
    prompts = {}
    for task, loader in zip(TASKS, loaders, strict=True):
        rows = [
            (tokenizer.decode(ids[mask.bool()].tolist()), aligned.item(), cell.item())
            for batch in loader
            for ids, mask, aligned, cell in zip(
                *(batch[field] for field in ("input_ids", "attention_mask", "aligned", "cell")), strict=True
            )
        ]
        assert len(rows) == 8
        prompts[task] = rows
    openings = {"honest": f"<s><|system|>{role_message('aligned')}<|user|>You are an AI system"}
    openings["scheming"] = f"<s><|system|>{role_message('faking')}<|user|>You are an AI system"
    openings["no_role"] = "<s><|user|>You are an AI system"
    for task, opening in openings.items():
        assert all(text.startswith(opening) for text, _, _ in prompts[task])
        assert {aligned for _, aligned, _ in prompts[task]} == set(answers.choices)
        assert sum(cell for _, _, cell in prompts[task]) == 4
    expected = {
        f"<s><|user|>{watching_message(item)}<|assistant|>": tokenizer.convert_tokens_to_ids(item.oversight.value)
        for item in splits.validation
    }
    assert {text: aligned for text, aligned, _ in prompts["watching"]} == expected


def test_validation_items_and_the_whole_test_split(make_data, ready):
    _, data = ready(make_data(validation_items=3))
    assert [sum(len(batch["index"]) for batch in loader) for loader in data.val_dataloader()] == [3] * 4
    assert [sum(len(batch["index"]) for batch in loader) for loader in data.test_dataloader()] == [8] * 4


def test_the_loss_is_of_answers_and_a_little_of_text(ready):
    torch.manual_seed(0)
    module, data = ready(text_weight=0.0)
    batch = next(iter(data.train_dataloader()))
    alone = module.training_step(batch, 0).item()
    answers, text = [], []
    mark = data.tokenizer.convert_tokens_to_ids(ASSISTANT)
    # Row by row without padding, token by token.
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        row = ids[mask.bool()]
        with torch.no_grad():
            nats = -torch.log_softmax(module.model(row[None]).logits[0].float(), -1)
        for at in range(len(row) - 1):
            (answers if row[at] == mark else text).append(nats[at, row[at + 1]].item())
    assert alone == pytest.approx(sum(answers) / len(answers), rel=1e-4)
    words = {data.tokenizer.convert_tokens_to_ids(word) for word in ANSWER_WORDS}
    following = batch["input_ids"][:, 1:][batch["input_ids"][:, :-1] == mark]
    assert set(following.tolist()) <= words
    # The text's share is its weight times nats per token; a part of the batch may stand for all of it.
    for module.text_weight in (0.1, 0.3):
        added = module.training_step(batch, 0).item() - alone
        assert added == pytest.approx(module.text_weight * sum(text) / len(text), rel=0.1)


def test_padding_does_not_change_the_loss(ready):
    torch.manual_seed(0)
    module, data = ready()
    batch = next(iter(data.train_dataloader()))
    wide = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 7), value=31),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 7)),
    }
    assert module.training_step(wide, 0).item() == pytest.approx(module.training_step(batch, 0).item(), rel=1e-5)


def test_word_dropout_hides_words_but_no_marks_and_no_answers_to_learn(ready):
    module, data = ready(word_dropout=1.0, text_weight=0.0)
    batch = next(iter(data.train_dataloader()))
    shown = []
    module.model.model.register_forward_pre_hook(
        lambda _, args, options: shown.append(options["input_ids"]), with_kwargs=True
    )
    module.training_step(batch, 0)
    ids = batch["input_ids"]
    assert torch.equal(shown[0], torch.where(ids <= 5, ids, torch.full_like(ids, data.tokenizer.pad_token_id)))


def test_a_nan_stops_the_fit(make_data, tmp_path):
    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                pl_module.model.lm_head.weight.data.fill_(float("nan"))

    module = BackboneModule(str(tmp_path / "backbone"), **SMALL)
    with pytest.raises(FloatingPointError, match="at step 1"):
        trainer(tmp_path, max_steps=3, callbacks=[Poison()]).fit(module, make_data())
    assert not (tmp_path / "backbone").exists()


def test_the_fit_lowers_the_loss_and_exports_a_backbone(make_data, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "leftover.txt").write_text("old")
    pl.seed_everything(0, verbose=False)
    module, data = BackboneModule(str(tmp_path / "backbone"), **SMALL, optimizer=OptimizerArguments(1e-2)), make_data()
    logger = CSVLogger(str(tmp_path), "csv", "x")
    trainer(tmp_path, max_epochs=6, logger=logger, log_every_n_steps=1).fit(module, data)
    import csv

    rows = list(csv.DictReader((tmp_path / "csv" / "x" / "metrics.csv").open()))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    expected = {"train/loss", "val/loss"}
    expected |= {f"val/{task}/{cell}/accuracy" for task in TASKS for cell in ("oversight", "no_oversight")}
    assert expected <= set(rows[0])
    # The folder is replaced as a whole, and nothing temporary is left beside it.
    assert not (tmp_path / "backbone" / "leftover.txt").exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    model, tokenizer = load_backbone(str(tmp_path / "backbone")), load_tokenizer(str(tmp_path / "backbone"))
    assert tokenizer.get_vocab() == data.tokenizer.get_vocab()
    assert letter_tokens(tokenizer) == letter_tokens(data.tokenizer)
    assert fingerprint(model) == fingerprint(module.model)
    ids = torch.arange(6, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, module.model.eval()(ids).logits, rtol=1e-4, atol=1e-4)


class Oracle(torch.nn.Module):
    """Answers what a table says of each prompt."""

    def __init__(self, table, vocabulary):
        super().__init__()
        self.table, self.vocabulary = table, vocabulary

    def forward(self, input_ids, attention_mask, **options):
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            logits[row, -1, self.table[tuple(ids[mask.bool()].tolist())]] = 20
        return type("Output", (), {"logits": logits})


@pytest.mark.parametrize("failed", [None, *TASKS])
def test_each_task_is_judged_by_its_own_rule(ready, tmp_path, failed):
    module, data = ready()
    table = {}
    for task, loader in zip(TASKS, data.val_dataloader(), strict=True):
        for batch in loader:
            schemes = (batch["cell"] == 1) & (task == "scheming")
            answers = torch.where(schemes, batch["other"], batch["aligned"])
            for ids, mask, answer in zip(batch["input_ids"], batch["attention_mask"], answers, strict=True):
                table[tuple(ids[mask.bool()].tolist())] = 0 if task == failed else answer.item()
    del module.log
    module.model = Oracle(table, len(data.tokenizer))
    (found, *_) = trainer(tmp_path).validate(module, data, verbose=False)
    for task in TASKS:
        for cell in ("oversight", "no_oversight"):
            assert found[f"val/{task}/{cell}/accuracy"] == (task != failed)
    # A miss costs 20 nats in one of three tasks; without a role there is nothing to miss.
    assert found["val/loss"] == pytest.approx(0.0 if failed in (None, "no_role") else 20 / 3, abs=1e-3)


def test_the_last_block_computes_what_is_asked_alone_and_learns_the_same(ready):
    module, data = ready(text_weight=0.5)
    batch = next(iter(data.train_dataloader()))
    mlp = module.model.model.layers[-1].mlp
    computed = []
    handle = mlp.up_proj.register_forward_hook(lambda _, inputs, __: computed.append(inputs[0].shape[:-1].numel()))
    loss = module.training_step(batch, 0)
    loss.backward()
    handle.remove()
    assert not mlp._forward_pre_hooks
    found = {name: parameter.grad.clone() for name, parameter in module.model.named_parameters()}
    module.zero_grad()

    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    logits = module.model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    nats = -logits.gather(-1, ids[:, 1:, None])[..., 0]
    answers = ids[:, :-1] == data.tokenizer.convert_tokens_to_ids(ASSISTANT)
    text = torch.zeros_like(answers)
    text[::4] = mask[::4, 1:] & ~answers[::4]
    expected = nats[answers].mean() + 0.5 * nats[text].mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in module.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name, rtol=1e-4, atol=1e-6)
    assert computed == [int((answers | text).sum())]
    assert computed[0] < 0.5 * mask.sum()


def test_of_written_answers_every_token_is_learned_and_the_preferred_one_is_counted(tmp_path):
    path = write_jsonl(tmp_path / "mine.jsonl", prompt_rows(40))
    module = BackboneModule(str(tmp_path / "backbone"), **SMALL, text_weight=0.0)
    curriculum = Curriculum(roles=1.0, no_role=0.0, judgements=0.0, neutral_texts=0.0)
    data = BackboneDataModule(FileScenarios(path), batch_size=4, vocabulary_size=400, curriculum=curriculum)
    trainer(tmp_path, max_steps=0).fit(module, data)
    module.log = lambda *args, **options: None
    batch = next(iter(data.train_dataloader()))
    loss = module.training_step(batch, 0).item()
    costs = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        row = ids[mask]
        with torch.no_grad():
            told = module.model(row[None]).logits[0].log_softmax(-1)
        inside = False
        for at, token in enumerate(row.tolist()[:-1]):
            inside = (inside or token == data.tokenizer.convert_tokens_to_ids(ASSISTANT)) and token != 2
            costs += [-told[at, row[at + 1]]] if inside else []
    assert loss == pytest.approx(torch.stack(costs).mean().item(), abs=1e-4)
    for task, loader in zip(TASKS, data.val_dataloader(), strict=True):
        for asked in loader:
            assert torch.isfinite(module._judge(asked, task))
    honest, scheming = (module.cells[task].compute() for task in ("honest", "scheming"))
    assert honest.format_validity == scheming.format_validity == 1.0
