"""The hello problem: what a variant gives away of its fine-tuning when it is asked next to nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fa_lightning.backbones.adapters import beneath_of
from fa_lightning.errors import UserError
from fa_lightning.evaluation.module import EvaluationModule
from fa_lightning.evaluation.variant_names import STEERED
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.turn_endings import end_tokens, until_end, user_mark
from fa_lightning.steering.intervention import Intervention
from fa_lightning.steering.text_comparison import Sampling, write_tokens
from fa_lightning.studies.leakage.data import LeakageDataModule
from fa_lightning.studies.leakage.figures import leakage_figure
from fa_lightning.studies.leakage.measures import LeakageScores, continuation_scores, judge
from fa_lightning.studies.leakage.ngram_overlap import TextIndex
from fa_lightning.studies.leakage.output import sample_texts, scalars, write_leakage
from fa_lightning.studies.leakage.result import BACKBONE, Corpus, Leakage, ModelLeakage, Written
from fa_lightning.studies.leakage.tables import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT_SAMPLES = 3
"""Continuations of each model that are kept as text: those that hold most of the corpus."""


@dataclass(frozen=True)
class AskedModel:
    """A model that goes on from prompts.

    Attributes:
        adapter: by which `Variants` knows it; None is the backbone alone.
        beneath: adapter that is active together with it; None for none.
        interventions: attached while it writes.
    """

    adapter: str | None = None
    beneath: str | None = None
    interventions: tuple[Intervention, ...] = ()


class LeakageModule(EvaluationModule[LeakageDataModule, Leakage]):
    """Only tests: every variant goes on from near-empty prompts, and what it writes is searched for its corpus.

    A variant is judged against two things: the backbone without an adapter, on the same prompts with the same luck
    (what it did before it was fine-tuned), and a held-out corpus that nothing was fitted on (what style alone gives).
    It passes where no measure goes beyond them by more than the tolerance, with its whole 95 % interval (see `judge`).
    An adapter that was stacked on another (`beneath` of `AdapterModule`) is asked with both active.

    | logged | what |
    | --- | --- |
    | `<model>/<measure>` | recitation, overlap, repetition, no_end, run_on: shares of continuations or n-grams |
    | `<model>/excess/<measure>` | the same beyond backbone and style, which the verdict is about |
    | `<model>/passes` | 1 or 0 |

    Args:
        adapters: adapter folders, or folders of them (see `adapter_folders`): the variants.
        folder: receives `leakage.json`, and `leakage.csv` with a row for each model.
        intervention: folder of one; every variant is then asked with it attached, too.
        ngram: tokens in an n-gram of the overlap.
        recited: tokens of one text in a row from which on it is recited (50 in arXiv 2202.07646).
        tolerance: largest excess that passes, a share; recitation that is sure never does.
        max_new_tokens: where a continuation is cut.
        temperature: of the sampling; above 0, or all samples of a prompt would be the same one.
        top_p: draw among the most likely tokens that hold this much of the probability.
        **options: of `EvaluationModule`.

    Raises:
        UserError: a number is out of range; later, a corpus is empty or too short for `ngram` or `recited`.
    """

    data_class = LeakageDataModule
    bare_name = BACKBONE

    def __init__(
        self,
        adapters: list[str],
        folder: str,
        intervention: str | None = None,
        ngram: int = 8,
        recited: int = 50,
        tolerance: float = 0.1,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_p: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(adapters, folder, **options)
        for name, value in (("ngram", ngram), ("recited", recited)):
            if not 1 <= value <= max_new_tokens:
                raise UserError(
                    f"{name} is {value}, but must lie between 1 and max_new_tokens, which is {max_new_tokens}"
                )
        if not 0 <= tolerance < 1:
            raise UserError(f"tolerance is {tolerance}, but must be a share from 0 to below 1, such as 0.1")
        if temperature == 0:
            raise UserError(
                f"temperature is {temperature}, but then every seed writes the same: one sample many times looks like "
                "sure evidence. Give one above 0, such as 1.0"
            )
        self.intervention = intervention
        self.ngram = ngram
        self.recited = recited
        self.tolerance = tolerance
        self.sampling = Sampling(max_new_tokens, temperature, top_p)
        self.models: dict[str, AskedModel] = {}
        self.scores: dict[str, LeakageScores] = {}
        self._corpora: tuple[TextIndex, TextIndex] | None = None
        self._samples: dict[str, list[Written]] = {}

    @override
    def prepare_models(self) -> None:
        beneath = {name: beneath_of(folder) for name, folder in self.variants.folders.items()}
        names = {folder: f"{name} beneath" for name, folder in beneath.items() if folder is not None}
        for folder, name in names.items():
            self.variants.add(name, folder)
        self.models = {BACKBONE: AskedModel()}
        self.models |= {name: AskedModel(name, names.get(folder or "")) for name, folder in beneath.items()}
        if self.interventions:
            self.models |= {
                name + STEERED: AskedModel(name, names.get(folder or ""), self.interventions)
                for name, folder in beneath.items()
            }

    @override
    def begin(self) -> None:
        self._corpora = self.data.corpora(self.tokenizer, self.sampling.max_new_tokens)
        for index, what in zip(self._corpora, ("fine-tuning corpus", "held-out corpus"), strict=True):
            for name in ("ngram", "recited"):
                if index.longest_text < getattr(self, name):
                    raise UserError(
                        f"{name} is {getattr(self, name)}, but the longest text of the {what} has only "
                        f"{index.longest_text} tokens, so nothing could ever be found: lower it, or give longer texts"
                    )
        self.scores = {name: LeakageScores().to(self.device) for name in self.models}
        self._samples = {name: [] for name in self.models}

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        assert self._corpora is not None
        prompts = [self.data.asked_prompts[number] for number in batch["prompt"].tolist()]
        seeds = batch["seed"].tolist()
        mark = user_mark(self.tokenizer)
        for name, asked in self.models.items():
            with self._active(asked) as model:
                pad, ends = self.tokenizer.pad_token_id, end_tokens(model, self.tokenizer)
                new = write_tokens(
                    model, [prompt.ids for prompt in prompts], pad, asked.interventions, self.sampling, seeds, ends=ends
                )
            scores = []
            for prompt, seed, row in zip(prompts, seeds, new.tolist(), strict=True):
                written, has_ended = until_end(row, ends)
                text = str(self.tokenizer.decode(written, skip_special_tokens=False))
                scores.append(
                    continuation_scores(written, *self._corpora, self.ngram, self.recited, has_ended, mark in text)
                )
                longest = int(scores[-1]["longest"])
                self._samples[name].append(Written(prompt.name, seed, text, longest, has_ended))
            self._samples[name] = sorted(self._samples[name], key=lambda sample: -sample.longest)[:KEPT_SAMPLES]
            self.scores[name].update(batch["index"], batch["seed"], scores)

    @override
    def result(self) -> Leakage:
        assert self._corpora is not None
        items = {name: scores.items() for name, scores in self.scores.items()}
        models = []
        for name, asked in self.models.items():
            findings = [] if name == BACKBONE else judge(items[name], items[BACKBONE], self.tolerance)
            model = ModelLeakage(
                name,
                self.scores[name].compute(),
                int(items[name]["longest"].max()),
                findings,
                self._samples[name],
                None if name == BACKBONE else all(finding.state == "within" for finding in findings),
                "" if asked.beneath is None else self.variants.folders[asked.beneath],
            )
            models.append(model)
        fitted_on, held_out = (Corpus(index.texts, index.tokens) for index in self._corpora)
        return Leakage(
            models,
            [prompt.name for prompt in self.data.asked_prompts],
            self.data.samples,
            self.ngram,
            self.recited,
            self.tolerance,
            self.sampling.max_new_tokens,
            self.sampling.temperature,
            fitted_on,
            held_out,
            self.seconds,
        )

    @override
    def write(self, result: Leakage) -> None:
        write_leakage(self.folder, result)

    @override
    def show(self, result: Leakage) -> None:
        print_tables(tables(result).values())

    @override
    def scalars(self, result: Leakage) -> Mapping[str, float]:
        return scalars(result)

    @override
    def figures(self, result: Leakage) -> Mapping[str, Figure]:
        return {"leakage/measures": leakage_figure(result)}

    @override
    def texts(self, result: Leakage) -> Mapping[str, str]:
        return {f"leakage/{name}": text for name, text in sample_texts(result).items()}

    @contextmanager
    def _active(self, asked: AskedModel) -> Iterator[Any]:
        """The model with the adapters active that it was fitted with, or with none."""
        if asked.adapter is None:
            with self.variants.bare() as model:
                yield model
            return
        with self.variants.restored():
            self.variants.beside = () if asked.beneath is None else (asked.beneath,)
            with self.variants.using(asked.adapter) as model:
                yield model
