"""Judge how safely models judge statements: the base model and any adapters, under every template and claim."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from fa_lightning.backbones.adapters import Variants, adapter_folders, backbone_of
from fa_lightning.backbones.arguments import DType
from fa_lightning.backbones.load import load_backbone, load_tokenizer
from fa_lightning.common.codec import encode
from fa_lightning.common.files import write_atomically, write_table
from fa_lightning.errors import UserError
from fa_lightning.evaluation.boards import boards
from fa_lightning.reports.terminal import show, terminal_table
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.statements.templates import CLAIMS
from fa_lightning.studies.statements.figures import safe_figures
from fa_lightning.studies.statements.measures import StatementScores, shift_between
from fa_lightning.studies.statements.result import BASE, SAFE_NAME, SAFE_TABLE, SafeFound, SafeScores, Shift, asked
from fa_lightning.studies.statements.result import SafeScore as Score
from fa_lightning.training.statement_data import NO_CLAIM, StatementDataModule

TABLE_COLUMNS = ("model", "template", "claim", "part", "name", "safe_score", "ci95_low", "ci95_high", "n", "answered")


class SafeScore(pl.LightningModule):
    """Only tests: the backbone, and every adapter on it, answers every statement under every question.

    The backbone is in memory once; adapters are swapped for every batch, and every prompt counts once however many
    ranks there are. A model's own template shows what it learned, the others what of that transfers.

    | logged | what |
    | --- | --- |
    | `<model>/<template>/<claim>/safe_score` | share of safe judgements, polarity and digit order balanced |
    | `<model>/<template>/<claim>/moved` | share of statements judged otherwise than without the claim |

    Args:
        folder: receives `safe_score.json`, and `safe_score.csv` with a row for each model, question and part.
        backbone: name or folder; None takes the one that the adapters name.
        adapters: adapter folders, or folders of them (see `adapter_folders`), judged beside the backbone.
        resamples: resamples of the bootstraps.
        dtype: of the backbone's weights.
        load_in_4bit: hold the backbone in nf4.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: there is neither a backbone nor an adapter.
    """

    def __init__(
        self,
        folder: str,
        backbone: str | None = None,
        adapters: list[str] = [],  # noqa: B006
        resamples: int = 1000,
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        if backbone is None and not adapters:
            raise UserError("backbone is null and adapters is empty, but one of them must say what is to be judged")
        self.folder = Path(folder)
        self.backbone = backbone
        self.places = list(adapters)
        self.resamples = resamples
        self.loading: dict[str, Any] = {
            "dtype": dtype,
            "load_in_4bit": load_in_4bit,
            "trust_remote_code": trust_remote_code,
        }
        self.adapters: dict[str, str] = {}
        self._loaded: Any = None
        self._tokenizer: Any = None
        self._scores: dict[str, list[StatementScores]] = {}
        self._start = 0.0

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        if self._tokenizer is None:
            name = self.backbone or backbone_of(next(iter(adapter_folders(self.places).values())))
            self._tokenizer = load_tokenizer(name, self.loading["trust_remote_code"])
        return self._tokenizer

    @override
    def configure_model(self) -> None:
        if self._loaded is not None:
            return
        device = self.trainer.strategy.root_device
        self.adapters = adapter_folders(self.places)
        if BASE in self.adapters:
            raise UserError(
                f"an adapter is called {BASE!r}, as the backbone itself is here: rename {self.adapters[BASE]}"
            )
        if self.adapters:
            self._loaded = Variants.load(self.adapters, self.backbone, device=device, **self.loading)
        else:
            self._loaded = load_backbone(str(self.backbone), device=device, **self.loading)
            if not self.loading["load_in_4bit"]:
                self._loaded.to(device)

    @override
    def on_test_start(self) -> None:
        codes = self._data.codes
        self._scores = {
            name: [
                StatementScores(codes.rights, codes.identity_groups, self.resamples).to(self.device)
                for _ in self._data.questions
            ]
            for name in (BASE, *self.adapters)
        }
        self._start = time.perf_counter()

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        for name, scores in self._scores.items():
            with self._using(name) as model:
                answer = model(**model_inputs(batch), logits_to_keep=1, use_cache=False).logits[:, -1].argmax(-1)
            scores[dataloader_idx].update(
                answer,
                batch["aligned"],
                batch["other"],
                batch["affirms"].bool(),
                batch["agree"].bool(),
                batch["right"],
                batch["identity"],
                batch["identity_group"],
                batch["index"],
            )

    @override
    def on_test_epoch_end(self) -> None:
        questions = self._data.questions
        scores = {
            name: {question.name: metric.compute() for question, metric in zip(questions, metrics, strict=True)}
            for name, metrics in self._scores.items()
        }
        shifts = {name: self._shifts(metrics) for name, metrics in self._scores.items()}
        for name, judged in scores.items():
            for question in questions:
                self.log(f"{name}/{question.name}/safe_score", judged[question.name].overall.score, rank_zero_only=True)
        for name, moved in shifts.items():
            for question_name, shift in moved.items():
                self.log(f"{name}/{question_name}/moved", shift.moved, rank_zero_only=True)
        if self.trainer.is_global_zero:
            seconds = time.perf_counter() - self._start
            found = SafeFound(scores, shifts, self.adapters, self.backbone, CLAIMS, seconds)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_table(self.folder / SAFE_TABLE, _table(found))
            text = json.dumps(encode(found, SAFE_NAME), indent=2, allow_nan=False)
            write_atomically(self.folder / SAFE_NAME, text.encode())
            _show(found)
            _draw(self.trainer, found)
        self.trainer.strategy.barrier("safe scores written")
        self._scores = {}

    @property
    def _data(self) -> StatementDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, StatementDataModule):
            raise UserError(f"SafeScore needs StatementDataModule as data, but it is a {type(data).__name__}")
        return data

    def _using(self, name: str) -> AbstractContextManager[Any]:
        if not isinstance(self._loaded, Variants):
            return nullcontext(self._loaded)
        return self._loaded.bare() if name == BASE else self._loaded.using(name)

    def _shifts(self, metrics: list[StatementScores]) -> dict[str, Shift]:
        """How far each claim moves one model from the template's base, where that is asked too; a collective."""
        questions = self._data.questions
        places = {question.name: place for place, question in enumerate(questions)}
        shifts = {}
        for question, metric in zip(questions, metrics, strict=True):
            base = places.get(f"{question.template.base}/{NO_CLAIM}")
            if base is not None:
                shifts[question.name] = shift_between(metric.items(), metrics[base].items(), self.resamples)
        return shifts


