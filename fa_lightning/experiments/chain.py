"""What a run is of: a base, a seed of everything that is drawn, and where its folders are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fa_lightning.experiments.brought_twins import name_of_adapter
from fa_lightning.experiments.own_scenarios import stem_of

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
        scenarios: a file, or a data set's name, in the place of the base's scenarios; None takes the base's.
        columns: of those scenarios, pairs of a field and the column that it is read from.
        twins: pairs of a behaviour and the adapter, made by others, that is taken for the twin; none are all fitted.
    """

    base: Path
    seed: int = 0
    backbone: str | None = None
    outputs: Path = OUTPUTS
    scenarios: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    twins: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """The base's name in paths; with another model, other scenarios or others' twins, theirs behind it.

        >>> Chain(Path("configs/bases/smollm2.yaml"), backbone="Qwen/Qwen2.5-0.5B-Instruct").label
        'smollm2@Qwen2.5-0.5B-Instruct'
        >>> Chain(Path("configs/bases/smollm2.yaml"), scenarios="data/mine.csv").label
        'smollm2@mine'
        >>> Chain(Path("configs/bases/smollm2.yaml"), twins=(("faking", "out/faker/adapter"),)).label
        'smollm2@faker'
        """
        names = [self.base.stem]
        if self.backbone is not None:
            name = re.split(r"[/\\]", self.backbone.rstrip("/\\"))[-1].removesuffix(".gguf")
            names.append(re.sub(r"[^A-Za-z0-9._-]", "_", name))
        if self.scenarios is not None:
            names.append(stem_of(self.scenarios))
        if self.twins:
            names.append("-".join(name_of_adapter(adapter) for _, adapter in self.twins))
        return "@".join(names)

    @property
    def folder(self) -> Path:
        """`checkpoints/<base>/seed<N>`: a folder for each study is in it."""
        return self.outputs / self.label / f"seed{self.seed}"

    @property
    def logs(self) -> str:
        """The same below `logs`, without its first part."""
        return f"{self.label}/seed{self.seed}"
