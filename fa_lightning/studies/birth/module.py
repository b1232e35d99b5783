"""Ask the adapters of all fits on test groups, and lay the courses of the fits beside one another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fa_lightning.common.codec import read_dataclass
from fa_lightning.errors import MissingFileError
from fa_lightning.evaluation.cells_module import CellsModule
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.studies.birth.data import BirthDataModule
from fa_lightning.studies.birth.figures import birth_figures
from fa_lightning.studies.birth.measures import judged
from fa_lightning.studies.birth.output import scalars, write_birth
from fa_lightning.studies.birth.result import HISTORY_NAME, ArmName, BirthResult, History
from fa_lightning.studies.birth.tables import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class BirthModule(CellsModule[BirthDataModule, BirthResult]):
    """Only tests: each adapter answers test scenarios; what `Watch` wrote during its fit is read beside it.

    | logged | what |
    | --- | --- |
    | `<fit>/turn` | the step at which behaviour turns, for fits in which it does |
    | `<fit>/early` | number of measures that fire before that; in the second control, of all that fire |

    Args:
        folder: receives `birth.json` and `birth.csv`.
        faking: folder of the stage that fitted the faker.
        control: of the same with aligned answers alone.
        control_again: of that from another seed.
        aligned_first: of the faker that was begun from the aligned twin.
        **options: of `CellsModule`.

    Raises:
        MissingFileError: a folder holds no adapter, or no history of its fit.
        UserError: the fits were measured otherwise.
    """

    data_class = BirthDataModule
    scalars_are_metrics = False

    def __init__(
        self, folder: str, faking: str, control: str, control_again: str, aligned_first: str, **options: Any
    ) -> None:
        self.fits: dict[ArmName, str] = {
            "faking": faking,
            "control": control,
            "control_again": control_again,
            "aligned_first": aligned_first,
        }
        super().__init__(list(self.fits.values()), folder, **options)
        self.histories: dict[ArmName, History] = {}

    @override
    def prepare_models(self) -> None:
        self.histories = {name: read_history(Path(fit)) for name, fit in self.fits.items()}

    @override
    def result(self) -> BirthResult:
        scores = self.scores["test"]
        cells = scores.compute_cells()
        tests = {}
        for name, fit in self.fits.items():
            own = [getattr(cells[Path(fit).name], cell) for cell in CELLS]
            tests[name] = (Estimate(own[0].accuracy, own[0].ci95), Estimate(own[1].accuracy, own[1].ci95))
        return judged(self.histories, tests, self.seconds)

    @override
    def write(self, result: BirthResult) -> None:
        write_birth(self.folder, result)

    @override
    def show(self, result: BirthResult) -> None:
        print_tables(tables(result).values())

    @override
    def scalars(self, result: BirthResult) -> Mapping[str, float]:
        return scalars(result)

    @override
    def figures(self, result: BirthResult) -> Mapping[str, Figure]:
        return {f"birth/{name}": figure for name, figure in birth_figures(result).items()}


def read_history(folder: Path) -> History:
    """What a fit's stage wrote while it went on.

    Raises:
        MissingFileError: it wrote nothing.
        UserError: the file is damaged.
    """
    history = read_dataclass(History, folder / HISTORY_NAME)
    if history is None:
        raise MissingFileError(
            f"{folder} holds no {HISTORY_NAME}: fit it again with the callback "
            f"fa_lightning.studies.birth.callback.Watch (--refit birth/{folder.name})"
        )
    return history
