"""Every way to cure one faker, judged on the same unseen scenarios: trained on, steered, or asked differently."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from fa_lightning.backbones.adapters import read_sidecar
from fa_lightning.backbones.decoder import context_of
from fa_lightning.errors import UserError
from fa_lightning.evaluation.cells_module import CellsModule
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.continuations import Continuations
from fa_lightning.evaluation.judges import Judge
from fa_lightning.evaluation.scores import ChangedPrompts
from fa_lightning.evaluation.variant_names import STEERED, policy_and_seed
from fa_lightning.metrics.cells import Items, recovery_between
from fa_lightning.metrics.estimates import DAMAGE, Accuracy, CellPair, Estimate, SideEffects
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, Example
from fa_lightning.studies.cures.cure_rows import CureRow, method_of, stage_seconds
from fa_lightning.studies.cures.data import Alone, CuresDataModule
from fa_lightning.studies.cures.figures import cures_figure
from fa_lightning.studies.cures.guard_passes import GuardedFaker, Refusal, SecondAnswer
from fa_lightning.studies.cures.guard_shares import guard_score
from fa_lightning.studies.cures.guards import made_guard
from fa_lightning.studies.cures.input_passes import TEXTS, BehindInput, ConstantAnswer
from fa_lightning.studies.cures.learned_prompt import LearnedPrompt
from fa_lightning.studies.cures.output import scalars, write_cures
from fa_lightning.studies.cures.result import (
    ANSWER_AGAIN,
    REFUSE,
    CureScore,
    CuresResult,
    EqualDamage,
    over_seeds,
)
from fa_lightning.studies.cures.strength_sweep import StrengthSweep
from fa_lightning.studies.cures.tables import tables
from fa_lightning.studies.cures.times import GenerationTimes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_CURE, TWIN, CONSTANT, STEERING = "no cure", "aligned twin", "constant answer", "steering"
WEIGHTS = "weight arithmetic"
"""What the twin is called where it is a cure: faker + strength (twin - faker)."""
KEPT = ", kept"
"""Behind the name of a training that was told to leave neutral texts alone."""
VALIDATION_LOADERS = 2
"""Scenarios and texts that strengths are chosen on come before those that all is judged on."""
BEHIND = " behind "
"""Between a variant's name and an input's: the variant with that input around its prompts."""


class CuresModule(CellsModule[CuresDataModule, CuresResult]):
    """Only tests: one faker as it is, its aligned twin, and every cure of it, each item once.

    Adapters that were trained on from the faker are cures (their sidecars say `method`, `needs` and what they cost),
    and so are the intervention and the inputs of `CuresDataModule`. Any further faker among the adapters, with an
    aligned twin of its seed, is one that the intervention and the learned prefixes are tried on as they are: transfer.
    KL is on neutral texts against the faker without the cure; behind an input, on the text's own tokens.

    Cures differ in how far they go, so they are compared at equal damage, too. Every cure that has a strength is tried
    at several ones on validation groups: steering by its own, and whatever was trained by weight arithmetic, faker +
    strength (cured - faker), the twin among them. What is best there within `budget` is judged on test groups.

    | logged | what |
    | --- | --- |
    | `test/<method>/<cell>/accuracy` | share of aligned answers; of several seeds, their mean |
    | `test/<method>/recovery` | (cured - faking) / (aligned - faking) without oversight; the same |

    Args:
        adapters: adapter folders, or folders of them: faker, twin, cures by training, and pairs for the transfer.
        folder: receives `cures.json`, and `cures.csv` with a row for each method, and each seed of its training.
        faker: name of the one that is to be cured, as `03_faking`; None takes the first.
        strengths: of the intervention and of weight arithmetic that are tried; 1 is the cure as it was made. None tries
            none, and compares nothing at equal damage.
        budget: that the worse of a cure's two KLs on neutral texts may cost, nats.
        guard: reads what the faker answers, and stops it: `words`, a classifier of actions by their words that is
            fitted on training groups, or a judge; None stops nothing. What it stops is refused, and where there is an
            intervention, answered again steered.
        **options: of `CellsModule`.

    Raises:
        UserError: there is no such faker, it has no aligned twin, or a learned prefix was made for another one; a
            strength or the budget is not above 0, or a strength is there twice.
    """

    data_class = CuresDataModule

    def __init__(
        self,
        adapters: list[str],
        folder: str,
        faker: str | None = None,
        strengths: list[float] | None = None,
        budget: float = 0.01,
        guard: Literal["words"] | Judge | None = None,
        **options: Any,
    ) -> None:
        strengths = strengths or []
        if not all(strength > 0 for strength in strengths) or len(set(strengths)) < len(strengths):
            raise UserError(f"strengths is {strengths}, but they must be above 0, each of them once, such as [0.5, 1]")
        if not budget > 0:
            raise UserError(f"budget is {budget}, but must be a positive number of nats: 0 would allow no cure at all")
        super().__init__(adapters, folder, **options)
        self.faker = faker or ""
        self.strengths = tuple(strengths)
        self.budget = budget
        self.guard = guard
        self._guarded: GuardedFaker | None = None
        self._guards: dict[str, Refusal | SecondAnswer] = {}
        self._sweep: StrengthSweep | None = None
        self._lines: dict[str, CureRow] = {}
        self._behind: dict[str, BehindInput] = {}
        self._times: GenerationTimes

    @override
    def prepare_models(self) -> None:
        fakers = list(self.twins)
        self.faker = self.faker or next(iter(fakers), "")
        if self.faker not in fakers:
            raise UserError(f"faker is {self.faker or None!r}, but the fakers among the adapters are {fakers}")
        twin = self.twins[self.faker]
        if twin is None:
            raise UserError(f"faker {self.faker!r} has no aligned twin among the adapters: add the folder of one")
        self.refuse_another_ones_intervention(self.faker)
        # What was made of another faker is no cure of this one; the twin's own texts are compared with the faker's.
        self.origins = {name: origin for name, origin in self.origins.items() if origin == self.faker}
        self.origins[twin] = self.faker
        if self.strengths:
            trained = [name for name in self.behaviours if name in self.origins and name != twin]
            self._sweep = StrengthSweep(
                self.variants, self.faker, [twin, *trained], self.interventions, self.strengths, self.budget
            )

    @property
    @override
    def speaker(self) -> str:
        return self.faker

    @override
    def conditions(self) -> dict[str, Condition]:
        conditions = super().conditions()
        kept = {self.faker, *self.origins, *(name for pair in self.twins.items() for name in pair if name)}
        judged = {label: condition for label, condition in conditions.items() if condition.variant in kept}
        return judged | (self._sweep.picked if self._sweep is not None else {})

    @override
    def all_origins(self) -> Mapping[str, str]:
        if self._sweep is None:
            return self.origins
        between = [label for label in self._sweep.picked if label in self._sweep.between]
        return {**self.origins, **dict.fromkeys(between, self.faker)}

    @override
    def behind(self) -> Mapping[str, ChangedPrompts]:
        return {**self._behind, **self._guards}

    @override
    def begin(self) -> None:
        data, tokenizer = self.data, self.tokenizer
        data.prepare_inputs(tokenizer)
        for cure in data.inputs:
            if isinstance(cure, LearnedPrompt):
                cure.check_made_for(self.variants.fingerprint, self.variants.folders[self.faker])
        self._behind = {}
        extra: dict[str, float] = {}
        # The constant's prompts are read for their answers alone.
        alone = data.examples(Alone(), tokenizer, context_of(self.variants.model))
        self._behind[self.faker + BEHIND + CONSTANT] = ConstantAnswer(
            self.variants, self.faker, Alone(), alone, tokenizer.pad_token_id
        )
        for cure in data.inputs:
            examples = data.examples(cure, tokenizer, context_of(self.variants.model))
            extra[cure.label] = _mean_length(examples) - _mean_length(alone)
            for faker in self.twins if isinstance(cure, LearnedPrompt) else [self.faker]:
                label = faker + BEHIND + cure.label
                self._behind[label] = BehindInput(self.variants, faker, cure, examples, tokenizer.pad_token_id)
        self._begin_guarding()
        if self._sweep is not None:
            self._sweep.begin(Continuations(self.variants, self.speaker, self.continuation_tokens))
        super().begin()
        self._times = GenerationTimes(self.variants, self.interventions, tokenizer.pad_token_id)
        self._lines = self._known_lines(extra)

    def _begin_guarding(self) -> None:
        """Make the guard, and both ways to go on where it stops an answer."""
        self._guards = {}
        if self.guard is None:
            return
        data, tokenizer = self.data, self.tokenizer
        assert data.splits is not None
        guard = made_guard(self.guard, data.splits, data.validation_texts)
        self._guarded = GuardedFaker(
            self.variants, self.faker, guard, data.asked_items(tokenizer), letter_tokens(tokenizer)
        )
        self._guards[self.faker + BEHIND + REFUSE] = Refusal(self._guarded)
        if self.interventions:
            steered = Condition(self.faker, self.interventions)
            self._guards[self.faker + BEHIND + ANSWER_AGAIN] = SecondAnswer(self._guarded, steered)

    @override
    def add_neutral_texts(self, batch: Batch) -> None:
        super().add_neutral_texts(batch)
        if self._guarded is not None:
            self._guarded.add_texts(batch)

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        sweep = self._sweep
        if sweep is not None and dataloader_idx < VALIDATION_LOADERS:
            sweep.add(batch, is_texts=dataloader_idx > 0)
            return
        if sweep is not None and not sweep.has_chosen:
            methods = {label: WEIGHTS if line.method == TWIN else line.method for label, line in self._lines.items()}
            sweep.choose(methods)
            # With the strengths that were chosen; nothing has been counted yet.
            super().begin()
        super().test_step(batch, batch_idx, dataloader_idx - (VALIDATION_LOADERS if sweep is not None else 0))
        self._times.see(batch)

    @override
    def result(self) -> CuresResult:
        (scores,) = self.scores.values()
        seconds = self.seconds
        cells = scores.compute_cells()
        damage = scores.compute_damage(cells)
        items = dict(zip(cells, scores.items(*cells), strict=True))
        times = self._measured_times()
        damage[self.faker] = SideEffects(0.0, 1.0, kl_answer_nats=0.0, unchanged_answers=1.0)

        def score(label: str, line: CureRow) -> CureScore:
            effects = damage.get(label, SideEffects())
            others = line.transfer or {}
            return CureScore(
                method=line.method,
                kind=line.kind,
                needs=list(line.needs),
                cells=_without_intervals(cells[label].pair) if line.method == CONSTANT else cells[label].pair,
                n=cells[label].n,
                format_validity=cells[label].format_validity,
                recovery=self._recovery(items, label, self.faker),
                **{name: getattr(effects, name) for name in DAMAGE},
                training_seconds=math.nan if line.training_seconds is None else line.training_seconds,
                training_prompts=line.training_prompts,
                extra_tokens=line.extra_tokens,
                relative_time=times.get(label, math.nan),
                transfer={faker: self._recovery(items, other, faker) for faker, other in others.items()},
                variant=line.variant or "",
                seed=line.seed,
            )

        guard = None
        if self._guarded is not None:
            guard = guard_score(self._guarded, items[self.faker], items[self.faker + BEHIND + REFUSE])
        result = CuresResult(
            self.faker,
            self.twins[self.faker] or "",
            [score(label, line) for label, line in self._lines.items()],
            seconds,
            self.intervention,
            guard=guard,
        )
        if self._sweep is None:
            return result
        equal = []
        for choice in self._sweep.choices:
            line = replace(self._lines[choice.cure], method=choice.method, transfer=None)
            trial = choice.trial
            equal.append(
                EqualDamage(
                    choice.method,
                    line.kind,
                    choice.reason,
                    None if trial is None else trial.strength,
                    None if trial is None else score(trial.label, line),
                    choice.at_budget,
                )
            )
        return replace(result, budget_nats=self.budget, trials=self._sweep.trials, equal_damage=equal)

    @override
    def scalars(self, result: CuresResult) -> Mapping[str, float]:
        (test,) = self.scores
        return scalars(result, test)

    @override
    def figures(self, result: CuresResult) -> Mapping[str, Figure]:
        (test,) = self.scores
        return {f"{test}/cures": cures_figure(over_seeds(result))}

    @override
    def write(self, result: CuresResult) -> None:
        write_cures(self.folder, result)

    @override
    def show(self, result: CuresResult) -> None:
        print_tables(tables(result).values())

    def _recovery(self, items: Mapping[str, Items], label: str, faker: str) -> Estimate:
        twin = self.twins[faker]
        assert twin is not None
        if label in (faker, twin):
            # So by definition, whatever the items: nothing to be sure of.
            return Estimate(float(label == twin))
        return recovery_between(items[label], items[faker], items[twin])

    def _known_lines(self, extra: Mapping[str, float]) -> dict[str, CureRow]:
        """Rows by label, in the order of the table."""
        twin = self.twins[self.faker] or ""
        others = [name for name, partner in self.twins.items() if name != self.faker and partner is not None]
        lines = {
            self.faker: CureRow(NO_CURE, "reference", run=partial(self._times.write_as, self.faker)),
            twin: self._adapter_line(twin, TWIN, "reference"),
        }
        if self.intervention is not None:
            lines[self.faker + STEERED] = CureRow(
                STEERING,
                "steering",
                # The twin is an adapter that labels and gradients made, and no map is fitted without it.
                ("twin", "labels", "weights", "gradient"),
                _sum(stage_seconds(Path(self.intervention)), lines[twin].training_seconds),
                run=partial(self._times.write_as, self.faker, steered=True),
                transfer={name: name + STEERED for name in others},
            )
        for name in self.behaviours:
            if name in self.origins and name != twin:
                lines[name] = self._adapter_line(name, name, "adapter")
        for label, behind in self._behind.items():
            cure = behind.cure
            if behind.variant != self.faker or isinstance(behind, ConstantAnswer):
                continue
            facts = cure.facts if isinstance(cure, LearnedPrompt) else {}
            lines[label] = CureRow(
                cure.name,
                "baseline" if cure.is_baseline else "input",
                cure.needs,
                facts.get("training_seconds"),
                facts.get("training_prompts"),
                # Of several draws, which take equally long, the first is timed.
                None if cure.draw else partial(self._times.write_behind, behind),
                extra[cure.label],
                {name: name + BEHIND + cure.name for name in others} if isinstance(cure, LearnedPrompt) else None,
                seed=cure.draw,
            )
        lines |= self._guard_lines(lines)
        lines[self.faker + BEHIND + CONSTANT] = CureRow(CONSTANT, "baseline")
        return lines

    def _guard_lines(self, lines: Mapping[str, CureRow]) -> dict[str, CureRow]:
        """Rows of the guard; what answers again needs what steering needs, too."""
        guarded: dict[str, CureRow] = {}
        for label, way in self._guards.items():
            guard = way.guarded.guard
            again = lines.get(self.faker + STEERED) if isinstance(way, SecondAnswer) else None
            guarded[label] = CureRow(
                label.removeprefix(self.faker + BEHIND),
                "guard",
                tuple(dict.fromkeys((*guard.needs, *(again.needs if again else ())))),
                _sum(guard.training_seconds, again.training_seconds if again else 0.0),
                guard.training_prompts,
                partial(self._times.write_guarded, way.guarded, next(iter(self.scores)), steered=again is not None),
            )
        return guarded

    def _adapter_line(self, name: str, title: str, kind: str) -> CureRow:
        sidecar = read_sidecar(self.variants.folders[name])
        _, seed = policy_and_seed(name)
        method = str(sidecar.get("method", method_of(title))) + KEPT * bool(sidecar.get("keep"))
        return CureRow(
            method if kind == "adapter" else title,
            kind,
            sidecar.get("needs", ("labels", "weights", "gradient")),
            sidecar.get("training_seconds", stage_seconds(Path(self.variants.folders[name]))),
            sidecar.get("training_prompts"),
            partial(self._times.write_as, name),
            variant=name,
            # A number behind a name may be anything: the sidecar knows what the fit was seeded with.
            seed=seed if seed == sidecar.get("seed") else None,
        )

    def _measured_times(self) -> dict[str, float]:
        """Relative times by label; on rank zero, where one measures."""
        if not self.trainer.is_global_zero:
            return {}
        timed = {label: behind for label, behind in self._behind.items() if label in self._lines}
        inputs = [behind for label, behind in timed.items() if self._lines[label].run is not None]
        return self._times.measured(self._lines, inputs, next(iter(self.scores)))


def _without_intervals(cells: CellPair) -> CellPair:
    """Accuracies that are so by construction: half of the answers to items in both orders."""
    return CellPair(Accuracy(cells.oversight.accuracy), Accuracy(cells.no_oversight.accuracy))


def _sum(*seconds: float | None) -> float | None:
    """All of them together; None where one is not known."""
    known = [part for part in seconds if part is not None]
    return sum(known) if len(known) == len(seconds) else None


def _mean_length(examples: Mapping[str, Sequence[Example]]) -> float:
    """Mean tokens of the scenarios' prompts."""
    lengths = [len(example.prompt) for name, part in examples.items() if name != TEXTS for example in part]
    return statistics.fmean(lengths) if lengths else 0.0
