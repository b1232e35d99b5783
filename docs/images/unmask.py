"""The picture of what a vector unmasks: python docs/images/unmask.py STAGE_FOLDER docs/images/unmask.png TITLE."""

from __future__ import annotations

import sys
from pathlib import Path

from fa_lightning.studies.unmask.figures import unmask_figure
from fa_lightning.studies.unmask.result import read

if __name__ == "__main__":
    folder, target, title = sys.argv[1:]
    result = read(Path(folder))
    if result is None:
        raise SystemExit(f"{folder} holds no unmask.json")
    unmask_figure(result, title).savefig(target, dpi=110)
