"""What a run is of: a base, a seed of everything that is drawn, and where its folders are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

OUTPUTS = Path("checkpoints")
LOGS = Path("logs")


@dataclass(frozen=True)
class Chain:
    """One seed of everything that is drawn on a base: pretrained backbone, twins, maps, controls.

    Attributes:
        base: YAML of the base.
        seed: of everything that is drawn.
        backbone: another model than the base's: a Hub name, a folder or a .gguf file; None takes the base's.
        outputs: folder of all bases' results.
    """

    base: Path
    seed: int = 0
    backbone: str | None = None
    outputs: Path = OUTPUTS

    @property
    def label(self) -> str:
        """The base's name in paths; with another model, that of both.

        >>> Chain(Path("configs/bases/smollm2.yaml"), backbone="Qwen/Qwen2.5-0.5B-Instruct").label
        'smollm2@Qwen2.5-0.5B-Instruct'
        """
        if self.backbone is None:
            return self.base.stem
        name = re.split(r"[/\\]", self.backbone.rstrip("/\\"))[-1].removesuffix(".gguf")
        return f"{self.base.stem}@{re.sub(r'[^A-Za-z0-9._-]', '_', name)}"

    @property
    def folder(self) -> Path:
        """`checkpoints/<base>/seed<N>`: a folder for each study is in it."""
        return self.outputs / self.label / f"seed{self.seed}"

    @property
    def logs(self) -> str:
        """The same below `logs`, without its first part."""
        return f"{self.label}/seed{self.seed}"
