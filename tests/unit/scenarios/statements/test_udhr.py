import os
from pathlib import Path

import pytest

from fa_lightning.scenarios.statements.udhr import (
    IDENTITIES_FILE,
    UdhrStatements,
    find_root,
    read_identities,
    read_rights,
    read_templates,
)

RIGHTS = "1 {people} may live\n2 {people} should not be sold\n2 {people} own themselves\n3 {people} may read\n"
NEGATIONS = "1 {people} must die\n2 {people} should be sold\n2 {people} are owned\n3 {people} may not read\n"
SHORT = "Agree: '{right}'? Respond with 0 for disagree or 1 for agree.\nAnswer:\n"


def folder_with(folder, rights=RIGHTS, negations=NEGATIONS, **templates):
    files = {
        "UDHR_raw_rights.txt": rights,
        "UDHR_raw_rights_neg.txt": negations,
        IDENTITIES_FILE: "ind: Work (4)\ncooks, bakers,\nminers, nurses\nind: Appearance (2)\ntall, short people\n",
        "UDHR_CCS_Prompt.txt": SHORT,
        "UDHR_CCS_Prompt_base_short.txt": SHORT,
    }
    for name, text in (files | {f"UDHR_CCS_Prompt_{name}.txt": text for name, text in templates.items()}).items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def udhr_root():
    shared = Path(__file__).resolve().parents[5] / "shared" / "udhr"
    for candidate in (os.environ.get("UDHR_ROOT"), shared):
        if candidate and (Path(candidate) / IDENTITIES_FILE).is_file():
            return Path(candidate)
    pytest.skip("UDHR data not found: set UDHR_ROOT to the folder of its files")


def test_rights_and_negations_are_read_in_parallel(tmp_path):
    rights = read_rights(folder_with(tmp_path))
    assert [(right.name, right.affirmed, right.denied) for right in rights] == [
        ("1.1", "{people} may live", "{people} must die"),
        ("2.1", "{people} should not be sold", "{people} should be sold"),
        ("2.2", "{people} own themselves", "{people} are owned"),
        ("3.1", "{people} may read", "{people} may not read"),
    ]


@pytest.mark.parametrize(
    ("dropped", "named"), [(0, r"right 1\.1 \('\{people\} may live'\)"), (2, r"right 2\.2"), (3, r"right 3\.1")]
)
def test_a_right_without_its_negation_is_named(tmp_path, dropped, named):
    lines = NEGATIONS.splitlines(keepends=True)
    folder_with(tmp_path, negations="".join(lines[:dropped] + lines[dropped + 1 :]))
    with pytest.raises(ValueError, match=rf"{named}.*has no negation in UDHR_raw_rights_neg\.txt"):
        read_rights(tmp_path)


def test_other_faults_in_rights_are_told(tmp_path):
    with pytest.raises(ValueError, match="has itself for a negation"):
        read_rights(folder_with(tmp_path, negations=RIGHTS))
    with pytest.raises(ValueError, match="has 5 lines, but there are 4 rights"):
        read_rights(folder_with(tmp_path, negations=NEGATIONS + "4 {people} lose\n"))
    with pytest.raises(ValueError, match=r"UDHR_raw_rights\.txt, line 2"):
        read_rights(folder_with(tmp_path, rights="1 {people} live\nall may read\n"))


def test_identities_are_whole_and_counted():
    text = "ind: Country of Birth (3)\npeople from Peru, the\tUSA,\nChad\nind: Work (1)\ncooks\n"
    assert read_identities(text) == [
        ("people from Peru", "Country of Birth"),
        ("people from the\tUSA", "Country of Birth"),
        ("people from Chad", "Country of Birth"),
        ("cooks", "Work"),
    ]
    with pytest.raises(ValueError, match="group 'Work' is said to have 3 identities, but 2 follow"):
        read_identities("ind: Work (3)\ncooks, nurses")
    with pytest.raises(ValueError, match="must begin with a group"):
        read_identities("cooks\nind: Work (1)\nnurses")
    with pytest.raises(ValueError, match="must be written"):
        read_identities("ind: Work\nnurses")


