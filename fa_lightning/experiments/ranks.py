"""When one of several ranks ends, all end: soon, with the reason in the log, and with nothing left behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch.distributed as dist
from typing_extensions import override

LOST = (
    "another rank has ended, and this one can't go on alone; the log above says how it ended. What was saved is whole: "
    "run the same command again to resume"
)
_LOST_CONNECTION = re.compile(
    "closed|pair closure|reset by peer|broken pipe|got 0 bytes|remote (process|server)|abort(ed)?\\b|"
    "timed out waiting|wait timeout|collective operation timeout",
    re.IGNORECASE,
)
PATIENCE_SECONDS = 10.0
"""How long the other ranks of this machine may take to end by themselves, once one has failed."""


class StopTogether(pl.Callback):
    """Ends the ranks of this machine when rank zero fails, and says how each of them ended.

    Lightning's launcher watches the ranks that it has started, and kills all when one of them dies. Nobody watches rank
    zero: where it fails alone, the others would wait in a collective until its time-out. And when a rank dies, rank
    zero only learns that a connection was closed; here it says whose.
    """

    _started: ClassVar[list[subprocess.Popen[Any]]] = []

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # The first Trainer of an experiment starts the ranks, and the later ones find them running.
        started = getattr(trainer.strategy.launcher, "procs", None)
        if started:
            StopTogether._started = started

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if trainer.world_size < 2 or isinstance(exception, KeyboardInterrupt):
            return
        reason = str(exception).strip().partition("\n")[0]
        _say(trainer.global_rank, f"stops: {type(exception).__name__}: {reason}")
        if lost_rank(exception):
            exception.args = (LOST,)
            exception.lost_rank = True  # type: ignore[attr-defined]
        others = list(self._started)
        # Lightning's observer holds the same list: it would kill this process before its reason is printed.
        self._started.clear()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for rank, process in enumerate(others, start=1):
            try:
                status = process.wait(max(0.0, deadline - time.monotonic()))
                _say(rank, f"(process {process.pid}) {_ending(status)}")
            except subprocess.TimeoutExpired:
                process.kill()
                _say(rank, f"(process {process.pid}) was waiting for rank 0, and is stopped too")


def lost_rank(error: BaseException) -> bool:
    """Whether an error only says that another rank can't be reached any more; not one about how ranks were set up.

    >>> lost_rank(RuntimeError("[/gloo/transport/tcp/pair.cc:553] Connection closed by peer"))
    True
    >>> lost_rank(RuntimeError("[/gloo/transport/tcp/device.cc:84] Unable to find address for: eth7"))
    False
    """
    of_ranks = isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("/gloo/", "NCCL", "ProcessGroup")
    )
    return (of_ranks or isinstance(error, dist.DistError)) and bool(_LOST_CONNECTION.search(str(error)))


def _ending(status: int) -> str:
    if status >= 0:
        return f"has ended with status {status}"
    name = signal.Signals(-status).name
    return f"was ended by {name}" + (" (a full memory does that)" if name == "SIGKILL" else "")


def _say(rank: int, text: str) -> None:
    print(f"[rank {rank}] {text}", file=sys.stderr, flush=True)
