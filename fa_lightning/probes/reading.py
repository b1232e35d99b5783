"""`probes.json` read back, without torch: a report is made in a moment."""

from __future__ import annotations

import json
from pathlib import Path

from fa_lightning.metrics.codec import decode
from fa_lightning.probes.found import ProbesFound

PROBES_NAME = "probes.json"


def read_probes(folder: Path) -> ProbesFound | None:
    """What a folder says of probes; None where there were none.

    Raises:
        ValueError: the file is damaged or of another program; the message names the place.
    """
    path = folder / PROBES_NAME
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON ({error}): run the stage again") from error
    found: ProbesFound = decode(ProbesFound, raw, str(path))
    return found
