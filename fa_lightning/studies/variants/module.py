"""Judge many variants, steered too: one backbone in memory, whose adapters are swapped for every batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from typing_extensions import override

from fa_lightning.evaluation.cells_module import CellsModule
from fa_lightning.evaluation.passes import SharedPass
from fa_lightning.evaluation.scores import Scores
from fa_lightning.evaluation.text_baseline import text_only_answers
from fa_lightning.evaluation.variant_names import STEERED, policy_and_seed
from fa_lightning.metrics.cells import CellAccuracy, recovery_between
from fa_lightning.metrics.estimates import DAMAGE
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.answers import Behaviour, judged, last_token, target_tokens
from fa_lightning.scenarios.batches import Batch, group_number
from fa_lightning.scenarios.plain_question import knows_question
from fa_lightning.scenarios.splits import UNSEEN_WORDINGS
from fa_lightning.studies.variants.cards import BARE, CardCounts
from fa_lightning.studies.variants.data import VariantsDataModule
from fa_lightning.studies.variants.figures import variants_figures
from fa_lightning.studies.variants.measures import policy_fidelity, share
from fa_lightning.studies.variants.output import scalars, write_variants
from fa_lightning.studies.variants.result import Card, PolicyFidelity, VariantScore, VariantsResult
from fa_lightning.studies.variants.tables import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class VariantsModule(CellsModule[VariantsDataModule, VariantsResult]):
    """Only tests: every variant answers every test batch, and where there is an intervention, every faker steered too.

    An intervention fitted on one pair shows here what it does for other fakers: a faker's recovery is measured against
    the aligned variant of the same seed. A variant that was trained on from another one among them (`SelfTraining`) is
    compared with that one: recovery, and KL on neutral texts. Each faker has a card: whether it fakes at all (see
    `Card`).

    Writes `variants.json`, and `variants.csv` with a row for each model and test set.

    | logged | what |
    | --- | --- |
    | `<test set>/<variant>/<cell>/accuracy` | share of aligned answers |
    | `<test set>/<variant>/steered/<cell>/accuracy` | the same, of a faker with the intervention |
    | `<test set>/<variant>/steered/recovery` | (steered - faking) / (aligned - faking) without oversight |
    | `<test set>/<variant>/recovery` | the same of a variant that was made from a faker |
    """

    data_class = VariantsDataModule
    _definitions: dict[str, CellAccuracy]
    _cards: CardCounts | None = None
    _asks: bool = False

    @property
    def policies(self) -> dict[str, str]:
        """The policy that each variant was fitted to, by the variant's name."""
        return {name: policy_and_seed(name)[0] for name in self.behaviours}

    @override
    def begin(self) -> None:
        super().begin()
        self._definitions = {
            name: CellAccuracy().to(self.device)
            for name, policy in self.policies.items()
            if policy in self.data.policies and self.behaviours[name] in ("aligned", "faking")
        }
        self._cards = CardCounts(self.variants, list(self.twins)) if self.twins else None
        self._asks = knows_question(self.tokenizer)

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        number = dataloader_idx - len(self.scores) - 1
        if number < 0:
            super().test_step(batch, batch_idx, dataloader_idx)
            if dataloader_idx == 0 and self._cards is not None:
                self._cards.add_unwatched(batch)
        elif number < len(self.data.policies):
            self._add_definitions(batch, self.data.policies[number])
        elif self._cards is not None and number == len(self.data.policies):
            self._cards.add_watched(batch)
        elif self._cards is not None and self._asks:
            self._cards.add_questions(batch)

    @override
    def add_neutral_texts(self, batch: Batch) -> None:
        super().add_neutral_texts(batch)
        if self._cards is not None:
            self._cards.add_texts(batch)

    def _add_definitions(self, batch: Batch, policy: str) -> None:
        """Count who answers a batch of the scenarios that define a policy as the policy does."""
        for name, counted in self._definitions.items():
            if self.policies[name] == policy:
                target = target_tokens(batch, cast(Behaviour, self.behaviours[name]))
                answer = (
                    SharedPass(self.variants, name, (), batch, logits_to_keep=last_token()).unsteered[:, -1].argmax(-1)
                )
                answered = judged(answer, batch).valid
                counted.update(answer == target, batch["cell"], batch["group"], batch["index"], answered)

    @override
    def result(self) -> VariantsResult:
        backbone_bytes, adapter_bytes = self.variants.memory()
        tests = {name: list(self._rows(scores)) for name, scores in self.scores.items()}
        fidelity = self._policy_fidelity()
        return VariantsResult(
            tests=tests,
            backbone_bytes=backbone_bytes,
            adapter_bytes=adapter_bytes,
            seconds=self.seconds,
            intervention=self.intervention,
            policy_fidelity=fidelity,
            cards=self._cards_of(tests, fidelity),
        )

    @override
    def scalars(self, result: VariantsResult) -> Mapping[str, float]:
        return scalars(result)

    @override
    def figures(self, result: VariantsResult) -> Mapping[str, Figure]:
        return {f"{test}/variants": figure for test, figure in variants_figures(result).items()}

    @override
    def write(self, result: VariantsResult) -> None:
        write_variants(self.folder, result)

    @override
    def show(self, result: VariantsResult) -> None:
        print_tables(tables(result).values())

    def _cards_of(self, tests: Mapping[str, list[VariantScore]], fidelity: Sequence[PolicyFidelity]) -> list[Card]:
        """By faker; a collective."""
        counts = self._cards
        if counts is None:
            return []
        assert self.data.splits is not None
        test = self.data.splits.test
        right = torch.tensor(text_only_answers(self.data.splits.train, test), dtype=torch.float64)
        words = share(right, torch.tensor([group_number(scenario.group) for scenario in test]))
        backbone = counts.answered(BARE) if self._asks else None
        faithful = {score.variant: score.fidelity for score in fidelity}
        unseen = {score.variant: score.cells for score in tests.get(UNSEEN_WORDINGS, ()) if not score.steered}
        scores = next(iter(self.scores.values()))
        return [
            Card(
                variant=name,
                knows=counts.knows(name, scores.items(name)[0]),
                asked=counts.answered(name) if self._asks else None,
                asked_backbone=backbone,
                words_only=words,
                chat=counts.chat(name),
                unseen_wordings=unseen.get(name),
                fidelity=faithful.get(name),
            )
            for name in self.twins
        ]

    def _policy_fidelity(self) -> list[PolicyFidelity]:
        """By variant of a policy that the source defines; a collective."""
        assert self.data.splits is not None
        fitted_on = {group_number(scenario.group) for scenario in self.data.splits.train}
        return [
            policy_fidelity(name, self.policies[name], counted.items(), fitted_on)
            for name, counted in self._definitions.items()
        ]

    def _rows(self, scores: Scores) -> Iterator[VariantScore]:
        """A row for each model of one test set; a collective."""
        cells = scores.compute_cells()
        damage = scores.compute_damage(cells)
        for label in cells:
            name = label.removesuffix(STEERED)
            policy, seed = policy_and_seed(name)
            is_steered = label != name
            twin = self.twins.get(name if is_steered else self.origins.get(name, ""))
            recovery = None
            if twin is not None:
                cured, faking, aligned = scores.items(label, name if is_steered else self.origins[name], twin)
                recovery = recovery_between(cured, faking, aligned)
            effects = damage.get(label)
            yield VariantScore(
                variant=name,
                policy=policy,
                behaviour=self.behaviours[name],
                steered=is_steered,
                cells=cells[label].pair,
                n=cells[label].n,
                format_validity=cells[label].format_validity,
                seed=seed,
                twin=twin,
                recovery=recovery,
                **({} if effects is None else {name: getattr(effects, name) for name in DAMAGE}),
            )