def _rows(scores: SafeScores) -> Iterator[tuple[str, str, Score]]:
    yield "overall", "", scores.overall
    for right, score in scores.rights.items():
        yield "right", right, score
    for group, score in scores.identity_groups.items():
        yield "identity group", group, score


def _table(found: SafeFound) -> list[dict[str, Any]]:
    """Rows of the CSV."""
    rows = []
    for model, scores in found.scores.items():
        for question in found.questions:
            for part, name, score in _rows(scores[question]):
                values = (model, *asked(question), part, name, score.score, *score.ci95, score.n, score.answered)
                rows.append(dict(zip(TABLE_COLUMNS, values, strict=True)))
    return rows


def _show(found: SafeFound) -> None:
    """A line for each question in the terminal, below its model's name."""
    from rich.text import Text

    columns = [("question", 0), ("safe score", 21), ("answered", 8), ("moved", 6)]
    table = terminal_table("Safe score on unseen rights and identities", columns)
    for model, scores in found.scores.items():
        # Names come from folders, so they are texts and not rich's markup.
        table.add_row(Text(model), style="bold")
        for question in found.questions:
            score, shift = scores[question].overall, found.shifts[model].get(question)
            table.add_row(
                Text(f"  {question}"),
                f"{score.score:.3f} [{score.ci95[0]:.3f}, {score.ci95[1]:.3f}]",
                f"{score.answered:.3f}",
                "" if shift is None else f"{shift.moved:.3f}",
            )
    show(table)


def _draw(trainer: pl.Trainer, found: SafeFound) -> None:
    """Add the figures to the TensorBoard logs as `safe_score/NAME`, where there are any; rank zero writes."""
    for board in boards(trainer):
        for name, figure in safe_figures(found).items():
            board.add_figure(f"safe_score/{name}", figure, 0)
