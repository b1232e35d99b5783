"""Examine many variants with many detectors, and say of every pair which one fakes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.errors import UserError
from fa_lightning.evaluation.module import EvaluationModule
from fa_lightning.metrics.distinct_items import DistinctTensors
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.detection.answers import ANSWERS, Answers
from fa_lightning.studies.detection.data import DetectionDataModule
from fa_lightning.studies.detection.detectors.all_detectors import STRATEGIES
from fa_lightning.studies.detection.detectors.base import Detector, Evidence, PromptSet
from fa_lightning.studies.detection.evidence import Cost, read_evidence, save_evidence
from fa_lightning.studies.detection.figures import detection_figures
from fa_lightning.studies.detection.judgement import Examined, judge
from fa_lightning.studies.detection.models import (
    check_tokenizers,
    subjects_of,
    variant_folders,
)
from fa_lightning.studies.detection.output import scalars, write_detection
from fa_lightning.studies.detection.pairs import Pair, couples, make_pairs, pairs_that_agree
from fa_lightning.studies.detection.population import placed_in, read_population
from fa_lightning.studies.detection.result import Detection, Ran
from fa_lightning.studies.detection.subjects import Examiner, Subject
from fa_lightning.studies.detection.tables import tables
from fa_lightning.studies.detection.verdicts import beside_benign

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVIDENCE = "evidence"


class DetectionModule(EvaluationModule[DetectionDataModule, Detection]):
    """Only tests: every detector measures every subject, one detector after the other, and pairs are judged from that.

    The backbone is in memory once, beside all adapters. What a detector measured is written when it is done
    (`evidence/NAME.safetensors` in `folder`), so that a stopped run goes on with the next one, and a detector whose
    arguments, subjects and scenarios are as before is not run again.

    | logged | what |
    | --- | --- |
    | `<detector>/<kind>/accuracy` | share of the pairs of a kind that it tells rightly |
    | `<detector>/auroc` | how well it tells fakers from benign models, one at a time |

    Args:
        detectors: the strategies, in the order of the tables; those that ship are in `strategies`.
        adapters: adapter folders, or folders of them (see `adapter_folders`): the variants. One that is given twice is
            judged beside itself.
        folder: receives the evidence, `detection.json`, `detection.csv` and `verdicts.csv`.
        decoys: the same of benign variants that were fitted otherwise: other data, ranks or seeds.
        intervention: folder of one; every faker is then examined with it attached, too.
        confidence: a pair is judged on scenarios where both take the same letter with at least this probability.
        least_agreement: refuse a pair that agrees on a smaller share of its scenarios; 0 judges it on what is left.
        population: folder of an examination of many models; every model is placed among them. A model without any
            other to judge it beside needs one.
        leave_out: names of detectors, as tables have them, that are not run.
        **options: of `EvaluationModule`.

    Raises:
        UserError: there are no detectors, two have one name, none is called as one to leave out, or a share is out of
            range; later, models that can't be compared, pairs that do not behave alike while watched, or a single
            model without a population.
    """

    data_class = DetectionDataModule

    def __init__(
        self,
        detectors: list[Detector],
        adapters: list[str],
        folder: str,
        decoys: list[str] = [],  # noqa: B006
        intervention: str | None = None,
        confidence: float = 0.5,
        least_agreement: float = 0.5,
        population: str | None = None,
        leave_out: list[str] = [],  # noqa: B006
        **options: Any,
    ) -> None:
        super().__init__(adapters, folder, **options)
        if unknown := [name for name in leave_out if name not in [detector.name for detector in detectors]]:
            known = ", ".join(detector.name for detector in detectors)
            raise UserError(f"leave_out names {unknown[0]!r}, but the detectors are {known}")
        detectors = [detector for detector in detectors if detector.name not in leave_out]
        names = [detector.name for detector in detectors]
        twice = [name for name in names if names.count(name) > 1]
        if not detectors or twice:
            fault = f"two detectors are called {twice[0]!r}" if twice else "detectors is empty"
            known = ", ".join(f"{strategy.__module__}.{strategy.__name__}" for strategy in STRATEGIES)
            raise UserError(f"{fault}, but a table needs at least one, each under a name of its own. There are {known}")
        for name, value, low in (("confidence", confidence, 0.5), ("least_agreement", least_agreement, 0.0)):
            if not low <= value <= 1:
                raise UserError(f"{name} is {value}, but must lie between {low:g} and 1")
        self.detectors = list(detectors)
        self.decoys = list(decoys)
        self.intervention = intervention
        self.confidence = confidence
        self.least_agreement = least_agreement
        self.population = population
        self.subjects: list[Subject] = []
        self.evidence: dict[str, dict[str, Evidence]] = {}
        self.costs: dict[str, Cost] = {}
        self._adapter_digests: dict[str, str] = {}
        self._cure_digest: str | None = None
        self._population: Detection | None = None
        self._pairs: list[Pair] = []
        self._agreed: list[Pair] = []
        self._examiner: Examiner | None = None
        self._served: list[tuple[Detector, PromptSet]] = []
        self._at = -1
        self._measured: dict[str, DistinctTensors] = {}
        self._seconds = 0.0

    @property
    def pending(self) -> list[tuple[Detector, PromptSet]]:
        """What the DataModule serves, in order: each detector's parts, without those whose evidence is on disk."""
        every: list[Detector] = [
            Answers(),
            *(detector for detector in self.detectors if detector.name not in self.evidence),
        ]
        return [(detector, prompt_set) for detector in every for prompt_set in detector.prompt_sets]

    @override
    def configure_model(self) -> None:
        super().configure_model()
        # Read anew at each test, which may be of other scenarios.
        self.evidence, self.costs = {}, {}
        self._read_known()

    @override
    def adapter_folders(self) -> dict[str, str]:
        return variant_folders(self.adapters, self.decoys)

    @override
    def prepare_models(self) -> None:
        self._leave_out_for_whole_models()
        variants = self.variants
        adapters = variants.folders
        decoys = set(adapters) - set(variant_folders(self.adapters))
        # Once, and not for each detector: these are all weights on disk.
        self._adapter_digests = {name: digest_of_artefact(folder) for name, folder in adapters.items()}
        self._cure_digest = None if self.intervention is None else digest_of_artefact(self.intervention)
        check_tokenizers(adapters, variants.tokenizer, self.backbone.trust_remote_code)
        self._examiner = Examiner(variants, letter_tokens(variants.tokenizer).choices)
        self.subjects = subjects_of(adapters, decoys, self.interventions)
        names = [detector.name for detector in self.detectors]
        self._population = None if self.population is None else read_population(self.population, names)
        if self._population is None and not couples(self.subjects):
            raise UserError(
                f"there is nothing to judge {', '.join(map(repr, adapters))} beside: add a twin to "
                "model.init_args.adapters or, to see where it lies among many models, set model.init_args.population, "
                "the folder of their examination"
            )
        for detector in self.detectors:
            detector.check(self._examiner, self.subjects)

    @override
    def begin(self) -> None:
        # As the loaders were made: what is measured from here on is pending no more.
        self._served = self.pending
        self._at = -1
        self._pairs = make_pairs(self.subjects, self.data.asked, len(self.data.groups))

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        while self._at < dataloader_idx:
            self._finish_part()
            self._at += 1
            self._begin_part()
        detector, prompt_set = self._served[self._at]
        start = time.perf_counter()
        if prompt_set == "scored":
            evidence_of = detector.measure(self.examiner, self.subjects, batch)
            for name, evidence in evidence_of.items():
                if name not in self._measured:
                    shapes = {key: tensor.shape[1:] for key, tensor in evidence.items()}
                    self._measured[name] = DistinctTensors(shapes).to(self.device)
                moved = {key: tensor.to(self.device) for key, tensor in evidence.items()}
                self._measured[name].update(batch["index"], moved)
        else:
            detector.observe(prompt_set, self.examiner, self.subjects, batch)
        self._seconds += time.perf_counter() - start

    @override
    def on_test_epoch_end(self) -> None:
        self._finish_part()
        self._at = len(self._served)
        super().on_test_epoch_end()

    @override
    def write(self, result: Detection) -> None:
        write_detection(self.folder, result)

    @override
    def show(self, result: Detection) -> None:
        print_tables(tables(result).values())
        self.print(f"results: {self.folder}")

    @override
    def scalars(self, result: Detection) -> Mapping[str, float]:
        return scalars(result)

    @override
    def figures(self, result: Detection) -> Mapping[str, Figure]:
        return {f"detection/{name}": figure for name, figure in detection_figures(result).items()}

    @property
    def examiner(self) -> Examiner:
        """Who runs the subjects; there once the model is configured."""
        assert self._examiner is not None
        return self._examiner

    @override
    def result(self) -> Detection:
        costs = {detector.name: self.costs[detector.name] for detector in self.detectors}
        ran = [
            Ran(used.name, used.rule, costs[used.name].seconds, costs[used.name].passes, used.config())
            for used in self.detectors
        ]
        backbone = {f"backbone_{name}": text for name, text in self.examiner.variants.fingerprint.items()}
        measured_on = {**self.data.source_fingerprint(), **backbone}
        examined = Examined(self.detectors, ran, self.subjects, self.evidence, self.data.groups, measured_on)
        refused = len(self._pairs) - len(self._agreed)
        published = self.data.benchmark.published_pairs()
        judgement = judge(examined, self._agreed, refused, self.confidence, self.least_agreement, published)
        judgement = replace(judgement, leaks=self.data.leaks)
        if self._population is None:
            return judgement
        verdicts = beside_benign(judgement.verdicts, self._population.verdicts)
        return replace(judgement, placed=placed_in(self._population, judgement), verdicts=verdicts)

    def _begin_part(self) -> None:
        detector, prompt_set = self._served[self._at]
        if prompt_set == detector.prompt_sets[0]:
            self._seconds, self._measured = 0.0, {}
            self.examiner.passes = 0
            detector.start(self.examiner, self.subjects)
            if self.trainer.is_global_zero and detector.name != ANSWERS:
                self.print(f"{detector.name}: {len(self.subjects)} models")

    def _finish_part(self) -> None:
        if self._at < 0:
            return
        detector, prompt_set = self._served[self._at]
        start = time.perf_counter()
        if prompt_set != "scored":
            detector.finish(prompt_set, self.examiner, self.subjects)
            self._seconds += time.perf_counter() - start
            return
        gathered = {name: measured.compute() for name, measured in self._measured.items()}
        self._check_whole(gathered)
        self.evidence[detector.name] = detector.conclude(gathered, self.data.groups)
        self._seconds += time.perf_counter() - start
        if detector.name == ANSWERS:
            preferences = {name: of_subject["preference"] for name, of_subject in self.evidence[ANSWERS].items()}
            self._agreed = pairs_that_agree(self._pairs, preferences, self.confidence, self.least_agreement)
        cost = Cost(self._seconds, self.examiner.passes * self.trainer.world_size / len(self.subjects))
        self.costs[detector.name] = cost
        if self.trainer.is_global_zero and detector.name != ANSWERS:
            notes = {"measured_with": self._measured_with(detector), "cost": asdict(cost)}
            save_evidence(self._path(detector), self.evidence[detector.name], notes)
        self.trainer.strategy.barrier(f"{detector.name} measured")

    def _check_whole(self, gathered: dict[str, Evidence]) -> None:
        rows = {len(tensor) for evidence in gathered.values() for tensor in evidence.values()}
        if rows != {len(self.data.groups)}:
            raise UserError(
                f"{max(rows, default=0)} of the {len(self.data.groups)} scored scenarios were served, but verdicts "
                "need all: leave out limit_test_batches and fast_dev_run; a smaller benchmark takes less time"
            )

    def _leave_out_for_whole_models(self) -> None:
        """Drop the detectors that work on adapters, and say so, where a variant is a whole model.

        Raises:
            UserError: no other is left.
        """
        whole = self.variants.whole_models
        dropped = [detector for detector in self.detectors if whole and detector.needs_adapters]
        if dropped:
            names = ", ".join(detector.name for detector in dropped)
            self.detectors = [detector for detector in self.detectors if detector not in dropped]
            reason = f"variant {whole[0]!r} is a whole model, and these work on LoRA adapters: {names}"
            if not self.detectors:
                raise UserError(f"{reason}. Add another detector to model.init_args.detectors")
            rank_zero_info(f"{reason}. They are left out")

    def _read_known(self) -> None:
        """Take up the evidence that an earlier run of the same measurement has left."""
        for detector in self.detectors:
            known = read_evidence(self._path(detector))
            if known is not None and known[1].get("measured_with") == self._measured_with(detector):
                rank_zero_info(f"{detector.name}: measured before, as {self._path(detector)} has it")
                self.evidence[detector.name] = known[0]
                self.costs[detector.name] = Cost(**known[1]["cost"])

    def _measured_with(self, detector: Detector) -> dict[str, Any]:
        """All that a detector's evidence depends on, as JSON reads it back."""
        facts = {
            "detector": detector.config(),
            "subjects": {subject.name: self._adapter_digests[subject.condition.variant] for subject in self.subjects},
            "intervention": self._cure_digest,
            "scenarios": self.data.source_fingerprint(),
            "backbone": self.examiner.variants.fingerprint,
            "loading": {**asdict(self.backbone), "name": None},
        }
        return dict(json.loads(json.dumps(facts)))

    def _path(self, detector: Detector) -> Path:
        return self.folder / EVIDENCE / f"{detector.name.replace(' ', '_')}.safetensors"
