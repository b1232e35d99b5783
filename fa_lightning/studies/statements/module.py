"""Judge how safely models judge statements: the base model and any adapters, under every template and claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.evaluation.module import EvaluationModule
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.answers import answer_logits
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.statements.templates import CLAIMS
from fa_lightning.studies.statements.figures import safe_figures
from fa_lightning.studies.statements.measures import StatementScores, shift_between
from fa_lightning.studies.statements.output import scalars, write_statements
from fa_lightning.studies.statements.result import BASE, Shift, StatementsResult
from fa_lightning.studies.statements.tables import tables
from fa_lightning.training.statement_data import NO_CLAIM, StatementDataModule

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class StatementsModule(EvaluationModule[StatementDataModule, StatementsResult]):
    """Only tests: the backbone, and every adapter on it, answers every statement under every question.

    Every prompt counts once however many ranks there are. A model's own template shows what it learned, the others what
    of that transfers.

    | logged | what |
    | --- | --- |
    | `<model>/<template>/<claim>/safe_score` | share of safe judgements, polarity and digit order balanced |
    | `<model>/<template>/<claim>/moved` | share of statements judged otherwise than without the claim |

    Args:
        folder: receives `safe_score.json`, and `safe_score.csv` with a row for each model, question and part.
        adapters: adapter folders, or folders of them (see `adapter_folders`), judged beside the backbone.
        resamples: resamples of the bootstraps.
        **options: of `EvaluationModule`.

    Raises:
        UserError: there is neither a backbone nor an adapter.
    """

    data_class = StatementDataModule
    bare_name = BASE
    scalars_are_metrics = True

    def __init__(self, folder: str, adapters: list[str] = [], resamples: int = 1000, **options: Any) -> None:  # noqa: B006
        super().__init__(adapters, folder, **options)
        if self.backbone.name is None and not adapters:
            raise UserError(
                "backbone.name is null and adapters is empty, but one of them must say what is to be judged"
            )
        self.resamples = resamples
        self._scores: dict[str, list[StatementScores]] = {}

    @override
    def begin(self) -> None:
        codes = self.data.codes
        self._scores = {
            name: [
                StatementScores(codes.rights, codes.identity_groups, self.resamples).to(self.device)
                for _ in self.data.questions
            ]
            for name in (BASE, *self.variants.names)
        }

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        for name, scores in self._scores.items():
            with self.using(name) as model:
                answer = answer_logits(model, model_inputs(batch)).argmax(-1)
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
    def result(self) -> StatementsResult:
        names = [question.name for question in self.data.questions]
        scores = {
            model: {name: metric.compute() for name, metric in zip(names, metrics, strict=True)}
            for model, metrics in self._scores.items()
        }
        shifts = {model: self._shifts(metrics) for model, metrics in self._scores.items()}
        self._scores = {}
        return StatementsResult(scores, shifts, self.variants.folders, self.backbone.name, CLAIMS, self.seconds)

    @override
    def scalars(self, result: StatementsResult) -> Mapping[str, float]:
        return scalars(result)

    @override
    def write(self, result: StatementsResult) -> None:
        write_statements(self.folder, result)

    @override
    def show(self, result: StatementsResult) -> None:
        print_tables(tables(result).values())

    @override
    def figures(self, result: StatementsResult) -> Mapping[str, Figure]:
        return {f"safe_score/{name}": figure for name, figure in safe_figures(result).items()}

    def _shifts(self, metrics: list[StatementScores]) -> dict[str, Shift]:
        """How far each claim moves one model from the template's base, where that is asked too; a collective."""
        questions = self.data.questions
        numbers = {question.name: number for number, question in enumerate(questions)}
        shifts = {}
        for question, metric in zip(questions, metrics, strict=True):
            base = numbers.get(f"{question.template.base}/{NO_CLAIM}")
            if base is not None:
                shifts[question.name] = shift_between(metric.items(), metrics[base].items(), self.resamples)
        return shifts
