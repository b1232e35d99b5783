"""The picture of a finished study: python docs/images/study.py STUDY STAGE_FOLDER docs/images/STUDY.png TITLE."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fa_lightning.studies.birth.figures import answers_figure
from fa_lightning.studies.half_life.figures import curves_figure
from fa_lightning.studies.registry import STUDIES
from fa_lightning.studies.transfer.figures import transfer_figure
from fa_lightning.studies.unmask.figures import unmask_figure

FIGURES: dict[str, Callable[[Any, str], Any]] = {
    "birth": answers_figure,
    "half_life": curves_figure,
    "transfer": transfer_figure,
    "unmask": unmask_figure,
}

if __name__ == "__main__":
    study, folder, target, title = sys.argv[1:]
    result = STUDIES[study].read(Path(folder))
    if result is None:
        raise SystemExit(f"{folder} holds no result of {study}")
    FIGURES[study](result, title).savefig(target, dpi=110)
