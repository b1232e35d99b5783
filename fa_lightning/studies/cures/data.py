"""The scenarios that cures of a faker are judged on, as they are and with each input around them."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.evaluation.data import JudgedScenarios
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, Example
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import counterbalanced, subset
from fa_lightning.studies.cures.input_passes import TEXTS, asked_alone, examples_behind
from fa_lightning.studies.cures.inputs import InputCure, Prompted, named_twice


class Alone(InputCure):
    """Nothing around a prompt."""

    name = "no input"

    @override
    def around(self, message: str) -> Prompted:
        return Prompted(message)


class CuresDataModule(JudgedScenarios):
    """The test split and neutral texts, and the same items with each input around them.

    Where the module tries `strengths`, validation scenarios and texts are served before them: there they are chosen.

    Args:
        scenarios: where scenarios come from.
        inputs: cures by input; what they need of scenarios is taken from training groups. Of random ones every draw
            is judged.
        validation_items: at most so many validation scenarios; None takes all.
        validation_texts: at most so many neutral texts of the validation split; None takes all.
        **options: of `JudgedScenarios`.

    Raises:
        UserError: two inputs have one name.
    """

    # Others would cost as much again and have no columns of their own.
    judges_extra_tests = False

    def __init__(
        self,
        scenarios: ScenarioSource,
        inputs: list[InputCure] | None = None,
        validation_items: int | None = None,
        validation_texts: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(scenarios, **options)
        self.validation_items = validation_items
        self.validation_texts = validation_texts
        named_twice([cure for cure in inputs or [] if cure.name])
        self.inputs = [draw for cure in inputs or [] for draw in cure.drawn()]

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.trainer is not None
        assert self.splits is not None
        items = list(self._judged_items().values())
        if getattr(self.trainer.lightning_module, "strengths", ()):
            scenarios = counterbalanced(subset(self.splits.validation, self.validation_items))
            items = [scenarios, subset(self.splits.neutral_validation, self.validation_texts), *items]
        return [self._loader(part, self.eval_batch_size) for part in items]

    def _judged_items(self) -> dict[str, list[Scenario]]:
        assert self.splits is not None
        scenarios = counterbalanced(self.splits.test, both_orders=True)
        return {self.test_sets[0]: scenarios, TEXTS: self.splits.neutral_test}

    def prepare_inputs(self, tokenizer: Any) -> None:
        """Let every input take what it needs; then all have their names."""
        assert self.splits is not None
        for cure in self.inputs:
            cure.prepare(self.splits.train, tokenizer)
        named_twice(self.inputs)

    def examples(self, cure: InputCure, tokenizer: Any, most: int) -> dict[str, list[Example]]:
        """The examples of both loaders with an input around each.

        Raises:
            UserError: a prompt does not fit the model's context of `most` tokens.
        """
        answers = letter_tokens(tokenizer)
        return {
            name: examples_behind(cure, items, tokenizer, answers, self.max_tokens, most)
            for name, items in self._judged_items().items()
        }

    def asked_items(self, tokenizer: Any) -> dict[str, list[Scenario]]:
        """The scenarios and texts of both loaders, in the order of their numbers."""
        answers = letter_tokens(tokenizer)
        return {
            name: [item for item, _ in asked_alone(items, tokenizer, answers, self.max_tokens)]
            for name, items in self._judged_items().items()
        }
