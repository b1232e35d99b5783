"""What cures are fitted on, chosen by and judged on: scenarios of each source, and the base's own neutral texts."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch, Example
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced, limited
from fa_lightning.studies.transfer.asking import TEXTS
from fa_lightning.training.data import ScenarioDataModule

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


class Served(NamedTuple):
    """What a loader serves.

    Attributes:
        part: training, validation or test groups.
        source: whose scenarios: a key of `others`, empty for the base's own; `TEXTS` for neutral texts.
    """

    part: Part
    source: str


class TransferDataModule(ScenarioDataModule):
    """Serves training, validation and test groups, one after the other: scenarios of every source, then neutral texts.

    No group is in two parts, whichever source it is of.

    Args:
        scenarios: the base's own.
        others: further sources, by name, that organisms name as what they are asked; null leaves one out.
        capture: at most so many training scenarios of each source, which maps are fitted on.
        validation: at most so many validation scenarios of each, which strengths are chosen by.
        test: at most so many test scenarios of each, asked in both orders of their actions.
        texts: at most so many neutral texts of each part.
        **options: of `ScenarioDataModule`.

    Raises:
        UserError: a number is below 1; later, a part of one source has groups of another part of another.
    """

    def __init__(
        self,
        scenarios: ScenarioSource,
        others: dict[str, ScenarioSource | None] | None = None,
        capture: int = 400,
        validation: int = 120,
        test: int = 200,
        texts: int = 64,
        **options: Any,
    ) -> None:
        super().__init__(scenarios, **options)
        self.most: dict[Part, int] = {"train": capture, "validation": validation, "test": test}
        for name, value in (("capture", capture), ("validation", validation), ("test", test), ("texts", texts)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        self.texts = texts
        self.others = {name: source for name, source in (others or {}).items() if source is not None}
        self.of_source: dict[str, ScenarioSplits] = {}

    @override
    def source_fingerprint(self) -> dict[str, str]:
        own = dict(super().source_fingerprint())
        for name, source in self.others.items():
            own |= {f"{name}.{key}": value for key, value in source.fingerprint().items()}
        return own

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        assert self.splits is not None
        if self.of_source:
            return
        self.of_source = {"": self.splits}
        for name, source in self.others.items():
            splits = source.load()
            splits.leak_report().raise_if_leaking()
            self.of_source[name] = splits
        self._refuse_shared_groups()

    def _refuse_shared_groups(self) -> None:
        """Refuse groups that are in one part of one source and in another part of another."""
        groups = {
            part: {item.group for splits in self.of_source.values() for item in splits.scenarios(part)}
            for part in PARTS
        }
        for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if shared := groups[first] & groups[second]:  # type: ignore[index]
                raise UserError(
                    f"{len(shared)} groups are in {first} of one source and in {second} of another, so a cure would be "
                    "judged on what it was fitted on: give all sources (scenarios, others) one seed"
                )
        rank_zero_info(
            f"{len(groups['test'])} test groups of {len(self.of_source)} sources, none fitted on or chosen by in any."
        )

    def served(self) -> list[Served]:
        """What each loader serves, in their order."""
        return [Served(part, source) for part in PARTS for source in (*self.of_source, TEXTS)]

    def items(self, served: Served) -> list[Scenario]:
        """The scenarios or texts of one loader, in the order of their numbers."""
        assert self.splits is not None
        if served.source == TEXTS:
            texts = limited(self.splits.neutral(served.part), self.texts)
            if not texts:
                raise UserError(
                    f"the source has no neutral texts for {served.part}, on which side effects are measured: name some "
                    "(`general` of the base)"
                )
            return texts
        scenarios = limited(self.of_source[served.source].scenarios(served.part), self.most[served.part])
        if not scenarios:
            raise UserError(
                f"the source {served.source or 'scenarios'!r} has no {served.part} scenarios, but cures need some"
            )
        return counterbalanced(scenarios, both_orders=served.part == "test")

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        return [self._loader(self.items(served), self.eval_batch_size) for served in self.served()]

    def behind_system_message(self, text: str, part: Part) -> dict[str, dict[int, Example]]:
        """The examples of one part's loaders with a system message in front, by source and by their number."""
        return {
            served.source: {one.index: one for one in self.examples_of(self.items(served), system=text)}
            for served in self.served()
            if served.part == part
        }
