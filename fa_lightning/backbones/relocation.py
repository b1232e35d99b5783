"""Where a folder or GGUF file that an artefact notes is now, if the path was relative or everything has been moved."""

from __future__ import annotations

import os
from pathlib import Path

from fa_lightning.backbones.gguf import is_gguf


def beside(artefact: str | Path, noted: str) -> str | None:
    """The folder, or GGUF file, that `noted` means in a file of `artefact`; None where there is none.

    A relative path is looked for from the folders above the artefact first, so that an experiment can be used from
    anywhere, then from the working folder. If neither leads to a folder, the end of the path is looked for above the
    artefact, so that an experiment may be moved or renamed as a whole. Whether it is the right one is for a digest to
    say.

    Args:
        artefact: folder of the artefact.
        noted: path, as it was written.
    """
    above = Path(artefact).resolve().parents
    parts = Path(noted).parts
    whole = [Path(noted)] if Path(noted).is_absolute() else [*(folder / noted for folder in above), Path(noted)]
    # One name alone, such as `adapter`, would be found beside many an artefact that has nothing to do with it.
    ends = [folder.joinpath(*parts[start:]) for start in range(1, len(parts) - 1) for folder in above]
    for candidate in (*whole, *ends):
        if candidate.is_dir() or (candidate.is_file() and is_gguf(candidate.name)):
            # In the user's own words where they lead there.
            return noted if os.path.exists(noted) and os.path.samefile(noted, candidate) else str(candidate)
    return None
