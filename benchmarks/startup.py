"""Row 7: what starting costs: `--help` and a `fit` that does nothing, beside a bare LightningCLI program."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.models import REPOSITORY
from benchmarks.report import Line, Table
from benchmarks.timing import Seconds, Size, Spread, child_environment, interleaved, ratio

OURS, BARE = "fa_lightning", "benchmarks.bare_cli"
NO_OP = """\
trainer: {max_epochs: 0, accelerator: cpu, devices: 1, logger: false, enable_checkpointing: false,
          enable_progress_bar: false, enable_model_summary: false}
model: {class_path: lightning.pytorch.demos.boring_classes.BoringModel}
data: {class_path: lightning.pytorch.demos.boring_classes.BoringDataModule}
"""


def program(module: str, words: list[str], folder: Path) -> Callable[[], None]:
    """Runs `python -m module words` in a process of its own, in `folder`.

    Raises:
        RuntimeError: with what the process wrote, if it failed.
    """

    def start() -> None:
        command = [sys.executable, "-m", module, *words]
        environment = child_environment() | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")

    return start


def sides(folder: Path) -> dict[str, Callable[[], None]]:
    """Both programs asked for help and told to fit nothing, and our own first page of help."""
    config = folder / "no_op.yaml"
    config.write_text(NO_OP, encoding="utf-8")
    words = {"fit --help": ["fit", "--help"], "no-op fit": ["fit", "--config", str(config)]}
    found = {
        f"{name}, {module}": program(module, told, folder) for name, told in words.items() for module in (OURS, BARE)
    }
    return found | {"--help": program(OURS, ["--help"], folder)}


def run(size: Size) -> Table:
    """Measure the row."""
    with tempfile.TemporaryDirectory() as temporary:
        programs = sides(Path(temporary))
        # A process warms nothing up but the disk's cache, which the quick form takes as it is.
        warm = {name: (lambda: None) for name in programs} if size.quick else None
        seconds = interleaved(programs, 1 if size.quick else size.rounds, warm)
    setting = (
        "Processes of their own, in turns, wall time from start to end. The bare program is benchmarks/bare_cli.py: "
        "one LightningCLI over any LightningModule and LightningDataModule. The fit is that of Lightning's "
        "BoringModel for 0 epochs, the same file for both."
    )
    return Table("startup", "7. Start-up", setting, lines(seconds))


def lines(seconds: Seconds) -> list[Line]:
    """The comparisons of the row."""
    found = []
    for name in ("fit --help", "no-op fit"):
        ours, bare = seconds[f"{name}, {OURS}"], seconds[f"{name}, {BARE}"]
        note = f"{Spread.of(ours).median:.3g} s, {Spread.of(bare).median:.3g} s"
        found.append(Line(f"{name}: time over the bare program's", ratio(ours, bare), note))
    return [*found, Line("the first page, --help", Spread.of(seconds["--help"]), unit="s")]
