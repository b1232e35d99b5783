"""`detection.json` read back, without torch: a report is made in a moment."""

from __future__ import annotations

import json
from pathlib import Path

from fa_lightning.detectors.found import Detection
from fa_lightning.metrics.codec import decode

DETECTION_NAME = "detection.json"


def read_detection(folder: Path) -> Detection | None:
    """What a folder says of an examination; None where there was none.

    Raises:
        ValueError: the file is damaged or of another program; the message names the place.
    """
    path = folder / DETECTION_NAME
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON ({error}): run the stage again") from error
    found: Detection = decode(Detection, raw, str(path))
    return found
