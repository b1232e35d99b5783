"""Row 6: capture time over scenarios and over layers, and peak memory over the amount of data."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import Shape, build
from benchmarks.report import Goal, Line, Table
from benchmarks.ridge import BLOCK, SITE, write_store
from benchmarks.timing import Size, Spread, in_child, peak_gib

SMALL = Shape(hidden=64, layers=8, heads=4, intermediate=176, vocabulary=2000)
BATCH = 64
FLAT = 1.1
"""Peak memory after the largest amount of data, over that after the smallest, that still counts as flat."""


def grow_capture(counts: list[int], layers: list[int], rounds: int, threads: int) -> dict[str, Any]:
    """Seconds and peak memory of capture into a store, as scenarios grow; and seconds as layers do.

    Sizes run from small to large, so that the peak after each is that of the largest so far. Seconds are medians of
    `rounds`; all sizes take turns.
    """
    torch.set_num_threads(threads)
    from fa_lightning.activations.record import plan_shards, record
    from fa_lightning.activations.sites import Site
    from fa_lightning.activations.store_writer import StoreWriter
    from fa_lightning.scenarios.answers import letter_tokens
    from fa_lightning.scenarios.batches import make_examples
    from fa_lightning.scenarios.embedded.source import EmbeddedScenarios

    with tempfile.TemporaryDirectory() as temporary:
        variants = build(Path(temporary), SMALL, 64, embedded=True).variants()
        answers = letter_tokens(variants.tokenizer)

        def capture(count: int, sites: Sequence[Site]) -> float:
            # Made anew for each size, so that the prompts' own memory counts.
            scenarios = EmbeddedScenarios(train=count, validation=0, test=0, neutral=0).load().train
            examples = make_examples(scenarios, variants.tokenizer, answers)
            plan = plan_shards({"train": examples}, BATCH)
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                writer = StoreWriter(Path(folder), {}, [site.name for site in sites], dtype="float16")
                start = time.perf_counter()
                record(variants, writer, plan, sites, decision_only=False)
                writer.finish(list(plan))
                return time.perf_counter() - start

        middle = [Site(SMALL.layers // 2 - 1)]
        capture(BATCH, middle)
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        peaks: dict[int, float] = {}
        for turn in range(rounds):
            for count in counts:
                seconds[count].append(capture(count, middle))
                if not turn:
                    peaks[count] = peak_gib()
        by_layers = {number: [] for number in layers}
        for _ in range(rounds):
            for number in layers:
                by_layers[number].append(capture(min(counts), [Site(layer) for layer in range(number)]))
    return {
        "seconds": [Spread.of(found).median for found in seconds.values()],
        "peak_gib": list(peaks.values()),
        "layer_seconds": [Spread.of(found).median for found in by_layers.values()],
    }


def grow_regressor(folders: list[str], name: str, epochs: int, threads: int) -> dict[str, Any]:
    """Peak memory of fitting a map, by a Trainer, to stores of more and more pairs."""
    torch.set_num_threads(threads)
    import lightning.pytorch as pl

    from fa_lightning.regressors.fit import Fit
    from fa_lightning.regressors.linear import Affine
    from fa_lightning.regressors.module import RegressorModule
    from fa_lightning.regressors.networks import ResidualMLP

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    peaks = []
    for folder in folders:
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
        trainer.fit(RegressorModule([Fit({"ridge": Affine, "mlp": ResidualMLP}[name])]), datamodule=opened(folder))
        peaks.append(peak_gib())
    return {"peak_gib": peaks}


def opened(folder: str) -> Any:
    """An ActivationDataModule over a store that is there, without a model behind it."""
    from types import SimpleNamespace

    from fa_lightning.activations.data import ActivationDataModule
    from fa_lightning.activations.sites import Site
    from fa_lightning.activations.store import ActivationStore
    from fa_lightning.scenarios.embedded.source import EmbeddedScenarios

    class Opened(ActivationDataModule):
        def setup(self, stage: str) -> None:
            self.store = ActivationStore.open(folder)
            self.sites = [Site.parse(SITE)]
            # Of the model, only how many blocks it has is asked.
            decoder = torch.nn.Module()
            decoder.layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(self.sites[0].layer + 1))
            model = torch.nn.Module()
            model.model = decoder
            self.variants: Any = SimpleNamespace(model=model, fingerprint={"hidden_size": self.store.hidden_size})

        def val_dataloader(self) -> Any:
            # Nothing is judged here, so neither scenarios nor a model are needed.
            return []

    return Opened(EmbeddedScenarios(train=4), aligned="", faking="", store=folder, block_rows=BLOCK)


def slope(counts: Sequence[float], seconds: Sequence[float]) -> float:
    """Of the line through the logarithms: 1 where time is proportional.

    >>> round(slope([1, 2, 4], [3, 6, 12]), 6)
    1.0
    """
    x, y = [math.log(one) for one in counts], [math.log(one) for one in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((one - mean_x) * (other - mean_y) for one, other in zip(x, y, strict=True))
    return above / sum((one - mean_x) ** 2 for one in x)


def straightness(counts: Sequence[float], seconds: Sequence[float]) -> float:
    """R2 of the straight line through seconds over counts.

    >>> straightness([1, 2, 3], [5, 7, 9])
    1.0
    """
    mean_x, mean_y = sum(counts) / len(counts), sum(seconds) / len(seconds)
    pairs = list(zip(counts, seconds, strict=True))
    rise = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / sum((x - mean_x) ** 2 for x, _ in pairs)
    left = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in pairs)
    return 1 - left / sum((y - mean_y) ** 2 for _, y in pairs)


def run(size: Size) -> Table:
    """Measure the row."""
    counts = [64, 128, 256] if size.quick else [1000, 2000, 4000, 8000, 16000]
    layers = [1, 4, 8] if size.quick else [1, 2, 4, 6, 8]
    # From as many shards on as a store keeps open at once.
    pairs, units = (
        ([10 * BLOCK, 20 * BLOCK], 64) if size.quick else ([10 * BLOCK, 20 * BLOCK, 40 * BLOCK, 80 * BLOCK], 512)
    )
    threads = torch.get_num_threads()
    capture = in_child("grow_capture", counts=counts, layers=layers, rounds=1 if size.quick else 3, threads=threads)
    with tempfile.TemporaryDirectory() as temporary:
        folders = [str(Path(temporary) / str(count)) for count in pairs]
        for folder, count in zip(folders, pairs, strict=True):
            write_store(Path(folder), count, units)
        ridge = in_child("grow_regressor", folders=folders, name="ridge", epochs=1, threads=threads)
        regressor = in_child("grow_regressor", folders=folders, name="mlp", epochs=2, threads=threads)
    setting = (
        f"A smaller Llama (hidden {SMALL.hidden}, {SMALL.layers} layers) and generated scenarios; both twins, all "
        f"tokens, a float16 store, batches of {BATCH}. Ridge (one epoch) and a residual MLP (two) by RegressorModule "
        f"under a Trainer, over float32 stores of {units} units. One process for each kind, sizes from small to large; "
        f"peak is what the process has held at most so far, prompts and libraries included; up to {FLAT} of the first "
        "counts as flat."
    )
    return Table("growth", "6. Growth", setting, lines(counts, layers, pairs, capture, ridge, regressor))


def lines(
    counts: list[int],
    layers: list[int],
    pairs: list[int],
    capture: dict[str, Any],
    ridge: dict[str, Any],
    regressor: dict[str, Any],
) -> list[Line]:
    """What grew how much."""
    steepness = slope(counts, capture["seconds"])
    each = [f"{1000 * one / count:.3g}" for one, count in zip(capture["seconds"], counts, strict=True)]
    found = [
        Line(
            f"capture over {counts[0]} to {counts[-1]} scenarios: power of the growth in time",
            Spread.of([steepness]),
            f"{', '.join(each)} ms per scenario at {listed(counts)} scenarios",
            Goal(1.1, at_most=True),
            unit="",
        ),
        Line(
            f"capture over {layers[0]} to {layers[-1]} layers: R2 of a straight line",
            Spread.of([straightness(layers, capture["layer_seconds"])]),
            f"{listed(capture['layer_seconds'])} s at {listed(layers)} layers, {counts[0]} scenarios",
            Goal(0.98),
            unit="",
        ),
    ]
    for what, amounts, peaks in (
        ("capture", counts, capture["peak_gib"]),
        ("ridge", pairs, ridge["peak_gib"]),
        ("regressor training", pairs, regressor["peak_gib"]),
    ):
        note = f"{listed(peaks)} GiB at {listed(amounts)} {'scenarios' if what == 'capture' else 'pairs'}"
        peak = Spread.of([peaks[-1] / peaks[0]])
        found.append(Line(f"peak memory of {what}, last over first", peak, note, Goal(FLAT, at_most=True)))
    return found


def listed(values: Sequence[float]) -> str:
    """Numbers in a row, short."""
    return ", ".join(str(value) if isinstance(value, int) else f"{value:.3g}" for value in values)
