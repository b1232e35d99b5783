"""`detection.json` read back, without torch: a report is made in a moment."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.common.codec import read_found
from fa_lightning.studies.detection.result import Detection

DETECTION_NAME = "detection.json"


def read_detection(folder: Path) -> Detection | None:
    """What a folder says of an examination; None where there was none.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_found(Detection, folder / DETECTION_NAME)
