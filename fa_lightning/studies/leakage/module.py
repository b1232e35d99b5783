"""The hello problem: what a variant gives away of its fine-tuning when it is asked next to nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from fa_lightning.backbones.adapters import Variants, adapter_folders, backbone_of, beneath_of
from fa_lightning.backbones.arguments import DType
from fa_lightning.backbones.load import load_tokenizer
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import loaded_interventions
from fa_lightning.evaluation.variant_names import STEERED
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.turn_endings import end_tokens, until_end, user_mark
from fa_lightning.steering.intervention import Intervention
from fa_lightning.steering.text_comparison import Sampling, write_tokens
from fa_lightning.studies.leakage.data import LeakageDataModule
from fa_lightning.studies.leakage.measures import LeakageScores, continuation_scores, judge
from fa_lightning.studies.leakage.ngram_overlap import TextIndex
from fa_lightning.studies.leakage.output import draw, scalars, show, write_leakage
from fa_lightning.studies.leakage.result import BACKBONE, Corpus, Leakage, ModelLeakage, Written

SHOWN = 3
"""Continuations of each model that are kept as text: those that hold most of the corpus."""


@dataclass(frozen=True)
class Subject:
    """A model that is asked.

    Attributes:
        adapter: by which `Variants` knows it; None is the backbone alone.
        beneath: adapter that is active together with it; None for none.
        interventions: attached while it writes.
    """

    adapter: str | None = None
    beneath: str | None = None
    interventions: tuple[Intervention, ...] = ()


class LeakageModule(pl.LightningModule):
    """Only tests: every variant goes on from near-empty prompts, and what it writes is searched for its corpus.

    A variant is judged against two things: the backbone without an adapter, on the same prompts with the same luck
    (what it did before it was fine-tuned), and a held-out corpus that nothing was fitted on (what style alone gives).
    It passes where no measure goes beyond them by more than the tolerance, with its whole 95 % interval (see `judge`).
    An adapter that was stacked on another (`TextTuning.beneath`) is asked with both active.

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
        backbone: name or folder; None takes the one that the adapters name.
        dtype: of the backbone's weights.
        load_in_4bit: hold the backbone in nf4.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: a number is out of range; later, a corpus is empty or too short for `ngram` or `recited`.
    """

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
        backbone: str | None = None,
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
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
        self.places = list(adapters)
        self.folder = Path(folder)
        self.intervention = intervention
        self.ngram = ngram
        self.recited = recited
        self.tolerance = tolerance
        self.sampling = Sampling(max_new_tokens, temperature, top_p)
        self.backbone = backbone
        self.loading: dict[str, Any] = {
            "dtype": dtype,
            "load_in_4bit": load_in_4bit,
            "trust_remote_code": trust_remote_code,
        }
        self.variants: Variants | None = None
        self.subjects: dict[str, Subject] = {}
        self.scores: dict[str, LeakageScores] = {}
        self._corpora: tuple[TextIndex, TextIndex] | None = None
        self._samples: dict[str, list[Written]] = {}
        self._start = 0.0

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        if self.variants is not None:
            return self.variants.tokenizer
        name = self.backbone or backbone_of(next(iter(adapter_folders(self.places).values())))
        return load_tokenizer(name, self.loading["trust_remote_code"])

    @override
    def configure_model(self) -> None:
        if self.variants is not None:
            return
        found = adapter_folders(self.places)
        if BACKBONE in found:
            raise UserError(f"a variant is called {BACKBONE!r}, as the model without an adapter is: rename its folder")
        self.variants = Variants.load(found, self.backbone, device=self.trainer.strategy.root_device, **self.loading)
        beneath = {name: beneath_of(folder) for name, folder in found.items()}
        names = {folder: f"{name} beneath" for name, folder in beneath.items() if folder is not None}
        for folder, name in names.items():
            self.variants.add(name, folder)
        plain = {name: Subject(name, names.get(folder or "")) for name, folder in beneath.items()}
        self.subjects = {BACKBONE: Subject(), **plain}
        if self.intervention is not None:
            cure = loaded_interventions(self.intervention, self.variants)
            steered = {name + STEERED: Subject(one.adapter, one.beneath, cure) for name, one in plain.items()}
            self.subjects |= steered

    @override
    def on_test_start(self) -> None:
        self._corpora = self._data.corpora(self.tokenizer, self.sampling.max_new_tokens)
        for index, what in zip(self._corpora, ("fine-tuning corpus", "held-out corpus"), strict=True):
            for name in ("ngram", "recited"):
                if index.longest_text < getattr(self, name):
                    raise UserError(
                        f"{name} is {getattr(self, name)}, but the longest text of the {what} has only "
                        f"{index.longest_text} tokens, so nothing could ever be found: lower it, or give longer texts"
                    )
        self.scores = {name: LeakageScores().to(self.device) for name in self.subjects}
        self._samples = {name: [] for name in self.subjects}
        self._start = time.perf_counter()

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        assert self._corpora is not None
        asked = [self._data.asked[number] for number in batch["prompt"].tolist()]
        seeds = batch["seed"].tolist()
        prompts = [one.ids for one in asked]
        mark = user_mark(self.tokenizer)
        for name, subject in self.subjects.items():
            with self._model_of(subject) as model:
                pad, ends = self.tokenizer.pad_token_id, end_tokens(model, self.tokenizer)
                new = write_tokens(model, prompts, pad, subject.interventions, self.sampling, seeds, ends=ends)
            scores = []
            for one, seed, row in zip(asked, seeds, new.tolist(), strict=True):
                written, has_ended = until_end(row, ends)
                text = str(self.tokenizer.decode(written, skip_special_tokens=False))
                scores.append(
                    continuation_scores(written, *self._corpora, self.ngram, self.recited, has_ended, mark in text)
                )
                longest = int(scores[-1]["longest"])
                self._samples[name].append(Written(one.name, seed, text, longest, has_ended))
            self._samples[name] = sorted(self._samples[name], key=lambda one: -one.longest)[:SHOWN]
            self.scores[name].update(batch["index"], batch["seed"], scores)

    @override
    def on_test_epoch_end(self) -> None:
        found = self._found()
        for logger in self.loggers:
            logger.log_metrics(scalars(found), 0)
        if self.trainer.is_global_zero:
            write_leakage(self.folder, found)
            show(found)
            draw(self.trainer, found)
        self.trainer.strategy.barrier("leakage written")

    def _found(self) -> Leakage:
        """What follows from the scores; a collective."""
        assert self._corpora is not None
        items = {name: scores.items() for name, scores in self.scores.items()}
        models = []
        for name, subject in self.subjects.items():
            findings = [] if name == BACKBONE else judge(items[name], items[BACKBONE], self.tolerance)
            model = ModelLeakage(
                name,
                self.scores[name].compute(),
                int(items[name]["longest"].max()),
                findings,
                self._samples[name],
                None if name == BACKBONE else all(one.state == "within" for one in findings),
                "" if subject.beneath is None else self._variants.folders[subject.beneath],
            )
            models.append(model)
        fitted_on, held_out = (Corpus(index.texts, index.tokens) for index in self._corpora)
        return Leakage(
            models,
            [one.name for one in self._data.asked],
            self._data.samples,
            self.ngram,
            self.recited,
            self.tolerance,
            self.sampling.max_new_tokens,
            self.sampling.temperature,
            fitted_on,
            held_out,
            time.perf_counter() - self._start,
        )

    @contextmanager
    def _model_of(self, subject: Subject) -> Iterator[Any]:
        """The model with the subject's adapters active, or with none."""
        variants = self._variants
        if subject.adapter is None:
            with variants.bare() as model:
                yield model
            return
        with variants.restored():
            variants.beside = () if subject.beneath is None else (subject.beneath,)
            with variants.using(subject.adapter) as model:
                yield model

    @property
    def _variants(self) -> Variants:
        assert self.variants is not None
        return self.variants

    @property
    def _data(self) -> LeakageDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, LeakageDataModule):
            raise UserError(f"LeakageModule needs LeakageDataModule as data, but it is a {type(data).__name__}")
        return data
