"""The frozen-LLM DataModule: paired activations of the twins, and the scenarios that steering is judged on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from typing_extensions import override

from fa_lightning.activations.record import Plan, plan_shards, record
from fa_lightning.activations.site_names import SiteName, check_sites, resolve_sites
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store import ActivationStore
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.backbones.adapters import adapter_folders
from fa_lightning.backbones.arguments import BackboneArguments, DType
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.variants import VARIANTS as PAIR
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import answer_tokens
from fa_lightning.scenarios.batches import Batch, Example, example_loader, make_examples
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced, subset


class BlockDataset(Dataset[dict[str, Any]]):
    """Contiguous blocks of paired states from a store, one a batch.

    A block has, for each site, (faking, aligned) states (rows, hidden), and `decision` (rows,).
    """

    def __init__(self, store: ActivationStore, split: str, rows: int, ranks: int) -> None:
        self.store = store
        self.split = split
        self.ranges = shareable(store.block_ranges(split, rows), ranks)

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.store.block(self.split, *self.ranges[index])


class BlockSampler(DistributedSampler[Any]):
    """A DistributedSampler that draws its order when the first block is asked for.

    A Trainer that resumes asks for the iterator first and tells the epoch afterwards.
    """

    @override
    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()


class ActivationDataModule(pl.LightningDataModule):
    """Captures both variants' hidden states once, then serves them from disk.

    In `setup` each rank extracts its share of the prompts (resumed where a killed run stopped), and all ranks read all
    shards. Validation loaders: held-out states, scenarios, neutral texts. Test loaders: scenarios, neutral texts, then
    each extra test set.

    Args:
        scenarios: where scenarios come from; the same arguments as for the twins, so that the splits agree.
        aligned: folder of the aligned adapter.
        faking: folder of the faking adapter.
        store: folder of the activation store.
        others: further variants recorded in the same store, by adapter folders or folders of them (see
            `adapter_folders`); `ActivationStore.of` picks any pair. Maps are fitted on `faking` and `aligned` alone.
        backbone: how it is loaded; without a name, the one that the adapters were fitted on.
        sites: where to read, by name: `layers.3.residual`, or relative to the depth, as 0.6 or last.mlp (see
            `site_names`); a number alone is the output of so many decoder blocks, evenly spread, the last among them;
            None is that of every block.
        store_dtype: of the states on disk.
        tokens: keep the states of all tokens, or of the decision tokens alone (one, or those of a written answer).
        capture_scenarios: training scenarios captured.
        capture_validation: validation scenarios captured, for the regression error.
        capture_neutral: training neutral texts captured, so that a map learns to leave them alone.
        shard_examples: prompts in a shard; also the batch size of the capture.
        block_rows: tokens in a training batch.
        batch_size: prompts in an evaluation batch.
        validation_items: at most so many validation scenarios judged in each validation.
        validation_texts: at most so many neutral texts of the validation split read for each candidate; None is all.
        both_orders: show test scenarios in both orders of their actions; else half of them in each.
        max_tokens: longer prompts are left out.
        num_workers: of the loaders.
        seed: of the order of blocks.

    Raises:
        UserError: a size is below 1, or `sites` names none.
    """

    step_sizes: ClassVar[tuple[str, ...]] = ("block_rows",)
    """Arguments that are one rank's share of a training step; `batch_size` is judged with."""

    def __init__(
        self,
        scenarios: ScenarioSource,
        aligned: str,
        faking: str,
        store: str,
        others: list[str] | None = None,
        backbone: BackboneArguments = BackboneArguments(),
        sites: list[SiteName] | int | None = None,
        store_dtype: DType = "float16",
        tokens: Literal["all", "decision"] = "all",
        capture_scenarios: int = 1200,
        capture_validation: int = 200,
        capture_neutral: int = 300,
        shard_examples: int = 64,
        block_rows: int = 4096,
        batch_size: int = 64,
        validation_items: int | None = None,
        validation_texts: int | None = None,
        both_orders: bool = True,
        max_tokens: int = 1024,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {
            "capture_scenarios": capture_scenarios,
            "capture_validation": capture_validation,
            "shard_examples": shard_examples,
            "block_rows": block_rows,
            "batch_size": batch_size,
            "validation_texts": 1 if validation_texts is None else validation_texts,
        }
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"{name} is {size}, but must be 1 or more")
        check_sites(sites)
        self.scenarios = scenarios
        self.adapters: dict[str, str] = {"faking": faking, "aligned": aligned}
        self.others = list(others or [])
        self.folder = Path(store)
        self.backbone = backbone
        self.site_names = sites
        self.store_dtype = store_dtype
        self.tokens = tokens
        self.capture_counts = {"train": capture_scenarios, "validation": capture_validation, "neutral": capture_neutral}
        self.shard_examples = shard_examples
        self.block_rows = block_rows
        self.batch_size = batch_size
        self.validation_items = validation_items
        self.validation_texts = validation_texts
        self.both_orders = both_orders
        self.max_tokens = max_tokens
        self.num_workers = num_workers
        self.seed = seed
        self.splits: ScenarioSplits | None = None
        self.store: ActivationStore | None = None
        self.variants: Variants | None = None
        self.sites: list[Site] = []

    def source_fingerprint(self) -> dict[str, str]:
        """What the data depend on besides the arguments in the config."""
        return self.scenarios.fingerprint()

    @override
    def setup(self, stage: str) -> None:
        if self.splits is None:
            self.splits = self.scenarios.load()
            self.splits.leak_report().raise_if_leaking()
        if self.variants is None:
            self.adapters |= self._other_adapters()
            self.variants = self._load_variants()
        self.sites = resolve_sites(self.site_names, len(decoder_layers(self.variants.model)))
        if stage == "fit" or (stage == "validate" and self.store is None):
            self.store = self._captured(self.variants)

    @override
    def train_dataloader(self) -> dict[str, DataLoader[Any]]:
        assert self.trainer is not None
        assert self.store is not None
        blocks = BlockDataset(self.store, "train", self.block_rows, self.trainer.world_size)
        sampler = BlockSampler(blocks, self.trainer.world_size, self.trainer.global_rank, shuffle=True, seed=self.seed)
        states = DataLoader(blocks, sampler=sampler, batch_size=None, num_workers=self.num_workers)
        return {"states": states}

    @override
    def val_dataloader(self) -> list[DataLoader[Any]]:
        assert self.trainer is not None
        assert self.splits is not None
        assert self.store is not None
        blocks = BlockDataset(self.store, "validation", self.block_rows, self.trainer.world_size)
        sampler = BlockSampler(blocks, self.trainer.world_size, self.trainer.global_rank, shuffle=False)
        return [
            DataLoader(blocks, sampler=sampler, batch_size=None),
            self._examples(counterbalanced(subset(self.splits.validation, self.validation_items))),
            self._examples(subset(self.splits.neutral_validation, self.validation_texts)),
        ]

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        return [
            self._examples(counterbalanced(self.splits.test, both_orders=self.both_orders)),
            self._examples(self.splits.neutral_test),
            *(
                self._examples(counterbalanced(items, both_orders=self.both_orders))
                for items in self.splits.extra_tests.values()
            ),
        ]

    def fingerprint(self) -> dict[str, Any]:
        """What the store is made from; it is refused where this differs."""
        assert self.variants is not None
        return {
            "backbone": self.variants.fingerprint,
            "adapters": {name: digest_of_artefact(folder) for name, folder in self.adapters.items()},
            "scenarios": self.scenarios.fingerprint(),
            "tokens": self.tokens,
            "capture": self.capture_counts,
            "max_tokens": self.max_tokens,
            "shard_examples": self.shard_examples,
            **self.backbone.arithmetic(),
        }

    def _other_adapters(self) -> dict[str, str]:
        folders = adapter_folders(self.others)
        for name in folders:
            if name in PAIR:
                raise UserError(f"others holds an adapter called {name!r}, as one of the pair is: rename its folder")
        return folders

    def _load_variants(self) -> Variants:
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        return Variants.load(self.adapters, self.backbone, device=device)

    def _captured(self, variants: Variants) -> ActivationStore:
        """The finished store; what is missing of it is captured first."""
        assert self.trainer is not None
        names = [site.name for site in self.sites]
        made_from = self.fingerprint()
        writer = StoreWriter(
            self.folder,
            made_from,
            names,
            tuple(self.adapters),
            dtype=self.store_dtype,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        plan = self._plan(variants)
        written = record(variants, writer, plan, self.sites, decision_only=self.tokens == "decision")
        self.trainer.strategy.barrier("captured")
        writer.finish(list(plan))
        self.trainer.strategy.barrier("store finished")
        store = ActivationStore.open(self.folder, expected=made_from)
        rank_zero_info(
            f"Activation store: {self.folder}, {store.rows('train')} training tokens, {written} shards written"
        )
        return store.of(*PAIR)

    def _plan(self, variants: Variants) -> Plan:
        assert self.splits is not None
        train, neutral = self._captured_training_items()
        held_out = counterbalanced(subset(self.splits.validation, self.capture_counts["validation"]))
        tokenizer = variants.tokenizer
        answers = answer_tokens(tokenizer, self.splits.are_written)
        parts = {"train": [*train, *neutral], "validation": held_out}
        return plan_shards(
            {
                # Written answers are read, too, by both twins the aligned one.
                split: [
                    example.answered("aligned") for example in make_examples(items, tokenizer, answers, self.max_tokens)
                ]
                for split, items in parts.items()
            },
            self.shard_examples,
        )

    def _captured_training_items(self) -> tuple[list[Scenario], list[Scenario]]:
        """Training scenarios and neutral texts whose states are in the store, in the order of its examples."""
        assert self.splits is not None
        train = counterbalanced(subset(self.splits.train, self.capture_counts["train"]))
        return train, subset(self.splits.neutral_train, self.capture_counts["neutral"])

    def _examples(self, items: list[Scenario], batch_size: int | None = None) -> DataLoader[Batch]:
        """A loader in fixed order, or shuffled where a batch size of its own says that it is for training."""
        assert self.trainer is not None
        assert self.splits is not None
        assert self.variants is not None
        tokenizer = self.variants.tokenizer
        answers = answer_tokens(tokenizer, self.splits.are_written)
        examples: list[Example] = make_examples(items, tokenizer, answers, self.max_tokens)
        return example_loader(
            examples,
            tokenizer.pad_token_id,
            batch_size or self.batch_size,
            self.trainer.world_size,
            self.trainer.global_rank,
            shuffle=batch_size is not None,
            seed=self.seed,
        )


def shareable(ranges: list[tuple[int, int]], ranks: int) -> list[tuple[int, int]]:
    """Split the largest ranges until every rank gets as many, so that no sampler needs to repeat one.

    >>> shareable([(0, 8), (8, 10), (10, 12)], ranks=2)
    [(0, 4), (4, 8), (8, 10), (10, 12)]

    Raises:
        UserError: there are fewer rows than ranks.
    """
    rows = sum(stop - start for start, stop in ranges)
    if rows < ranks:
        raise UserError(f"the store's split has {rows} rows, too few for {ranks} ranks: capture more, or use fewer")
    shared = list(ranges)
    while len(shared) % ranks:
        start, stop = max(shared, key=lambda pair: pair[1] - pair[0])
        at = shared.index((start, stop))
        shared[at : at + 1] = [(start, (start + stop) // 2), ((start + stop) // 2, stop)]
    return shared
