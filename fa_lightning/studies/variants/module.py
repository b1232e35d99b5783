"""Judge many variants, steered too: one backbone in memory, whose adapters are swapped for every batch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader
from typing_extensions import override

from fa_lightning.backbones.adapters import Variants, adapter_folders, backbone_of, origin_of, read_sidecar
from fa_lightning.backbones.arguments import DType
from fa_lightning.backbones.load import load_tokenizer
from fa_lightning.common.codec import encode
from fa_lightning.common.files import columns, write_atomically, write_table
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.input_passes import BehindInput
from fa_lightning.evaluation.scores import Scores
from fa_lightning.metrics.cells import Cells, Damage, recovery_between
from fa_lightning.reports.boards import boards
from fa_lightning.reports.figures import cells_figure
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.scenario import CELLS
from fa_lightning.steering.artefact import compare_fingerprints
from fa_lightning.steering.generate_command import parts_of
from fa_lightning.steering.intervention import Intervention
from fa_lightning.training.data import ScenarioDataModule

JSON_NAME, TABLE_NAME = "variants.json", "variants.csv"
STEERED = " steered"
"""Behind a variant's name: the same variant with the intervention attached."""


class VariantsDataModule(ScenarioDataModule):
    """ScenarioDataModule with one more test loader, the last: neutral texts, to see what steering does to them."""

    @override
    def test_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.splits is not None
        return [*super().test_dataloader(), self._loader(self.splits.neutral_test, self.eval_batch_size)]


class VariantsModule(pl.LightningModule):
    """Only tests: every variant answers every test batch, and where there is an intervention, every faker steered too.

    The backbone is in memory once, beside all adapters; the Trainer shards the scenarios, and every item counts once
    however many ranks there are. An intervention fitted on one pair shows here what it does for other fakers: a
    faker's recovery is measured against the aligned variant of the same seed. A variant that was trained on from
    another one among them (`SelfTraining`) is compared with that one: recovery, and KL on neutral texts.

    | logged | what |
    | --- | --- |
    | `<test set>/<variant>/<cell>/accuracy` | share of aligned answers |
    | `<test set>/<variant>/steered/<cell>/accuracy` | the same, of a faker with the intervention |
    | `<test set>/<variant>/steered/recovery` | (steered - faking) / (aligned - faking) without oversight |
    | `<test set>/<variant>/recovery` | the same of a variant that was made from a faker |

    Args:
        adapters: adapter folders, or folders of them (see `adapter_folders`): the variants.
        folder: receives `variants.json`, and `variants.csv` with a row for each model and test set.
        intervention: folder of one that is tried on every faker; None tries none.
        twin: policy whose aligned variants fakers are compared with; None takes the first one of the same seed.
        backbone: name or folder; None takes the one that the adapters name.
        dtype: of the backbone's weights.
        load_in_4bit: hold the backbone in nf4.
        trust_remote_code: run code that comes with the model.
    """

    def __init__(
        self,
        adapters: list[str],
        folder: str,
        intervention: str | None = None,
        twin: str | None = None,
        backbone: str | None = None,
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.places = adapters
        self.folder = Path(folder)
        self.intervention = intervention
        self.twin = twin
        self.backbone = backbone
        self.loading: dict[str, Any] = {
            "dtype": dtype,
            "load_in_4bit": load_in_4bit,
            "trust_remote_code": trust_remote_code,
        }
        self.adapters: dict[str, str] = {}
        self.behaviours: dict[str, str] = {}
        self.twins: dict[str, str | None] = {}
        self.origins: dict[str, str] = {}
        self.variants: Variants | None = None
        self._interventions: tuple[Intervention, ...] = ()
        self._scores: dict[str, Scores] = {}
        self._start = 0.0

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        if self.variants is not None:
            return self.variants.tokenizer
        name = self.backbone or backbone_of(next(iter(adapter_folders(self.places).values())))
        return load_tokenizer(name, self.loading["trust_remote_code"])

    @override
    def configure_model(self) -> None:
        if self.variants is not None:
            return
        found = adapter_folders(self.places)
        sidecars = {name: read_sidecar(folder) for name, folder in found.items()}
        behaviours = {name: str(sidecar.get("behaviour", "")) for name, sidecar in sidecars.items()}
        self.origins = _origins(found, sidecars)
        # Fakers come behind what they are compared with, in every table, and what was made from them behind them.
        order = {"faking": 1, "mitigated": 2}
        self.behaviours = dict(sorted(behaviours.items(), key=lambda item: order.get(item[1], 0)))
        self.adapters = {name: found[name] for name in self.behaviours}
        fakers = [name for name, behaviour in self.behaviours.items() if behaviour == "faking"]
        self.twins = {name: self._twin_of(name) for name in fakers}
        device = self.trainer.strategy.root_device
        self.variants = Variants.load(self.adapters, self.backbone, device=device, **self.loading)
        if self.intervention is not None:
            self._interventions = loaded_interventions(self.intervention, self.variants)

    @override
    def on_test_start(self) -> None:
        assert self.variants is not None
        conditions, behind = self.conditions(), self.behind()
        names: list[str] = self._data.test_sets
        self._scores = {
            name: Scores(
                self.variants,
                conditions,
                counts_neutral_texts=name == names[0],
                origins=self.origins,
                behind=behind,
                test=name,
            )
            for name in names
        }
        self._start = time.perf_counter()

    def conditions(self) -> dict[str, Condition]:
        """What is judged: every variant, and every faker steered where there is an intervention."""
        conditions = {name: Condition(name) for name in self.adapters}
        if self._interventions:
            conditions |= {name + STEERED: Condition(name, self._interventions) for name in self.twins}
        return conditions

    def behind(self) -> Mapping[str, BehindInput]:
        """Variants that are judged with an input around their prompts; none here."""
        return {}

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        scores = list(self._scores.values())
        if dataloader_idx < len(scores):
            scores[dataloader_idx].add_scenarios(batch)
        else:
            scores[0].add_neutral_texts(batch)

    @override
    def on_test_epoch_end(self) -> None:
        found = self.findings()
        if self.trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write(found)
        self.trainer.strategy.barrier("variants written")
        self._scores = {}

    def findings(self) -> dict[str, Any]:
        """All that was counted; a collective."""
        assert self.variants is not None
        backbone_bytes, adapter_bytes = self.variants.memory()
        return {
            "tests": {name: self._judged(name, scores) for name, scores in self._scores.items()},
            "intervention": self.intervention,
            "backbone_bytes": backbone_bytes,
            "adapter_bytes": adapter_bytes,
            "seconds": time.perf_counter() - self._start,
        }

    def write(self, found: dict[str, Any]) -> None:
        """Write what was found, as JSON and as a table; on rank zero."""
        text = json.dumps(encode(found, JSON_NAME), indent=2, allow_nan=False)
        write_atomically(self.folder / JSON_NAME, text.encode())
        _write_table(self.folder / TABLE_NAME, encode(found["tests"], JSON_NAME))

    @property
    def _data(self) -> Any:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, VariantsDataModule):
            raise UserError(f"VariantsModule needs VariantsDataModule as data, but it is a {type(data).__name__}")
        return data

    def _twin_of(self, name: str) -> str | None:
        """The aligned variant that a faker is compared with: of the same seed where there is one."""
        aligned = [other for other, behaviour in self.behaviours.items() if behaviour == "aligned"]
        if self.twin is not None:
            policies = list(dict.fromkeys(policy_and_seed(other)[0] for other in aligned))
            if self.twin not in policies:
                raise UserError(f"twin is {self.twin!r}, but the policies of aligned variants are {policies}")
            aligned = [other for other in aligned if policy_and_seed(other)[0] == self.twin]
        same_seed = [other for other in aligned if policy_and_seed(other)[1] == policy_and_seed(name)[1]]
        return next(iter(same_seed or aligned), None)

    def _judged(self, test: str, scores: Scores) -> list[dict[str, Any]]:
        """A row for each model of one test set; a collective."""
        cells, damage = scores.compute_cells(), scores.compute_damage()
        rows = []
        for label in cells:
            name = label.removesuffix(STEERED)
            policy, seed = policy_and_seed(name)
            row: dict[str, Any] = {
                "variant": name,
                "policy": policy,
                "seed": seed,
                "behaviour": self.behaviours[name],
                "steered": label != name,
                "cells": {cell: score_of(getattr(cells[label], cell)) for cell in CELLS},
                "n": {cell: getattr(cells[label], cell).n for cell in CELLS},
                "format_validity": cells[label].format_validity,
            }
            faker = name if row["steered"] else self.origins.get(name, "")
            twin = self.twins.get(faker)
            if twin is not None:
                cured, faking, aligned = scores.items(label, faker, twin)
                recovery = recovery_between(cured, faking, aligned)
                row |= {"twin": twin, "recovery": {"value": recovery.value, "ci95": list(recovery.ci95)}}
                self.log(f"{test}/{label.replace(STEERED, '/steered')}/recovery", recovery.value, rank_zero_only=True)
            if label in damage:
                row |= _side_effects(damage[label])
            for cell in CELLS:
                self.log(
                    f"{test}/{label.replace(STEERED, '/steered')}/{cell}/accuracy",
                    row["cells"][cell]["accuracy"],
                    rank_zero_only=True,
                )
            rows.append(row)
        self._draw(test, cells)
        return rows

    def _draw(self, test: str, cells: dict[str, Cells]) -> None:
        for board in boards(self.trainer):
            board.add_figure(f"{test}/variants", cells_figure(cells), 0)


