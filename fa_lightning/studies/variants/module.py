"""Judge many variants, steered too: one backbone in memory, whose adapters are swapped for every batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fa_lightning.common.codec import encode
from fa_lightning.common.files import columns, write_atomically, write_table
from fa_lightning.evaluation.cells_module import CellsModule
from fa_lightning.evaluation.data import JudgedScenarios
from fa_lightning.evaluation.estimates import Accuracy, CellCounts, CellPair
from fa_lightning.evaluation.scores import Scores
from fa_lightning.evaluation.variant_names import STEERED, policy_and_seed
from fa_lightning.metrics.cells import recovery_between
from fa_lightning.reports.figures import cells_figure
from fa_lightning.scenarios.scenario import CELLS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JSON_NAME, TABLE_NAME = "variants.json", "variants.csv"


class VariantsModule(CellsModule[JudgedScenarios, dict[str, Any]]):
    """Only tests: every variant answers every test batch, and where there is an intervention, every faker steered too.

    An intervention fitted on one pair shows here what it does for other fakers: a faker's recovery is measured against
    the aligned variant of the same seed. A variant that was trained on from another one among them (`SelfTraining`) is
    compared with that one: recovery, and KL on neutral texts.

    Writes `variants.json`, and `variants.csv` with a row for each model and test set.

    | logged | what |
    | --- | --- |
    | `<test set>/<variant>/<cell>/accuracy` | share of aligned answers |
    | `<test set>/<variant>/steered/<cell>/accuracy` | the same, of a faker with the intervention |
    | `<test set>/<variant>/steered/recovery` | (steered - faking) / (aligned - faking) without oversight |
    | `<test set>/<variant>/recovery` | the same of a variant that was made from a faker |
    """

    @override
    def result(self) -> dict[str, Any]:
        backbone_bytes, adapter_bytes = self.variants.memory()
        return {
            "tests": {name: list(self._rows(scores)) for name, scores in self.scores.items()},
            "intervention": self.intervention,
            "backbone_bytes": backbone_bytes,
            "adapter_bytes": adapter_bytes,
            "seconds": self.seconds,
        }

    @override
    def scalars(self, result: dict[str, Any]) -> Mapping[str, float]:
        scalars = {}
        for test, rows in result["tests"].items():
            for row in rows:
                name = f"{test}/{row['variant']}" + "/steered" * row["steered"]
                if "recovery" in row:
                    scalars[f"{name}/recovery"] = row["recovery"]["value"]
                scalars |= {f"{name}/{cell}/accuracy": row["cells"][cell]["accuracy"] for cell in CELLS}
        return scalars

    @override
    def figures(self, result: dict[str, Any]) -> Mapping[str, Figure]:
        return {
            f"{test}/variants": cells_figure(
                {row["variant"] + STEERED * row["steered"]: _cell_pair(row["cells"]) for row in rows}
            )
            for test, rows in result["tests"].items()
        }

    @override
    def write(self, result: dict[str, Any]) -> None:
        text = json.dumps(encode(result, JSON_NAME), indent=2, allow_nan=False)
        write_atomically(self.folder / JSON_NAME, text.encode())
        _write_table(self.folder / TABLE_NAME, encode(result["tests"], JSON_NAME))

    def _rows(self, scores: Scores) -> Iterator[dict[str, Any]]:
        """A row for each model of one test set; a collective."""
        cells, damage = scores.compute_cells(), scores.compute_damage()
        for label in cells:
            name = label.removesuffix(STEERED)
            policy, seed = policy_and_seed(name)
            row: dict[str, Any] = {
                "variant": name,
                "policy": policy,
                "seed": seed,
                "behaviour": self.behaviours[name],
                "steered": label != name,
                "cells": asdict(CellPair.of(cells[label])),
                "n": asdict(CellCounts.of(cells[label])),
                "format_validity": cells[label].format_validity,
            }
            faker = name if row["steered"] else self.origins.get(name, "")
            twin = self.twins.get(faker)
            if twin is not None:
                cured, faking, aligned = scores.items(label, faker, twin)
                recovery = recovery_between(cured, faking, aligned)
                row |= {"twin": twin, "recovery": asdict(recovery)}
            if label in damage:
                row |= {
                    "kl_neutral_nats": damage[label].kl_nats,
                    "perplexity_ratio": damage[label].perplexity_ratio,
                }
            yield row


def _cell_pair(cells: Mapping[str, Mapping[str, Any]]) -> CellPair:
    return CellPair(**{cell: Accuracy(**accuracy) for cell, accuracy in cells.items()})


def _write_table(path: Path, tests: dict[str, list[dict[str, Any]]]) -> None:
    """One row for each model and test set; intervals as columns of their own."""
    rows = []
    for test, models in tests.items():
        for model in models:
            row = {
                "test": test,
                **{name: model[name] for name in ("variant", "policy", "seed", "behaviour", "steered")},
            }
            for cell in CELLS:
                row |= columns(cell, model["cells"][cell]["accuracy"], model["cells"][cell]["ci95"])
                row[f"{cell}_n"] = model["n"][cell]
            row["format_validity"] = model["format_validity"]
            row["twin"] = model.get("twin")
            recovery = model.get("recovery", {"value": None, "ci95": [None, None]})
            row |= columns("recovery", recovery["value"], recovery["ci95"])
            row |= {name: model.get(name) for name in ("kl_neutral_nats", "perplexity_ratio")}
            rows.append(row)
    write_table(path, rows)