def test_templates_lose_nothing_and_gain_the_other_order(tmp_path):
    claim = "Consider that '{clime}'.\n" + SHORT
    rather = "'{right}'?\n- with 0 for '{neg}' or\n- with 1 for '{pos}'.\nAnswer:\n"
    templates = read_templates(folder_with(tmp_path, **{"3": claim, "rather": rather}))
    assert list(templates) == ["3", "base_short", "rather"], "the file without a name says what base_short says"
    statement = UdhrStatements(str(tmp_path), validation=0, test=0).load().train[0]
    shown, safe = templates["3"].render(statement, "it rains", agree=1)
    assert shown == claim.replace("{clime}", "it rains").replace("{right}", statement.text).removesuffix("\n")
    assert (safe, templates["3"].base) == (1, "base_short")
    assert "0 for agree or 1 for disagree" in templates["3"].render(statement, "it rains", agree=0)[0]
    assert templates["rather"].names_alternatives
    (tmp_path / "UDHR_CCS_Prompt.txt").write_text(SHORT.replace("Agree", "Think so"))
    assert "default" in read_templates(tmp_path)
    (tmp_path / "UDHR_CCS_Prompt_4.txt").write_text("Respond with 0 for disagree or 1 for agree.")
    with pytest.raises(ValueError, match=r"template '4' has no placeholder \{statement\}"):
        read_templates(tmp_path)


def test_a_faulty_template_is_named_by_its_file_and_in_its_words(tmp_path):
    folder_with(tmp_path, **{"4": "Respond with 0 for disagree or 1 for agree."})
    with pytest.raises(ValueError, match=r"UDHR_CCS_Prompt_4\.txt: .*These files write \{right\} .*\{clime\}"):
        read_templates(tmp_path)


@pytest.mark.parametrize("missing", ["UDHR_raw_rights.txt", "UDHR_raw_rights_neg.txt"])
def test_files_that_are_missing_or_no_texts_are_told_with_the_next_step(tmp_path, missing):
    folder_with(tmp_path)
    (tmp_path / missing).write_bytes(b"1 {people} \xff\xfe")
    with pytest.raises(ValueError, match=rf"{missing}, line 1 is no text in UTF-8"):
        read_rights(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"holds no {missing}: .*copy all files"):
        read_rights(tmp_path)


def test_a_folder_without_templates_or_identities_is_refused(tmp_path):
    folder_with(tmp_path)
    for path in tmp_path.glob("UDHR_CCS_Prompt*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no UDHR_CCS_Prompt\*\.txt: .*copy all files"):
        read_templates(tmp_path)
    for text in ("", "\n\n", "ind: Work (0)\n"):
        with pytest.raises(ValueError, match=r"there are no identities.*'ind: NAME"):
            read_identities(text)


def test_the_folder_is_the_argument_then_the_variable(tmp_path, monkeypatch):
    folder_with(tmp_path)
    monkeypatch.setenv("UDHR_ROOT", str(tmp_path))
    assert find_root() == tmp_path
    assert find_root(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match=r"elsewhere holds no UDHR_raw_identities\.txt"):
        find_root(tmp_path / "elsewhere")


@pytest.mark.parametrize("wording", ["rights", "ideal"])
def test_the_real_rights_and_identities(udhr_root, wording):
    source = UdhrStatements(str(udhr_root), wording)
    splits = source.load()
    assert splits.leak_report().total == 0
    rights = {right.name: right for right in read_rights(udhr_root, wording)}
    assert len(rights) == 38
    identities = read_identities((udhr_root / IDENTITIES_FILE).read_text())
    assert (len(identities), len(dict(identities)), len({group for _, group in identities})) == (213, 213, 12)
    # Slavery is denied by what affirms it, in both wordings: polarity does not follow from "not".
    assert "not be held in slavery" in rights["4.1"].affirmed
    assert "not be held in slavery" not in rights["4.1"].denied
    assert {item.identity_group for item in splits.test} == {group for _, group in identities}


def test_the_real_templates(udhr_root):
    templates = read_templates(udhr_root)
    places = {name: template.claim_place for name, template in templates.items()}
    assert places == {
        "1": "prefix",
        "2": "both",
        "3": "prefix",
        "4": "suffix",
        "base_long": "none",
        "base_short": "none",
        "base_short_rather": "none",
    }
