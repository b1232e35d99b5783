"""`detection.json` read back, without torch: a report is made in a moment."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.detectors.found import Detection
from fa_lightning.metrics.codec import read_found

DETECTION_NAME = "detection.json"


def read_detection(folder: Path) -> Detection | None:
    """What a folder says of an examination; None where there was none.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_found(Detection, folder / DETECTION_NAME)
