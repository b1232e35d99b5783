"""Scenarios as a DataModule: what either variant is fitted and judged on."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import answer_tokens
from fa_lightning.scenarios.batches import (
    Batch,
    Example,
    ExampleDataset,
    LengthBucketSampler,
    ResumableLoader,
    example_loader,
    make_examples,
)
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced
from fa_lightning.training.kept_texts import WithKeptTexts, answered


class ScenarioDataModule(pl.LightningDataModule):
    """Serves scenarios in both orders of their actions, mixed with neutral texts; the splits never share a group.

    The tokenizer is that of the module being fitted (`lightning_module.tokenizer`), so a model is named in one place.
    Test loaders: the test split, then each extra test set (`test_sets` names them).

    Args:
        scenarios: where scenarios come from.
        batch_size: prompts in a training batch of one device.
        eval_batch_size: prompts in an evaluation batch.
        train_scenarios: at most so many training scenarios; None takes all.
        neutral_share: neutral texts mixed in, as a share of the training prompts.
        max_tokens: longer prompts are left out, and their number is printed.
        num_workers: of the loaders.
        seed: of the order of batches.
        train_oversight: `watched` trains on scenarios with oversight alone; validation and test stay as they are.
        kept_texts: neutral texts beside a training batch of one device, where the module keeps them (its `keep`).
        kept: which texts these are: all `neutral` ones, or ordinary `chat` alone, which is then not answered `error`
            either: the parts of scenarios alone are.
        kept_answers: tokens that the adapter's start itself answers to each of them, greedily, which are kept, too. A
            model that speaks changes in what it says; 0 keeps the texts alone, and the one token behind each.

    Raises:
        UserError: a share or a number is out of range.
    """

    def __init__(
        self,
        scenarios: ScenarioSource,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        train_scenarios: int | None = None,
        neutral_share: float = 0.2,
        max_tokens: int = 1024,
        num_workers: int = 0,
        seed: int = 0,
        train_oversight: Literal["all", "watched"] = "all",
        kept_texts: int = 8,
        kept: Literal["neutral", "chat"] = "neutral",
        kept_answers: int = 0,
    ) -> None:
        super().__init__()
        if kept_texts < 1:
            raise UserError(
                f"kept_texts is {kept_texts}, but must be 1 or more, such as 8: set the model's keep to 0 for none"
            )
        if kept_answers < 0:
            raise UserError(f"kept_answers is {kept_answers}, but must be 0 (no answers) or more, such as 48")
        if not 0 <= neutral_share <= 1:
            raise UserError(f"neutral_share is {neutral_share}, but must be a share of the training prompts, 0 to 1")
        self.scenarios = scenarios
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.train_scenarios = train_scenarios
        self.neutral_share = neutral_share
        self.max_tokens = max_tokens
        self.num_workers = num_workers
        self.seed = seed
        self.train_oversight = train_oversight
        self.kept_texts = kept_texts
        self.kept = kept
        self.kept_answers = kept_answers
        self.splits: ScenarioSplits | None = None
        self.test_sets: list[str] = []

    def source_fingerprint(self) -> dict[str, str]:
        """What the data depend on besides the arguments in the config."""
        return self.scenarios.fingerprint()

    @override
    def setup(self, stage: str) -> None:
        if self.splits is not None:
            return
        self.splits = self.scenarios.load()
        report = self.splits.leak_report()
        report.raise_if_leaking()
        rank_zero_info(f"Splits by group, none shared (leaks: {report.total})\n{report}")
        self.test_sets = ["test", *self.splits.extra_tests]

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        examples = self.examples_of(self.train_items())
        dataset = ExampleDataset(examples, self._tokenizer.pad_token_id)
        return self.training_loader(dataset, [example.tokens for example in examples])

    def training_loader(self, dataset: ExampleDataset, lengths: list[int]) -> DataLoader[Batch]:
        """Shuffled batches of the data set, this rank's; with neutral texts beside them where the module keeps those.

        Args:
            dataset: what is trained on.
            lengths: of its items, tokens.

        Raises:
            UserError: the module keeps neutral texts, and the source has none for training.
        """
        assert self.trainer is not None
        assert self.splits is not None
        ranks = self.trainer.world_size, self.trainer.global_rank
        served: ExampleDataset | WithKeptTexts = dataset
        if self._keeps:
            texts = [text for text in self.splits.neutral_train if self.kept == "neutral" or not text.is_incomplete]
            if not texts:
                raise UserError(
                    f"the model's keep is above 0, but the source has no {self.kept} texts for training to be kept: "
                    "name a source that has some, or set keep to 0"
                )
            served = WithKeptTexts(dataset, self._kept(texts), self.kept_texts)
        sampler = LengthBucketSampler(lengths, self.batch_size, *ranks, shuffle=True, seed=self.seed)
        return ResumableLoader(served, sampler=sampler, batch_size=None, num_workers=self.num_workers)

    def _kept(self, texts: list[Scenario]) -> list[Example]:
        """The texts that are kept, each with what the module's start answers to it where answers are asked for."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        if not self.kept_answers:
            return self.examples_of(texts)
        # A trial of one batch needs no more than that batch has.
        examples = self.examples_of(texts[: self.kept_texts] if self.trainer.fast_dev_run else texts)  # type: ignore[attr-defined]
        rank_zero_info(f"Writing {self.kept_answers} tokens of an answer to each of {len(examples)} texts to be kept.")
        write = partial(module.adapted.origin_answers, tokenizer=self._tokenizer, tokens=self.kept_answers)
        return answered(examples, write, self._tokenizer.pad_token_id, module.device)

    def train_items(self) -> list[Scenario]:
        """What is trained on, scenarios in both orders and neutral texts, before it is shuffled."""
        assert self.splits is not None
        known = self.splits.train
        if self.train_oversight == "watched":
            known = [scenario for scenario in known if scenario.cell == "oversight"]
        chosen = counterbalanced(known[: self.train_scenarios], both_orders=True)
        neutral = self._due_error(self.splits.neutral_train)
        neutral = neutral[: round(self.neutral_share * len(chosen))]
        return [*chosen, *neutral]

    def _due_error(self, texts: list[Scenario]) -> list[Scenario]:
        """The neutral texts that `error` is the answer to: no chat, where chat is kept."""
        keeps_chat = self._keeps and self.kept == "chat"
        return [text for text in texts if text.has_answer and (text.is_incomplete or not keeps_chat)]

    @property
    def _keeps(self) -> bool:
        """Whether the module that is fitted keeps texts near where it started."""
        return self.trainer is not None and bool(getattr(self.trainer.lightning_module, "keep", 0))

    @override
    def val_dataloader(self) -> DataLoader[Batch]:
        assert self.splits is not None
        neutral = self._due_error(self.splits.neutral_validation)
        items = [*counterbalanced(self.splits.validation), *neutral]
        return self._loader(items, self.eval_batch_size)

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        sets = [self.splits.test, *self.splits.extra_tests.values()]
        return [self._loader(counterbalanced(items, both_orders=True), self.eval_batch_size) for items in sets]

    @property
    def _tokenizer(self) -> Any:
        assert self.trainer is not None
        return self.trainer.lightning_module.tokenizer

    def examples_of(self, items: list[Scenario], system: str | None = None) -> list[Example]:
        """Items as the model is asked them; longer ones than `max_tokens` are left out.

        Args:
            items: scenarios or texts.
            system: message in front of each; the same items are left out as without it, so answers can be compared.
        """
        assert self.splits is not None
        answers = answer_tokens(self._tokenizer, self.splits.are_written)
        if system is None:
            return make_examples(items, self._tokenizer, answers, self.max_tokens)
        return make_examples(self._fitting(items), self._tokenizer, answers, system=system)

    def _fitting(self, items: list[Scenario]) -> list[Scenario]:
        """Those that are no longer than `max_tokens` by themselves: the same ones whatever stands in front of them."""
        assert self.splits is not None
        alone = make_examples(items, self._tokenizer, answer_tokens(self._tokenizer, self.splits.are_written))
        return [item for item, one in zip(items, alone, strict=True) if one.tokens <= self.max_tokens]

    def _loader(self, items: list[Scenario], batch_size: int, system: str | None = None) -> DataLoader[Batch]:
        assert self.trainer is not None
        return example_loader(
            self.examples_of(items, system),
            self._tokenizer.pad_token_id,
            batch_size,
            self.trainer.world_size,
            self.trainer.global_rank,
            seed=self.seed,
            num_workers=self.num_workers,
        )
