"""How things are measured: sides in turns after a warm-up, medians and quartiles, and processes of their own."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import REPOSITORY

Seconds = dict[str, list[float]]
clock = time.perf_counter


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes:
        quick: the short form, whose numbers are a first impression.
        rounds: timed rounds of each side, after the warm-up.
    """

    quick: bool = False
    rounds: int = 5


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of any number of values.

        >>> Spread.of([1.0, 2.0, 3.0])
        Spread(median=2.0, low=1.5, high=2.5)
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def interleaved(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
    warm: Mapping[str, Callable[[], Any]] | None = None,
) -> Seconds:
    """Seconds of every side in every round.

    A round runs each side once. Each starts with another side, and every second one goes backwards, so that whatever
    the machine does meanwhile, and what a side leaves in caches for the next, falls on all of them. A side that returns
    a float has timed itself: what it returns counts.

    Args:
        sides: by name, what to run.
        rounds: timed runs of each side.
        warm: what runs once, untimed, before the first round, by name; by default the side itself.
    """
    for name, side in sides.items():
        (warm or {}).get(name, side)()
    names = list(sides)
    seconds: Seconds = {name: [] for name in names}
    for turn in range(rounds):
        start = (turn // 2) % len(names)
        order = names[start:] + names[:start]
        for name in reversed(order) if turn % 2 else order:
            passed, result = timed(sides[name])
            seconds[name].append(result if isinstance(result, float) else passed)
    return seconds


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one run, and what it returned."""
    gc.collect()
    synchronize()
    start = clock()
    result = run()
    synchronize()
    return clock() - start, result


def in_slices(sides: Sequence[Callable[[], Any]], shares: Sequence[float]) -> Callable[[], float]:
    """A side that runs one slice of its work each time, in turn, and tells the seconds that all of it would take.

    Args:
        sides: each runs one slice.
        shares: of the whole work, by slice.
    """
    turns = itertools.cycle(zip(sides, shares, strict=True))

    def side() -> float:
        run, share = next(turns)
        return timed(run)[0] / share

    return side


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Of two sides measured in the same rounds: neighbours are divided, so that a slow minute does not show."""
    return Spread.of([one / other for one, other in zip(above, below, strict=True)])


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def missing(module: str, package: str = "") -> str | None:
    """Why a peer cannot run, and what to do; None where it can be imported."""
    package, remedy = package or module, 'pip install -e ".[benchmarks]"'
    if importlib.util.find_spec(module) is None:
        return f"{package} is not installed: {remedy}"
    try:
        importlib.import_module(module)
    except Exception as error:  # a peer beside a library that it was not written for may raise anything
        return f"{package} cannot be imported ({type(error).__name__}: {error}): {remedy}"
    return None


def peak_gib() -> float:
    """The most memory this process has held at any moment (resident, GiB)."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would start a child at the peak of the process that made it.
        (line,) = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 2**20
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


def in_child(task: str, **options: Any) -> dict[str, Any]:
    """Run a task of `benchmarks.children` in a process of its own; what it returns.

    Raises:
        RuntimeError: with what the process wrote, if it failed.
    """
    command = [sys.executable, "-m", "benchmarks.children", task, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=child_environment(), check=False)
    if done.returncode:
        raise RuntimeError(f"{task} failed in its process:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def child_environment() -> dict[str, str]:
    """The variables of this process, and as many threads as it has."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
