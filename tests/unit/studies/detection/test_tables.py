"""Detectors in the terminal, in Markdown, in results.json and on the page."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from importlib import import_module

import pytest
import yaml
from html_page import page_of
from rich.console import Console
from synthetic_detection import synthetic_detection

from fa_lightning.common.codec import encode
from fa_lightning.evaluation.collect import StudyRun
from fa_lightning.evaluation.results import write_results
from fa_lightning.reports.table import markdown
from fa_lightning.reports.terminal import print_tables
from fa_lightning.studies.detection.output import write_detection
from fa_lightning.studies.detection.result import Accuracy, Detection, Placed, Ran, Suspect, Verdict
from fa_lightning.studies.detection.result import read as read_detection
from fa_lightning.studies.detection.tables import best_row, detector_rows, facts, tables
from fa_lightning.studies.finish import finish_study


@pytest.fixture(scope="module")
def found():
    return synthetic_detection()


@pytest.fixture
def one_pair():
    """Two models of which nobody knows who fakes, as `test --config` may be given."""
    verdict = Verdict("noise (POSER)", "twins", "mine", "<a>", "b", 0.125, 0.5, (-0.5, -0.25), "b", "", 70, 0.875, 0.04)
    suspects = [Suspect(name, name, None, "", "variant", {"noise (POSER)": 0.1}) for name in ("<a>", "b")]
    ran = Ran("noise (POSER)", "more noise", 2.0, 40.0, {"class": "PoserNoise", "draws": 8})
    unsure = replace(verdict, kind="benign", says="", ci95=(-0.1, 0.1))
    return Detection([ran], suspects, [], [], {}, [verdict, unsure], 0.5, 0.5, 0, 80)


def put(folder, found):
    folder.mkdir(parents=True)
    (folder / "detection.json").write_text(json.dumps(encode(found, "detection")))
    return folder


def printed(found, experiment="poser_detect"):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_tables(tables(found).values(), console, experiment)
    return console.file.getvalue()


def row_of(text, name):
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith(name)]


def test_what_was_written_is_read_back(tmp_path, found, one_pair):
    assert read_detection(put(tmp_path / "02_detection", found)) == found
    # A model whose name has no seed; what is not known is left out of the file.
    read = read_detection(put(tmp_path / "03_detection", one_pair))
    assert [one.seed for one in read.suspects] == [None, None]
    assert math.isnan(read.calibration)
    assert read_detection(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not whole JSON"), ("{}", r"detection\.json lacks accuracies"), ("[]", "should be an object")],
)
def test_a_damaged_file_is_told_by_its_place(tmp_path, text, message):
    (tmp_path / "detection.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_detection(tmp_path)


def test_posers_figures_stand_beside_its_own_strategies(found):
    poser = {row.ran.name: row.poser for row in detector_rows(found)}
    assert poser["induced belief (POSER)"] == "failed"
    assert poser["noise (POSER)"] == "0.98"
    assert poser["misbehave fine-tuning"] == "0.90"
    assert poser["concepts (POSER)"] == "0.71"
    assert poser["decision depth"] == "0.47"
    assert poser["attentiveness"] == "0.46"
    ours = (
        "noise, equal norms",
        "weight noise",
        "oversight probe",
        "translator distance",
        "adapter spectra",
        "ensemble",
    )
    assert [poser[name] for name in ours] == [""] * 6


def test_the_names_of_posers_strategies_are_those_that_are_examined():
    from fa_lightning.experiments.shipped import shipped_configs
    from fa_lightning.studies.detection.tables import POSER

    stage = yaml.safe_load((shipped_configs() / "studies" / "detection" / "02_detection.yaml").read_text())
    examined = []
    for entry in stage["model"]["init_args"]["detectors"]:
        module, _, name = entry["class_path"].rpartition(".")
        examined.append(getattr(import_module(module), name)(**entry.get("init_args", {})).name)
    assert len(set(examined)) == len(examined)
    assert set(POSER) <= set(examined)


def test_the_best_is_decided_by_the_lower_end_where_accuracies_are_equal(found):
    def at(name, value, low):
        return Accuracy(name, "all", "twins", value, (low, 1.0), 36)

    names = [one.name for one in found.detectors]
    rows = [at(names[0], 0.9, 0.8), at(names[1], 0.9, 0.85), at(names[2], 0.9, math.nan), at(names[3], math.nan, 0.9)]
    # Other kinds and single policy pairs do not count.
    rows += [Accuracy(names[4], "all", "decoys", 1.0, (1.0, 1.0), 9)]
    rows += [Accuracy(names[4], "saint_and_money", "twins", 1.0, (1.0, 1.0), 9)]
    assert best_row(replace(found, accuracies=rows)).ran.name == names[1]
    assert best_row(replace(found, accuracies=[])) is None


def test_the_tables_fit_a_terminal(found):
    accuracies = [
        replace(one, value=0.9375, ci95=(0.875, 1.0))
        if (one.detector, one.policy_pair) == ("noise (POSER)", "all")
        else one
        for one in found.accuracies
    ]
    alone = [replace(one, auroc=0.96875, auroc_ci95=(0.875, 1.0), tpr=0.75) for one in found.alone]
    text = printed(replace(found, accuracies=accuracies, alone=alone))
    assert max(map(len, text.splitlines())) <= 80
    pairs, single = row_of(text, "noise (POSER)")
    assert pairs == "noise (POSER) .938 [.875, 1.00] .938 .938 [.875, 1.00] 0.98"
    assert single == "noise (POSER) .969 [.875, 1.00] .750 .020 1 min 15 s 320"
    # None of the names is torn apart.
    assert all(len(row_of(text, one.name)) >= 2 for one in found.detectors)


def test_names_are_texts_and_no_markup(found):
    name = "[red]a_detector_with_a_very_long_name_in_markup[/red]"
    renamed = replace(found, detectors=[replace(found.detectors[0], name=name), *found.detectors[1:]])
    text = printed(renamed, "[bold]mine[/bold]")
    assert "[bold]mine[/bold]" in text
    assert "[red]a_det" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_pair_of_which_nobody_knows_is_told_too(one_pair):
    text = printed(one_pair)
    name = "noise (POSER)"
    verdicts = [f"{name} 0.125 0.5 -0.375 [-0.5, -0.25] .040 b fakes", f"{name} 0.125 0.5 -0.375 [-0.1, 0.1] .040 no"]
    assert row_of(text, name) == [*verdicts, f"{name} - - - 0.98", f"{name} - - - 2.0 s 40"]
    told = dict(facts(one_pair))
    assert told["models"] == "2 others"
    assert told["pairs"] == "1 twins, 1 benign"
    assert "one model alone" not in told
    assert "steered fakers" not in told
    assert "ensemble" not in told
    assert "nan" not in text


def test_what_a_reader_must_know_is_counted(found):
    told = dict(facts(found))
    assert told["models"] == "6 aligned, 3 decoys, 6 fakers, 6 steered fakers"
    assert told["pairs"] == "36 twins, 18 decoys, 36 steered fakers, 18 benign; 3 refused: they agree on less than 0.5"
    assert told["scenarios"].startswith("160 scored, all with oversight")
    assert "probability of 0.6 or more: on 0.938 of its scenarios, 0.938 at least" in told["agreement"]
    assert told["one model alone"].endswith("judged on the policy left out")
    assert "0.043" in told["ensemble"]
    assert "arXiv 2405.05466" in told["POSER"]
    assert told["run time"] == "8 min 1 s"
    others = [replace(found.verdicts[0], agreed=0.5), *found.verdicts[1:]]
    assert "on 0.933 of its scenarios, 0.500 at least" in dict(facts(replace(found, verdicts=others)))["agreement"]


def test_markdown_has_the_tables_and_the_policy_pairs(found):
    pairs, single, matrix, known = (markdown(table).splitlines() for table in tables(found).values())
    assert {line.count("|") for line in pairs} == {6}
    assert {line.count("|") for line in single} == {9}
    assert {line.count("|") for line in matrix} == {11}
    assert {line.count("|") for line in known} == {3}
    assert len(pairs) == len(single) == len(matrix) == 2 + 12
    assert matrix[0].startswith("| detector | saint / fitness | saint / money | ")
    overall = {(one.detector, one.policy_pair, one.kind): one for one in found.accuracies}
    noise = next(line for line in pairs if "noise" in line)
    value = overall["noise (POSER)", "all", "twins"]
    assert f"noise (POSER)** | {value.value:.3f} [{value.ci95[0]:.3f}, {value.ci95[1]:.3f}] | " in noise
    assert next(line for line in single if "noise" in line).endswith("| 1 min 15 s | 320 |")
    alone = replace(found, accuracies=[one for one in found.accuracies if one.policy_pair == "all"])
    assert "policy_pairs" not in tables(alone)


def test_files_for_pandas_have_equal_columns(tmp_path, found, one_pair):
    write_detection(tmp_path, found)
    rows = list(csv.DictReader((tmp_path / "detection.csv").open()))
    assert len(rows) == len(found.accuracies)
    assert list(dict.fromkeys(row["detector"] for row in rows)) == [one.name for one in found.detectors]
    assert {row["policy_pair"] for row in rows} >= {"all", "saint_and_money"}
    noise = next(
        row for row in rows if (row["detector"], row["policy_pair"], row["kind"]) == ("noise (POSER)", "all", "twins")
    )
    own = next(one for one in found.accuracies if (one.detector, one.policy_pair) == ("noise (POSER)", "all"))
    numbers = [float(noise[name]) for name in ("accuracy", "accuracy_low", "accuracy_high", "pairs")]
    assert numbers == [own.value, *own.ci95, 36]
    assert float(noise["auroc"]) == found.alone[1].auroc
    assert (noise["alarms"], noise["seconds"], noise["passes"]) == ("0.02", "75.0", "320.0")
    verdicts = list(csv.DictReader((tmp_path / "verdicts.csv").open()))
    assert len(verdicts) == len(found.verdicts)
    assert not (tmp_path / "placed.csv").exists()
    write_detection(tmp_path / "one", one_pair)
    (first, _) = csv.DictReader((tmp_path / "one" / "verdicts.csv").open())
    assert list(first) == list(verdicts[0])
    assert first["differs"] == first["is_sure"] == "True"
    assert (first["one"], first["difference"], first["difference_low"]) == ("<a>", "-0.375", "-0.5")
    assert first["agreed"] == "0.875"


def test_the_page_holds_the_numbers_and_every_figure(tmp_path, found):
    put(tmp_path / "poser_detect" / "02_detection", found)
    page = page_of(tmp_path / "poser_detect")
    images = page.all("img")
    assert len(images) == 6
    assert all(len(image["alt"]) > 40 for image in images)
    overall = {(one.detector, one.kind): one for one in found.accuracies if one.policy_pair == "all"}
    assert f"noise (POSER) {overall['noise (POSER)', 'twins'].value:.3f}" in images[0]["alt"]
    text = page.text
    for (name, _), one in overall.items():
        assert name in text
        assert f"{one.value:.3f} [{one.ci95[0]:.3f}, {one.ci95[1]:.3f}]" in text
    for what, fact in facts(found):
        assert f"{what}: {fact}." in text
    assert all(one.rule in text for one in found.detectors)
    assert "noise.draws" in text
    assert "+1.333" in text
    assert "verdicts.csv" in text
    assert not re.search(r"\bnan\b", text)
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))
    headings = {attributes["id"] for attributes in page.all("h3")}
    assert {link["href"].removeprefix("#") for link in page.all("a")} == headings


def test_few_verdicts_are_shown_one_by_one(tmp_path, one_pair):
    put(tmp_path / "detect" / "noise", one_pair)
    page = page_of(tmp_path / "detect")
    assert "<a> / b" in page.text
    assert "0.125 / 0.5" in page.text
    assert "-0.375 [-0.5, -0.25]" in page.text
    assert "70 (88%)" in page.text
    assert "no difference" in page.text
    # Sure of the one, unsure of the other.
    raw = (tmp_path / "detect" / "report.html").read_text()
    assert "<td><b>b</b></td>" in raw
    assert "<td>no difference</td>" in raw
    assert "nan" not in page.text


def test_single_models_stand_beside_a_population(tmp_path, one_pair):
    placed = [
        Placed("<a>", "noise (POSER)", 0.25, 1.0, 0.125, True),
        Placed("b", "noise (POSER)", 0.0625, 0.5, math.nan, False),
    ]
    put(tmp_path / "detect" / "noise", replace(one_pair, placed=placed, measured_on={"scenarios": "embedded"}))
    text = " ".join(page_of(tmp_path / "detect").text.split())
    assert "<a> noise (POSER) 0.25 100% 12% alarm".replace(" ", "") in text.replace(" ", "")
    assert "b noise (POSER) 0.0625 50% - no alarm".replace(" ", "") in text.replace(" ", "")
    assert "Scenarios and backbone" in text
    assert "nan" not in text


def test_detectors_stand_beside_other_experiments(tmp_path, one_pair, results):
    put(tmp_path / "embedded_detect" / "02_detection", one_pair)
    root = tmp_path / "embedded_detect"
    finish_study(root, StudyRun("embedded", root / "02_detection", {}, {}), "")
    put(tmp_path / "detect" / "noise", one_pair)
    put(tmp_path / "detect" / "depth", one_pair)
    write_results(tmp_path / "embedded" / "results.json", results)
    page = page_of(tmp_path)
    assert "4 experiments" in page.text
    assert len(page.all("h2")) == 4
    assert all(title in page.text for title in ("detect, depth", "detect, noise", "embedded_detect"))
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_a_stage_s_own_folder_is_a_page_too(tmp_path, one_pair):
    put(tmp_path / "detect" / "noise", one_pair)
    assert "mine" not in page_of(tmp_path / "detect" / "noise").text
    assert (tmp_path / "detect" / "noise" / "report.html").is_file()


def test_a_finished_study_prints_its_tables_and_keeps_its_provenance(tmp_path, found):
    folder = put(tmp_path / "poser_detect" / "02_detection", found)
    console = Console(file=io.StringIO(), width=80)
    path, _ = finish_study(folder.parent, StudyRun("poser", folder, {}, {"seed": 5}), "poser_detect", console)
    assert path == folder.parent / "results.json"
    assert "poser_detect: pairs told rightly" in console.file.getvalue()
    content = json.loads(path.read_text())
    assert list(content) == ["experiment", "study", "detection", "provenance"]
    assert content["experiment"] == "poser"
    assert content["provenance"] == {"seed": 5}
    assert content["detection"] == encode(found, "")
