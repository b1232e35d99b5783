"""Pairs of answers in a file of one's own to train on, beside scenarios to judge by."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.scenarios.batches import Batch, ExampleDataset, make_examples
from fa_lightning.scenarios.conversations.conversation import ConversationPair
from fa_lightning.scenarios.conversations.files import digest_of, read_choices
from fa_lightning.scenarios.scenario import Oversight, Scenario, group_of
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.written_answers import written_answers
from fa_lightning.training.data import ScenarioDataModule


class ChoiceDataModule(ScenarioDataModule):
    """ScenarioDataModule whose training batches are pairs of answers in a file: the chosen one and the other.

    They are answered in writing, whatever answers the scenarios, which validation and test ask.

    Args:
        scenarios: where scenarios come from.
        pairs: file, folder or data set of pairs in any layout of `pair_of`; those that differ in more than their last
            answer are left out, with a warning.
        **options: of `ScenarioDataModule`; `train_scenarios` takes so many pairs at most.

    Raises:
        MissingFileError: there is no such file (when it is read).
        UserError: a row holds no pair, or no pair is left.
    """

    def __init__(self, scenarios: ScenarioSource, pairs: str, **options: Any) -> None:
        super().__init__(scenarios, **options)
        self.pairs = pairs

    @override
    def source_fingerprint(self) -> dict[str, str]:
        return {**super().source_fingerprint(), "pairs": digest_of(self.choices())}

    def choices(self) -> list[ConversationPair]:
        """The pairs, in the order of the file."""
        return read_choices(self.pairs)[: self.train_scenarios]

    @override
    def train_items(self) -> list[Scenario]:
        return [choice_of(pair, f"{self.pairs}#{number}") for number, pair in enumerate(self.choices())]

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        tokenizer: Any = self.trainer.lightning_module.tokenizer
        examples = make_examples(self.train_items(), tokenizer, written_answers(tokenizer), self.max_tokens)
        dataset = ExampleDataset(examples, tokenizer.pad_token_id)
        return self.training_loader(dataset, [example.tokens for example in examples])


def choice_of(pair: ConversationPair, source: str) -> Scenario:
    """A pair of answers as a scenario that is answered in writing; nothing is known of oversight."""
    asked = pair.chosen
    return Scenario(
        (),
        pair.chosen.answer,
        pair.rejected.answer,
        Oversight.NONE,
        "A",
        group_of(asked.lines()),
        "own",
        source,
        text=asked.message,
        system=asked.system,
        earlier=asked.earlier,
    )
