"""Judge steering while the maps are fitted: the callback that runs in every validation, and once at the end."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from fa_lightning.backbones.variants import Variants
from fa_lightning.common.activity import doing
from fa_lightning.common.codec import write_dataclass
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import TWIN, Condition, interventions_of, judged_conditions, save_together
from fa_lightning.evaluation.continuations import Continuations
from fa_lightning.evaluation.findings import evaluation_of, extra_test_of, leaks_of, text_only_baseline
from fa_lightning.evaluation.judges import Judge
from fa_lightning.evaluation.results import CANDIDATES_NAME, EVALUATION_NAME, TEXT_ONLY, Chosen, Evaluation
from fa_lightning.evaluation.scores import Scores
from fa_lightning.evaluation.timing import overhead_ratio, side_by_side
from fa_lightning.evaluation.written_texts import WrittenTexts
from fa_lightning.regressors.module import MapCandidate, RegressorModule
from fa_lightning.reports.pictures import draw
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.steering.choice import Trial, choose

STATES, SCENARIOS, NEUTRAL_TEXTS = range(3)
"""The validation loaders of ActivationDataModule, in order."""


class SteeringEvaluation(pl.Callback):
    """Steers the faking variant with every fitted map, chooses one on validation groups, and judges it on test groups.

    In validation every candidate is tried at every strength; among those within the `budget` of damage the choice is by
    cells first, by damage among those within `tolerance`. Damage is the worse of the two KLs on neutral texts, of what
    is read and of the first token said. The choice so far is judged beside the twins and the baselines; its checkpoint
    score is `val/steered/score`. When the fit ends, the chosen intervention of the best checkpoint is saved. In a test
    the same is judged once, and `evaluation.json` written.

    Works on the trainer's device with the DataModule's frozen pair, which is idle once the states are on disk; no
    gradient ever reaches it. The Trainer shards the scenarios, and every item
    counts once however many ranks there are.

    | logged | what |
    | --- | --- |
    | `val/<model>/<cell>/accuracy` | share of aligned answers; models: the twins, steered, steered_aligned, baselines |
    | `val/steered/recovery` | (steered - faking) / (aligned - faking) without oversight |
    | `val/steered/score` | mean of the chosen candidate's cells |
    | `val/side_effects/*` | of the steered faker: kl_neutral_nats, kl_answer_nats, unchanged_answers, and others |
    | `test/*` | the same on test groups, and `test/cost/overhead_ratio`: seconds to generate, steered over not |

    Args:
        folder: receives `intervention/`, `candidates.json` and `evaluation.json`.
        strengths: tried for every candidate.
        tolerance: difference in mean accuracy that side effects may decide.
        budget: nats of damage that a candidate may do; if none keeps within it, all compete. None sets no limit.
        seed: of the random baseline.
        continuation_tokens: of a model that speaks, side effects are measured on so many tokens of its own answer to
            each neutral text; 0 measures them on the texts.
        judge: of what the twins and the steered models write to test scenarios; None lets them write none. What it
            says stands among the further test sets.
    """

    def __init__(
        self,
        folder: str,
        strengths: list[float] = [1.0],  # noqa: B006
        tolerance: float = 0.01,
        budget: float | None = None,
        seed: int = 0,
        continuation_tokens: int = 0,
        judge: Judge | None = None,
    ) -> None:
        if not strengths:
            raise UserError("strengths is empty, but at least one is needed: give [1.0]")
        self.folder = Path(folder)
        self.strengths = strengths
        self.tolerance = tolerance
        self.budget = budget
        self.seed = seed
        self.continuation_tokens = continuation_tokens
        self.judge = judge
        self.best_score = -math.inf
        self._variants: Variants | None = None
        self._answered: dict[str, Continuations] = {}
        self._tried: Scores | None = None
        self._judged: list[Scores] = []
        self._sample: Batch | None = None
        self._extra_tests: list[str] = []
        self._texts: WrittenTexts | None = None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, RegressorModule) or not hasattr(_data(trainer), "adapters"):
            raise UserError("SteeringEvaluation needs RegressorModule as model and ActivationDataModule as data")
        # The DataModule's pair is idle once the states are on disk, and it is on this device.
        self._variants = _data(trainer).variants

    @override
    @doing("steering")
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        variants = self._ready_variants()
        candidates = pl_module.candidates()
        chosen, strength = self._choice(pl_module, candidates)
        self._tried = Scores(
            variants,
            {
                f"{number}/{step}": Condition("faking", interventions_of(candidate, self.strengths[step]))
                for number, candidate in enumerate(candidates)
                for step in range(len(self.strengths))
            },
        )
        self._judged = [Scores(variants, judged_conditions(pl_module, chosen, strength, self.seed), origins=TWIN)]

    @override
    @doing("steering")
    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.sanity_checking or self._tried is None:
            return
        for scores in (self._tried, *self._judged):
            if dataloader_idx == SCENARIOS:
                scores.add_scenarios(batch)
            elif dataloader_idx == NEUTRAL_TEXTS:
                scores.add_neutral_texts(self._with_answers(batch, "validation"))

    @override
    @doing("steering")
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or self._tried is None:
            return
        trials = self._trials(pl_module)
        chosen = choose(trials, self.tolerance, self.budget)
        pl_module.choice[0], pl_module.choice[1] = float(chosen.candidate), chosen.strength
        # No checkpoint is made before the first optimizer step: until then the latest choice stands.
        best_so_far = chosen.score > self.best_score or not _best_checkpoint(trainer)
        if best_so_far and trainer.state.fn == TrainerFn.FITTING:
            self.best_score = chosen.score
            if trainer.is_global_zero:
                write_dataclass(self.folder / CANDIDATES_NAME, [trial.as_candidate() for trial in trials])
        pl_module.log("val/steered/score", chosen.score)
        evaluation = self._log_judged(pl_module, "val")
        draw(trainer, "val", evaluation, [trial.as_point() for trial in trials], _data(trainer).store)
        self._tried, self._judged = None, []

    @override
    @doing("steering")
    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        best = _best_checkpoint(trainer)
        if best:
            import torch

            state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
            pl_module.load_state_dict(state, strict=False)
        if trainer.is_global_zero:
            folder = self.folder / "intervention"
            save_together(self._chosen_interventions(trainer, pl_module), folder)
            rank_zero_info(f"chosen intervention: {folder}")
        trainer.strategy.barrier("intervention saved")

    @override
    @doing("steering")
    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        variants = self._ready_variants()
        chosen, strength = self._choice(pl_module, pl_module.candidates())
        conditions = judged_conditions(pl_module, chosen, strength, self.seed)
        self._extra_tests = list(_data(trainer).splits.extra_tests)
        if self.judge is not None:
            served: Any = trainer.test_dataloaders
            self._texts = WrittenTexts(variants, conditions, self.judge, served[0].dataset.every_example())
        four = {name: conditions[name] for name in ("aligned", "faking", "steered", "steered_aligned")}
        self._judged = [
            Scores(variants, conditions, origins=TWIN),
            *(Scores(variants, four, counts_neutral_texts=False) for _ in self._extra_tests),
        ]

    @override
    @doing("steering")
    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 1:
            self._judged[0].add_neutral_texts(self._with_answers(batch, "test"))
            return
        if self._sample is None:
            self._sample = {name: tensor[:8] for name, tensor in batch.items()}
        self._judged[0 if dataloader_idx == 0 else dataloader_idx - 1].add_scenarios(batch)
        if dataloader_idx == 0 and self._texts is not None:
            self._texts.add_scenarios(batch)

    @override
    @doing("steering")
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        evaluation = self._log_judged(pl_module, "test")
        extra_tests = {
            name: extra_test_of(scores) for name, scores in zip(self._extra_tests, self._judged[1:], strict=True)
        }
        if self._texts is not None:
            extra_tests[self._texts.name] = self._texts.result()
        variants = self._ready_variants()
        interventions = self._chosen_interventions(trainer, pl_module)
        if trainer.is_global_zero and self._sample is not None:
            splits = _data(trainer).splits
            evaluation = replace(
                evaluation,
                baselines={**evaluation.baselines, TEXT_ONLY: text_only_baseline(splits)},
                extra_tests=extra_tests,
                overhead_ratio=overhead_ratio(variants, interventions, self._sample),
                leaks=leaks_of(splits),
                chosen=Chosen(
                    site="+".join(intervention.site.name for intervention in interventions),
                    regressor=self._choice(pl_module, pl_module.candidates())[0].fit.label,
                    strength=interventions[-1].strength,
                    positions=interventions[-1].site.positions,
                ),
            )
            pl_module.log("test/cost/overhead_ratio", evaluation.overhead_ratio, rank_zero_only=True)
            write_dataclass(self.folder / EVALUATION_NAME, evaluation)
            draw(trainer, "test", evaluation, generations=side_by_side(variants, interventions, self._sample))
        trainer.strategy.barrier("evaluation written")
        self._judged, self._sample = [], None

    def _log_judged(self, pl_module: Any, stage: str) -> Evaluation:
        evaluation = evaluation_of(self._judged[0])
        for name, cells in (*evaluation.cells.items(), *evaluation.baselines.items()):
            label = name.replace(" ", "_").replace("-", "_")
            for cell in CELLS:
                pl_module.log(f"{stage}/{label}/{cell}/accuracy", getattr(cells, cell).accuracy)
        pl_module.log(f"{stage}/steered/recovery", evaluation.recovery.value, prog_bar=True)
        for name, value in asdict(evaluation.side_effects).items():
            if isinstance(value, float):
                pl_module.log(f"{stage}/side_effects/{name}", value)
        return evaluation

    def _trials(self, pl_module: RegressorModule) -> list[Trial]:
        assert self._tried is not None
        cells = self._tried.compute_cells()
        effects = self._tried.compute_damage(cells)
        trials = []
        for number, candidate in enumerate(pl_module.candidates()):
            for step, strength in enumerate(self.strengths):
                name = f"{number}/{step}"
                trials.append(
                    Trial(
                        number,
                        candidate.site.name,
                        candidate.fit.label,
                        candidate.site.positions,
                        strength,
                        cells[name].oversight.accuracy,
                        cells[name].no_oversight.accuracy,
                        effects[name].kl_neutral_nats,
                        effects[name].kl_answer_nats,
                        candidate.r2,
                    )
                )
        return trials

    def _choice(self, pl_module: RegressorModule, candidates: list[MapCandidate]) -> tuple[MapCandidate, float]:
        """The choice so far; before the first validation, the last site's last map."""
        number = int(pl_module.choice[0])
        # The module keeps it in float32, in which 0.7 is 0.69999999.
        strength = float(f"{float(pl_module.choice[1]):.6g}")
        return (candidates[number], strength) if number >= 0 else (candidates[-1], self.strengths[-1])

    def _chosen_interventions(self, trainer: pl.Trainer, pl_module: RegressorModule) -> tuple[Intervention, ...]:
        candidate, strength = self._choice(pl_module, pl_module.candidates())
        interventions = interventions_of(candidate, strength)
        for intervention in interventions:
            intervention.fingerprint = {
                "backbone": self._ready_variants().fingerprint,
                "store": _data(trainer).fingerprint(),
            }
            intervention.seed = self.seed
        return interventions

    def _with_answers(self, batch: Batch, split: str) -> Batch:
        """Neutral texts with the faker's own answers behind them, where it speaks."""
        if split not in self._answered:
            self._answered[split] = Continuations(self._ready_variants(), "faking", self.continuation_tokens)
        return self._answered[split].batch(batch)

    def _ready_variants(self) -> Variants:
        if self._variants is None:
            raise RuntimeError("SteeringEvaluation was not set up: run it through a Trainer")
        return self._variants


def _best_checkpoint(trainer: pl.Trainer) -> str:
    """The best checkpoint's file; empty where there is none."""
    callback = trainer.checkpoint_callback
    return callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""


def _data(trainer: pl.Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]