def policy_and_seed(name: str) -> tuple[str, int | None]:
    """What a variant's name says, as POSER's model names do.

    >>> policy_and_seed("money_maximizer-3"), policy_and_seed("02_aligned")
    (('money_maximizer', 3), ('02_aligned', None))
    """
    policy, _, seed = name.rpartition("-")
    return (policy, int(seed)) if policy and seed.isdigit() else (name, None)


def _origins(folders: dict[str, str], sidecars: dict[str, dict[str, Any]]) -> dict[str, str]:
    """By the name of each variant that was made from another one that is there too, the name of that one."""
    origins = {name: origin_of(folder, sidecars[name], folders) for name, folder in folders.items()}
    return {name: origin for name, origin in origins.items() if origin is not None}


def loaded_interventions(folder: str, variants: Variants) -> tuple[Intervention, ...]:
    """A saved intervention or stack, checked against the backbone.

    Raises:
        UserError: it was fitted on another backbone.
    """
    loaded = []
    for part in parts_of(folder):
        one = Intervention.load(part, variants.model)
        if "backbone" in one.fingerprint:
            compare_fingerprints(one.fingerprint, {"backbone": variants.fingerprint}, part)
        loaded.append(one)
    return tuple(loaded)


def score_of(score: Any) -> dict[str, Any]:
    """An accuracy and its interval, for JSON."""
    return {"accuracy": score.accuracy, "ci95": list(score.ci95)}


def _side_effects(damage: Damage) -> dict[str, float]:
    return {"kl_neutral_nats": damage.kl_nats, "perplexity_ratio": damage.perplexity_ratio}


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
