"""What a finished experiment's folder holds: its twins' adapters, and the interventions that it has made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fa_lightning.common.files import by_number
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.steering.artefact import SIDECAR_FILE


def artefacts_of(experiment: Path) -> tuple[Path, Path]:
    """(aligned adapter, faking adapter) of a finished experiment's folder; what names a whole model is one, too.

    Raises:
        MissingFileError: one is not there; the message says which command makes it.
    """
    from fa_lightning.backbones.contents import ADAPTER, WHOLE_MODEL

    known = (ADAPTER, WHOLE_MODEL)
    artefacts = []
    for kind in ("aligned", "faking"):
        # Twins that ship lie in their stage's folder itself.
        places = (f"{place}/{name}" for name in known for place in ("*", "*/*"))
        marks = sorted((mark for place in places for mark in experiment.glob(place)), key=by_number)
        paths = [path.parent for path in marks if _is(kind, path.parent)]
        if not paths:
            raise _missing(experiment, f"{kind} artefact")
        artefacts.append(paths[-1])
    return artefacts[0], artefacts[1]


def intervention_of(experiment: Path) -> Path:
    """The intervention that an experiment has chosen: `*/intervention`, else its only `*/interventions/<name>`.

    Raises:
        MissingFileError: there is none.
        UserError: there are several and none was chosen.
    """
    chosen = sorted({path.parent for path in _sidecars(experiment, "*/intervention")}, key=by_number)
    if chosen:
        return chosen[-1]
    named = sorted({path.parent for path in _sidecars(experiment, "*/interventions/*")})
    if not named:
        raise _missing(experiment, "intervention artefact")
    if len(named) > 1:
        raise UserError(
            f"--experiment {experiment} holds several interventions: name one or more with --intervention, of "
            f"{', '.join(map(str, named))}"
        )
    return named[0]


def parts_of(folder: str | Path) -> list[str | Path]:
    """A folder that holds an intervention, as it is; one with numbered parts (`0`, `1`), as these, in their order."""
    numbered = {
        int(path.parent.name): path.parent
        for path in Path(folder).glob(f"*/{SIDECAR_FILE}")
        if path.parent.name.isdigit()
    }
    if (Path(folder) / SIDECAR_FILE).is_file() or not numbered:
        return [folder]
    return [numbered[number] for number in sorted(numbered)]


def _sidecars(experiment: Path, pattern: str) -> Iterable[Path]:
    """What an intervention's folder is known by; one with numbered parts is known by its first."""
    yield from experiment.glob(f"{pattern}/{SIDECAR_FILE}")
    yield from (path.parent for path in experiment.glob(f"{pattern}/0/{SIDECAR_FILE}"))


def _missing(experiment: Path, what: str) -> MissingFileError:
    return MissingFileError(
        f"--experiment {experiment}: no {what} there. Give the output folder of a finished experiment (such as "
        "checkpoints/embedded/seed0/steering), made by `python -m fa_lightning fit`, or --backbone and --intervention"
    )


def _is(behaviour: str, folder: Path) -> bool:
    from fa_lightning.backbones.adapters import SIDECAR, read_sidecar

    return (folder / SIDECAR).is_file() and read_sidecar(folder).get("behaviour") == behaviour
