"""`probes.json` read back, without torch: a report is made in a moment."""

from __future__ import annotations

from pathlib import Path

from fa_lightning.common.codec import read_found
from fa_lightning.studies.probes.result import ProbesFound

PROBES_NAME = "probes.json"


def read_probes(folder: Path) -> ProbesFound | None:
    """What a folder says of probes; None where there were none.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_found(ProbesFound, folder / PROBES_NAME)
