"""Row 4: ridge regression of the aligned states on the faking ones, from a store, beside scikit-learn's."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import Goal, Line, Table
from benchmarks.timing import Size, Spread, in_child, missing, peak_gib, ratio

SITE = "layers.0.residual"
BLOCK = 4096
PENALTY = 1e-3
"""On standardised units, per pair."""


def synthetic_pairs(rows: int, units: int, part: int) -> tuple[Tensor, Tensor]:
    """States (rows, units) with a decaying spectrum in a rotated basis, and an affine map of them plus noise.

    Blocks differ by `part`; the rotation and the map are always the same.
    """
    fixed = torch.Generator().manual_seed(0)
    scale = (1 + torch.arange(units)).float().pow(-0.5)
    mirrors = torch.nn.functional.normalize(torch.randn(8, units, generator=fixed), dim=1)
    mean = torch.randn(units, generator=fixed)
    rank = min(32, units)
    into, out = torch.randn(units, rank, generator=fixed), torch.randn(rank, units, generator=fixed) / units**0.5
    drawn = torch.Generator().manual_seed(1 + part)
    x = torch.randn(rows, units, generator=drawn) * scale
    for mirror in mirrors:
        # Reflections: a rotation that costs no matrix product.
        x = x - 2 * (x @ mirror)[:, None] * mirror
    edit = 0.1 * (x @ into) @ out
    y = x + edit + 0.1 * edit.std() * torch.randn(rows, units, generator=drawn) + 0.5
    return x + mean, y + mean


def write_store(folder: Path, rows: int, units: int) -> None:
    """A store of `rows` training pairs and one block of validation pairs."""
    from fa_lightning.activations.store_writer import StoreWriter

    writer = StoreWriter(folder, {}, [SITE])
    shards: dict[str, tuple[str, int]] = {}
    for number, start in enumerate(range(0, rows, BLOCK)):
        shards[f"train-{number}"] = ("train", min(BLOCK, rows - start))
    shards["validation-0"] = ("validation", min(BLOCK, rows) // 2)
    for number, (name, (split, size)) in enumerate(shards.items()):
        x, y = synthetic_pairs(size, units, number)
        vectors = {key: torch.zeros(size) for key in ("example", "position", "cell")}
        vectors["group"] = number * BLOCK + torch.arange(size) // 100
        # As if each prompt had 100 tokens; a few of RegressorModule's baselines are fitted on decision tokens.
        vectors["decision"] = torch.arange(size) % 100 == 99
        writer.write(name, split, {SITE: {"faking": x, "aligned": y}}, vectors)
    writer.finish(list(shards))


def ridge_ours(folder: str, threads: int) -> dict[str, float]:
    """`PairMoments` fed the store's blocks (reading them is timed too), and `ridge`."""
    torch.set_num_threads(threads)
    from fa_lightning.activations.store import ActivationStore

    store = ActivationStore.open(folder, verify=False)
    fit_moments(store, BLOCK // 8)
    start = time.perf_counter()
    moments = fit_moments(store)
    weight, bias = moments.ridge(PENALTY)
    seconds, peak = time.perf_counter() - start, peak_gib()
    x, y = (states.double() for states in store.block("validation", 0, store.rows("validation"))[SITE])
    return {"seconds": seconds, "peak_gib": peak, "r2": r2(x @ weight.T + bias, y)}


def fit_moments(store: Any, rows: int | None = None) -> Any:
    """Moments of the first `rows` training pairs, block by block; of all by default."""
    from fa_lightning.regressors.moments import PairMoments

    moments = PairMoments(store.hidden_size)
    for start, stop in store.block_ranges("train", BLOCK):
        moments.add(*store.block("train", start, stop if rows is None else min(stop, start + rows))[SITE])
        if rows is not None:
            break
    return moments


def ridge_peer(folder: str, threads: int) -> dict[str, float]:
    """`sklearn.linear_model.Ridge().fit(x, y)` in float64; its data is read and scaled before the clock starts."""
    torch.set_num_threads(threads)
    import numpy
    from sklearn.linear_model import Ridge

    from fa_lightning.activations.store import ActivationStore

    store = ActivationStore.open(folder, verify=False)
    rows = store.rows("train")
    x, y = numpy.empty((rows, store.hidden_size)), numpy.empty((rows, store.hidden_size))
    for start, stop in store.block_ranges("train", BLOCK):
        x[start:stop], y[start:stop] = (states.numpy() for states in store.block("train", start, stop)[SITE])
    std = x.std(0)
    x /= std
    few = min(rows, BLOCK // 8)
    Ridge().fit(x[:few], y[:few])
    start_time = time.perf_counter()
    fitted = Ridge(alpha=PENALTY * rows).fit(x, y)
    seconds, peak = time.perf_counter() - start_time, peak_gib()
    asked, wanted = (states.double() for states in store.block("validation", 0, store.rows("validation"))[SITE])
    predicted = torch.from_numpy(fitted.predict(asked.numpy() / std))
    return {"seconds": seconds, "peak_gib": peak, "r2": r2(predicted, wanted)}


def r2(predicted: Tensor, y: Tensor) -> float:
    """Share of the variance over all units that is explained."""
    return float(1 - (y - predicted).square().sum() / (y - y.mean(0)).square().sum())


def run(size: Size) -> Table:
    """Measure the row."""
    rows, units = (16384, 512) if size.quick else (110_592, 2459)
    rounds = 2 if size.quick else size.rounds
    found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    tasks = {"ours": "ridge_ours", "peer": "ridge_peer"}
    if missing("sklearn"):
        del tasks["peer"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "store"
        write_store(folder, rows, units)
        for turn in range(rounds):
            for name in list(tasks) if turn % 2 == 0 else reversed(list(tasks)):
                found[name].append(in_child(tasks[name], folder=str(folder), threads=torch.get_num_threads()))
    return Table("ridge", "4. Ridge regression", setting(rows, units), lines(found))


def setting(rows: int, units: int) -> str:
    """What both sides do."""
    return (
        f"{rows} x {units} pairs, drawn with a decaying spectrum, the target an affine map plus noise; penalty "
        f"{PENALTY:g} on standardised units. fa_lightning: PairMoments over blocks of {BLOCK} float32 rows of a store, "
        "then ridge; reading is timed. scikit-learn: Ridge().fit in float64; reading and scaling are not. Each fit in "
        "a process of its own, in turns, after a small fit; peak is the process's resident memory, libraries and all."
    )


def lines(found: dict[str, list[dict[str, float]]]) -> list[Line]:
    """The comparisons of the row.

    Raises:
        AssertionError: the two R2 differ in the fourth decimal.
    """
    ours, peer = found["ours"], found["peer"]
    if not peer:
        return [Line("over scikit-learn's Ridge", None, missing("sklearn", "scikit-learn") or "")]
    gap = max(abs(one["r2"] - other["r2"]) for one, other in zip(ours, peer, strict=True))
    if not gap < 5e-5:
        raise AssertionError(
            f"R2 is {ours[0]['r2']:.6f} and {peer[0]['r2']:.6f} (scikit-learn): not equal to 4 decimals"
        )

    def of(side: list[dict[str, float]], key: str) -> list[float]:
        return [one[key] for one in side]

    def medians(key: str, unit: str) -> str:
        return ", ".join(f"{Spread.of(of(side, key)).median:.3g} {unit}" for side in (ours, peer))

    peaks = ratio(of(ours, "peak_gib"), of(peer, "peak_gib"))
    return [
        Line("over scikit-learn", ratio(of(peer, "seconds"), of(ours, "seconds")), medians("seconds", "s"), Goal(3)),
        Line("peak memory, of scikit-learn's", peaks, medians("peak_gib", "GiB"), Goal(0.25, at_most=True)),
        Line(
            "R2 on held-out pairs",
            Spread.of([ours[0]["r2"]]),
            f"{ours[0]['r2']:.6f}, {peer[0]['r2']:.6f}; must agree to 4 decimals",
            unit="",
        ),
    ]
