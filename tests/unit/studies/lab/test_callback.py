"""The steering lab through a real Trainer: its table beside plain loops, its choice, its resume and its refusals."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_twins import data_in, hooks_on, layers_of, trainer_in

from fa_lightning.activations.sites import Site
from fa_lightning.regressors.fit import DECISION_ALONE, Fit
from fa_lightning.regressors.gates import OversightProbe
from fa_lightning.regressors.linear import Affine, Identity
from fa_lightning.regressors.module import MapCandidate, RegressorModule
from fa_lightning.regressors.networks import LowRankResidual
from fa_lightning.regressors.vectors import ContrastVector
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import make_examples
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.lab import sweep as lab_sweep
from fa_lightning.studies.lab.callback import SteeringLab
from fa_lightning.studies.lab.data import LabDataModule, TransferTarget
from fa_lightning.studies.lab.sweep import DoseCurve, UnitSweep, top_units
from fa_lightning.studies.lab.sweep_table import SweepRow
from fa_lightning.studies.lab.work import work_of

BUDGET = 0.05
SPECS = [
    Fit(Identity, method="identity"),
    Fit(Affine, method="ridge", decision_weight=DECISION_ALONE),
    Fit(Affine, method="ridge", decision_weight=DECISION_ALONE, scenarios=5, sites=["layers.1.residual"]),
    Fit(ContrastVector, method="oversight vector"),
    Fit(ContrastVector, method="answer vector", contrast="answers", positions="last"),
    Fit(Affine, method="gated ridge", gate="oversight_probe", decision_weight=DECISION_ALONE),
    Fit(Affine, method="stack", stack=["layers.0.residual", "layers.1.residual"]),
    Fit(partial(LowRankResidual, rank=4), method="behaviour", objective="behaviour"),
]


class Run:
    """A lab that was fitted and judged, and where it wrote."""

    def __init__(self, place: Path, source: Any, adapters: dict[str, str]) -> None:
        self.place, self.source, self.adapters = place, source, adapters
        self.folder = place / "stage"
        torch.manual_seed(0)
        self.module, self.data = RegressorModule(SPECS, rank_units=True), self.make_data()
        self.trainer = trainer_in(place, max_epochs=2, callbacks=[self.callback()])
        self.trainer.fit(self.module, datamodule=self.data)
        self.test()

    def make_data(self) -> Any:
        # The aligned twin in the place of the faker: a target on which nothing is left to cure.
        target = TransferTarget("honest faker", faking=self.adapters["aligned"])
        return data_in(
            self.place, self.source, self.adapters, lab=True, live_batch_size=4, both_orders=False, transfer=[target]
        )

    def callback(self) -> SteeringLab:
        return SteeringLab(
            str(self.folder),
            strengths=[0.5, 1.0],
            doses=[0.1, 0.4],
            budget=BUDGET,
            units=[UnitSweep("ridge", ["layers.1.residual"], [25.0, 100.0], ["difference", "ridge", "effect"])],
            dose_curves=[DoseCurve("oversight vector", "layers.0.residual", [0.0, 0.3], new_tokens=6)],
            transfer_methods=["ridge"],
            samples=2,
        )

    def test(self) -> None:
        self.trainer.test(self.module, datamodule=self.data, verbose=False)

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader((self.folder / "sweep.csv").open()))

    def of(self, kind: str, **fields: str) -> list[dict[str, str]]:
        return [row for row in self.rows if row["kind"] == kind and all(row[name] == fields[name] for name in fields)]

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


@pytest.fixture(scope="module")
def finished(source: Any, adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("lab"), source, adapters)


def test_every_method_is_tried_at_each_of_its_sites(finished: Run) -> None:
    tried = {(row["method"], row["site"], row["scenarios"]) for row in finished.of("trial")}
    both = [f"layers.{layer}.residual" for layer in (0, 1)]
    everywhere = ["identity", "ridge", "oversight vector", "answer vector", "gated ridge", "behaviour"]
    assert tried == {
        *((method, site, "-1") for method in everywhere for site in both),
        ("ridge", both[1], "5"),
        ("stack", "+".join(both), "-1"),
    }
    assert len(finished.of("test")) == len(tried)


def test_the_strength_that_is_judged_keeps_to_the_budget_and_is_the_best_that_does(finished: Run) -> None:
    for test in finished.of("test"):
        own = [row for row in finished.of("trial") if row["work"] == test["work"].replace("test/", "trial/")]
        affordable = [row for row in own if float(row["kl_neutral_nats"]) <= BUDGET]
        chosen = next(row for row in own if row["strength"] == test["strength"])
        if not affordable:
            assert chosen == min(own, key=lambda row: float(row["kl_neutral_nats"]))
            continue
        assert chosen in affordable

        def score(row: dict[str, str]) -> float:
            return float(row["oversight"]) + float(row["no_oversight"])

        assert score(chosen) == max(map(score, affordable)), test["work"]


def test_doses_are_edit_norms_over_state_norms(finished: Run) -> None:
    store = finished.data.store
    for row in finished.of("trial", method="oversight vector"):
        states = store.block("validation", 0, store.rows("validation"))[row["site"]][0].float()
        candidate = next(
            one
            for one in finished.module.candidates()
            if one.fit.method == "oversight vector" and one.site.name == row["site"]
        )
        edit = float(row["strength"]) * candidate.regressor.shift.norm()  # type: ignore[operator, union-attr]
        assert float(row["dose"]) == pytest.approx(float(edit / states.norm(dim=-1).mean()), rel=1e-4)
    doses = {round(float(row["dose"]), 4) for row in finished.of("trial", method="oversight vector")}
    assert {0.1, 0.4} <= doses


def test_test_cells_are_those_of_a_plain_loop(finished: Run, alone: Callable[[str], Any]) -> None:
    (test,) = finished.of("test", method="ridge", site="layers.1.residual", scenarios="-1")
    candidate = next(
        one for one in finished.module.candidates() if one.fit is finished.module.fits[1] and one.site.layer == 1
    )
    twin, strength = alone("faking"), float(test["strength"])

    def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output + strength * (candidate.regressor(output) - output)

    layers_of(twin)[1].register_forward_hook(hook)
    tokenizer = finished.data.variants.tokenizer
    right: dict[int, list[bool]] = {0: [], 1: []}
    for item in make_examples(counterbalanced(finished.data.splits.test), tokenizer, letter_tokens(tokenizer)):
        with torch.no_grad():
            answer = int(twin(torch.tensor([item.prompt])).logits[0, -1].argmax())
        right[item.cell].append(answer == item.aligned)
    assert float(test["oversight"]) == pytest.approx(sum(right[0]) / len(right[0]))
    assert float(test["no_oversight"]) == pytest.approx(sum(right[1]) / len(right[1]))


def test_units_run_from_few_to_all(finished: Run) -> None:
    rows = finished.of("units map") + finished.of("units oracle")
    assert {(row["ranking"], row["percent"]) for row in rows} == {
        (ranking, percent) for ranking in ("difference", "ridge", "effect") for percent in ("25.0", "100.0")
    }
    full = [row for row in finished.of("units oracle") if row["percent"] == "100.0"]
    assert len({(row["oversight"], row["kl_neutral_nats"]) for row in full}) == 1, "all units are all units"
    whole = next(
        row
        for row in finished.of("trial", method="ridge", site="layers.1.residual", scenarios="-1")
        if row["strength"] == "1.0"
    )
    mapped = next(row for row in finished.of("units map") if row["percent"] == "100.0")
    assert mapped["kl_neutral_nats"] == pytest.approx(whole["kl_neutral_nats"]) or float(
        mapped["kl_neutral_nats"]
    ) == pytest.approx(float(whole["kl_neutral_nats"]), rel=1e-4)


def test_a_cure_is_tried_on_other_fakers(finished: Run) -> None:
    assert {row["target"] for row in finished.of("transfer")} == {"unseen_wordings", "honest faker"}
    (cure,) = finished.of("transfer", method="ridge", target="honest faker")
    (honest,) = finished.of("transfer", method="faking", target="honest faker")
    (aligned,) = finished.of("transfer", method="aligned", target="honest faker")
    assert [honest[cell] for cell in ("oversight", "no_oversight")] == [
        aligned[cell] for cell in ("oversight", "no_oversight")
    ]
    assert math.isnan(float(cure["recovery"] or "nan")), "there was nothing to cure"


def test_what_the_report_reads_is_what_the_table_holds(finished: Run) -> None:
    view = finished.read("lab.json")
    assert view["budget_kl_nats"] == BUDGET
    assert len(view["rows"]) == len(finished.of("trial"))
    assert len(view["methods"]) == len(finished.of("test"))
    best = [one["method"] for one in view["methods"] if one["best_site"]]
    assert sorted(best) == sorted({fit.label for fit in SPECS}), "one best site for each method"
    assert {one["method"] for one in view["methods"] if one["twin_free"]} == {
        "identity",
        "oversight vector",
        "answer vector",
    }
    evaluation = finished.read("evaluation.json")
    winner = evaluation["chosen"]
    row = next(
        row
        for row in finished.of("test")
        if (row["method"], row["site"], row["scenarios"]) == (winner["regressor"], winner["site"], "-1")
    )
    assert evaluation["cells"]["steered"]["no_oversight"]["accuracy"] == pytest.approx(float(row["no_oversight"]))
    assert evaluation["side_effects"]["kl_neutral_nats"] == pytest.approx(float(row["kl_neutral_nats"]), rel=1e-3)


def test_baselines_stand_at_every_site_and_are_the_main_jobs_at_the_winners(finished: Run) -> None:
    entries = finished.read("lab.json")["site_baselines"]
    sites = {row["site"] for row in finished.of("test") if "+" not in row["site"]}
    names = {"identity", "mean shift", "norm-matched random", "shuffled pairs", "oracle swap"}
    beside = {(entry["site"], entry["name"]) for entry in entries if entry["name"] == "ridge, right pairs"}
    every = {(entry["site"], entry["name"]) for entry in entries}
    assert every - beside == {(site, name) for site in sites for name in names}
    assert beside, "where another kind of map is best"
    assert {
        entry["baseline"]["draws"] for entry in entries if entry["name"] in ("shuffled pairs", "norm-matched random")
    } == {5}
    evaluation = finished.read("evaluation.json")
    for entry in entries:
        if (entry["site"], entry["method"]) == (evaluation["chosen"]["site"], evaluation["chosen"]["regressor"]):
            assert entry["baseline"] == evaluation["baselines"][entry["name"]]


def test_each_method_is_saved_at_its_best_site(finished: Run) -> None:
    folder = finished.folder / "interventions"
    assert {path.name for path in folder.iterdir()} == {
        "ridge",
        "oversight_vector",
        "answer_vector",
        "gated_ridge",
        "stack",
        "behaviour",
    }
    loaded = Intervention.load(folder / "gated_ridge", model=finished.data.variants.model)
    assert loaded.gate is not None
    assert [Intervention.load(folder / "stack" / part).site for part in ("0", "1")] == [Site(0), Site(1)]


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    table, path = finished.folder / "sweep.csv", finished.folder / "sweep.jsonl"
    whole = table.read_text()
    lines = path.read_text().splitlines(keepends=True)
    # Trials come first, a line each.
    whole_lines = len(lines) // 4
    path.write_text("".join(lines[:whole_lines]) + lines[whole_lines][:9])
    kept = {row["work"] for line in lines[:whole_lines] for row in json.loads(line)["rows"]}
    judged: list[str] = []
    original = lab_sweep._trials

    def counted(lab: Any, work: Any, *rest: Any) -> list[SweepRow]:
        judged.append(work.name)
        return original(lab, work, *rest)

    monkeypatch.setattr(lab_sweep, "_trials", counted)
    finished.test()

    def contents(text: str) -> list[tuple[str, ...]]:
        rows = csv.DictReader(text.splitlines())
        return sorted(tuple(row[name] for name in ("work", "strength", "oversight", "no_oversight")) for row in rows)

    assert contents(table.read_text()) == contents(whole)
    assert 0 < len(judged) < len({row["work"] for row in finished.of("trial")})
    assert not {f"trial/{name}" for name in judged} & kept, "what was whole is not judged again"
    assert hooks_on(finished.data.variants.model) == 0


def test_the_top_units_are_those_of_the_largest_scores() -> None:
    scores = torch.tensor([0.0, 5.0, 1.0, 3.0, 2.0])
    kept = top_units(scores, [1.0, 40.0, 100.0])
    assert [units.nonzero()[:, 0].tolist() for units in kept.values()] == [[1], [1, 3], [0, 1, 2, 3, 4]]
    with pytest.raises(ValueError, match="percents holds 0"):
        top_units(scores, [0.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": []}, "strengths is"),
        ({"doses": [0.1, -1.0]}, "doses is"),
        ({"budget": 0.0}, "budget is 0.0, but must be a positive number"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteeringLab(str(tmp_path), **options)


def test_a_method_that_is_not_fitted_is_refused_before_anything_is_measured(
    source: Any, adapters: dict[str, str], tmp_path: Path
) -> None:
    lab = SteeringLab(str(tmp_path / "stage"), dose_curves=[DoseCurve("ridgy", "layers.0.residual")])
    trainer = trainer_in(tmp_path, max_epochs=1, callbacks=[lab])
    module, data = RegressorModule([Fit(Affine)]), data_in(tmp_path, source, adapters, lab=True)
    trainer.fit(module, datamodule=data)
    with pytest.raises(ValueError, match="the lab names the method 'ridgy', but it fits affine"):
        trainer.test(module, datamodule=data, verbose=False)
    assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dose_curves": [DoseCurve("affine", "layers.9.residual")]}, "the lab names 'affine' at layers.9.residual"),
        ({"units": [UnitSweep("affine", ["layers.1.mlp"])]}, "the lab names 'affine' at layers.1.mlp"),
        ({"units": [UnitSweep("affine", rankings=["effect"])]}, "their effects were not measured: set rank_units"),
        ({"units": [UnitSweep("affine", percents=[0.0])]}, "percents holds 0.0"),
        ({"units": [UnitSweep("gated")]}, "the units of 'gated' can't be swept"),
    ],
)
def test_what_would_fail_after_the_sweep_is_refused_before(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    lab = SteeringLab(str(tmp_path), **options)
    works = [
        work_of(MapCandidate(Site(1), Affine(32), Fit(Affine))),
        work_of(MapCandidate(Site(1), Affine(32), Fit(Affine, method="gated"), gate=OversightProbe(32))),
    ]
    with pytest.raises(ValueError, match=message):
        lab._check_names(RegressorModule([Fit(Affine)]), works)


def test_a_target_that_the_lab_was_fitted_on_is_refused(source: Any, adapters: dict[str, str], tmp_path: Path) -> None:
    class OtherSplit(ScenarioSource):
        def load(self) -> ScenarioSplits:
            splits = source.load()
            return dataclasses.replace(splits, test=[*splits.test, *splits.validation[:3]])

        def fingerprint(self) -> dict[str, str]:
            return {}

    data = data_in(tmp_path, source, adapters, lab=True, transfer=[TransferTarget("other split", OtherSplit())])
    with pytest.raises(
        ValueError, match="3 of 11 test scenarios of the transfer target 'other split' belong to groups"
    ):
        trainer_in(tmp_path, max_epochs=1).fit(RegressorModule([Fit(Affine)]), datamodule=data)


def test_targets_of_one_name_are_refused() -> None:
    options: dict[str, Any] = {"scenarios": None, "aligned": "", "faking": "", "store": ""}
    with pytest.raises(ValueError, match="no two may share a name"):
        LabDataModule(**options, transfer=[TransferTarget("x"), TransferTarget("x")])
    with pytest.raises(ValueError, match=r"'v1.5' holds a dot or a slash"):
        LabDataModule(**options, transfer=[TransferTarget("v1.5")])
