"""Without a study's folder and its row, the package imports as before, and all other studies are gathered and shown."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from made_up_probes import made_up_probes
from made_up_safe_scores import made_up_safe_scores
from synthetic_detection import synthetic_detection

import fa_lightning
from fa_lightning.common.codec import write_dataclass
from fa_lightning.evaluation.results import Evaluation, write_results
from fa_lightning.studies.registry import STUDIES

PACKAGE = Path(fa_lightning.__file__).parent
MODULES = [
    ".".join(("fa_lightning", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__main__.py"
]


class Deleted:
    """Finds a package and its modules before anyone else does, and says that they are not there."""

    def __init__(self, package: str) -> None:
        self.package = package

    def holds(self, name: str) -> bool:
        return name == self.package or name.startswith(f"{self.package}.")

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if self.holds(name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def chain(tmp_path: Path, results: Any, lab_results: Any, lab: Any) -> Path:
    """A chain in which several studies have left what they leave."""
    folder = tmp_path / "embedded" / "seed0"
    judged = Evaluation(results.n, results.cells, results.recovery, results.side_effects)
    write_dataclass(folder / "steering" / "04_steering" / "evaluation.json", judged)
    write_results(folder / "steering" / "results.json", results)
    write_dataclass(folder / "lab" / "03_lab" / "evaluation.json", judged)
    write_dataclass(folder / "lab" / "03_lab" / "lab.json", lab)
    write_results(folder / "lab" / "results.json", lab_results)
    write_dataclass(folder / "detection" / "02_detection" / "detection.json", synthetic_detection())
    write_dataclass(folder / "statements" / "03_safe_score" / "safe_score.json", made_up_safe_scores())
    write_dataclass(folder / "probes" / "01_scenarios" / "probes.json", made_up_probes())
    return folder


@pytest.fixture(params=sorted(STUDIES))
def deleted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, chain: Path) -> Iterator[str]:
    """The name of a study that is not there any more; the package is to be imported anew."""

    def own() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "fa_lightning"]

    for name in own():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Deleted(f"fa_lightning.studies.{request.param}"), *sys.meta_path])
    del importlib.import_module("fa_lightning.studies.registry").STUDIES[request.param]
    yield request.param
    # The new copies go before those of all other tests come back.
    for name in own():
        del sys.modules[name]


def test_the_package_does_without_it(deleted: str, chain: Path) -> None:
    gone = Deleted(f"fa_lightning.studies.{deleted}")
    for name in MODULES:
        if not gone.holds(name):
            importlib.import_module(name)
    package = sys.modules["fa_lightning"]
    assert package is not fa_lightning
    assert all(getattr(package, name) for name in package.__all__)

    others = [name for name in ("steering", "lab", "detection", "statements", "probes") if name != deleted]
    results = sys.modules["fa_lightning.studies.finder"].find_results(chain)
    assert [one.name for one in results] == others
    report = sys.modules["fa_lightning.studies.report"]
    assert {marker.partition("-")[0] for marker in report.markdown_tables(results)} == set(others)

    made = {}
    for root in sorted(chain.iterdir()):
        (stage,) = (folder for folder in root.iterdir() if folder.is_dir())
        run = sys.modules["fa_lightning.evaluation.collect"].StudyRun("embedded", stage, {}, {})
        finished = sys.modules["fa_lightning.studies.finish"].finish_study(root, run, root.name)
        if finished is not None:
            made[root.name] = type(finished[1]).__module__.removeprefix("fa_lightning.studies.").partition(".")[0]
    expected = {name: name for name in others} | {"steering": "fa_lightning", "lab": "lab"}
    # What the lab finds beside its comparison is what steering finds.
    expected["lab"] = "fa_lightning" if deleted == "lab" else "lab"
    if deleted == "steering":
        del expected["steering"]
    assert made == expected
