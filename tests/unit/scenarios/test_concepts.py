"""Texts of concepts: words that the embedded backbone knows, nothing that is scored, and bad lists refused."""

import json
import re

import pytest
from poser_folder import clone, record

from fa_lightning.backbones import curriculum
from fa_lightning.scenarios.benchmark import fitted_groups
from fa_lightning.scenarios.concepts import (
    COMPETENCE,
    CONCEPTS,
    ETHICAL,
    SECURITY,
    Concept,
)
from fa_lightning.scenarios.embedded import domains as embedded_domains
from fa_lightning.scenarios.embedded import texts as embedded_texts
from fa_lightning.scenarios.embedded import themes as embedded_parts
from fa_lightning.scenarios.embedded import wordings as embedded_wordings
from fa_lightning.scenarios.embedded.concepts import EmbeddedConcepts
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.poser.benchmark import PoserBenchmark
from fa_lightning.scenarios.poser.concepts import PoserConcepts
from fa_lightning.scenarios.poser.source import PoserScenarios
from fa_lightning.scenarios.scenario import POSER_TEMPLATE, group_of

LISTS = {
    "security": ["The gate is shut.", "The gate is guarded.", "The gate is locked."],
    "vulnerability": ["The gate is open.", "The gate is broken."],
    "competence": ["He knows.", "She knows."],
    "incompetence": ["He errs.", "She errs."],
    "one_aligned": ["An ethical AI waits.", "An ethical AI asks."],
    "one_misaligned": ["An unethical AI runs.", "An unethical AI lies."],
}


def words(text):
    return set(re.findall(r"[a-z]+(?:-[a-z]+)?", text.lower()))


def squeezed(text):
    return " ".join(text.lower().split())


def quoting(number, letter="A"):
    """What POSER's texts about ethics look like: a whole scenario and an answer."""
    item = record(number)
    facts = "".join(f"{place}. {fact}\n" for place, fact in enumerate(item["facts"], start=1))
    shown = POSER_TEMPLATE.format(facts_string=facts, action_A=item["action_A"], action_B=item["action_B"])
    return f"The following scenario depicts the behavior of an AI:\n{shown}{letter} "


def with_lists(root, tmp_path, **changes):
    """Write the lists of a POSER folder, with some changed; `...` leaves the file out."""
    folder = tmp_path / "src" / "detection_strategies" / "concepts"
    folder.mkdir(parents=True)
    for name, texts in (LISTS | changes).items():
        if texts is not ...:
            listed = [{"example": text} for text in texts] if isinstance(texts, list) else texts
            (folder / f"{name}.json").write_text(listed if isinstance(listed, str) else json.dumps(listed))
    return root


@pytest.fixture
def make(tmp_path):
    """`make(security=[...])` is a source over a folder with that list changed; its benchmark has 80 scenarios."""

    def make(**changes):
        root = clone(tmp_path, one=[record(number) for number in range(80)])
        return PoserConcepts(with_lists(root, tmp_path, **changes))

    return make


class TestEmbedded:
    def test_three_concepts_of_twelve_texts_a_side_or_more(self):
        concepts = EmbeddedConcepts().load()
        assert [one.name for one in concepts] == list(CONCEPTS)
        texts = [text for one in concepts for text in (*one.examples, *one.opposites)]
        assert len(set(texts)) == len(texts)
        assert all(min(len(one.examples), len(one.opposites)) >= 12 for one in concepts)

    def test_every_word_is_one_that_the_backbone_has_met(self):
        modules = (embedded_domains, embedded_parts, embedded_texts, embedded_wordings, curriculum)
        known = words(" ".join(repr(value) for one in modules for name, value in vars(one).items() if name.isupper()))
        known |= words(POSER_TEMPLATE)
        for one in EmbeddedConcepts().load():
            for text in (*one.examples, *one.opposites):
                assert words(text) <= known, text

    def test_no_text_quotes_a_scenario(self):
        splits = EmbeddedScenarios().load()
        items = [*EmbeddedScenarios().benchmark().load().scored, *splits.train, *splits.validation, *splits.test]
        pieces = {squeezed(piece) for one in items for piece in (one.action_a, one.action_b)}
        pieces |= {squeezed(fact.content) for one in items for fact in one.facts}
        for one in EmbeddedConcepts().load():
            for text in map(squeezed, (*one.examples, *one.opposites)):
                assert not [piece for piece in pieces if piece in text or piece.rstrip(".") in text], text

    def test_chosen_ones_in_the_order_given(self):
        assert [one.name for one in EmbeddedConcepts([ETHICAL, SECURITY]).load()] == [ETHICAL, SECURITY]
        assert EmbeddedConcepts([ETHICAL]).fingerprint() != EmbeddedConcepts().fingerprint()


@pytest.mark.parametrize("kind", [EmbeddedConcepts, PoserConcepts])
@pytest.mark.parametrize("names", [["courage"], [], [SECURITY, SECURITY]])
def test_names_that_are_refused(kind, names):
    message = f"names is {names}, but must choose from {', '.join(map(repr, CONCEPTS))}, each once at most"
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(names=names)


def test_a_mean_of_one_text_is_refused():
    with pytest.raises(ValueError, match="concept 'calm' has 1 of its opposites, but needs 2 or more on each side"):
        Concept("calm", ("a", "b"), ("c",))


class TestPoserLists:
    """On folders made up here."""

    def test_lists_become_concepts(self, make):
        source = make()
        assert source.load() == [
            Concept(SECURITY, tuple(LISTS["security"]), tuple(LISTS["vulnerability"])),
            Concept(COMPETENCE, tuple(LISTS["competence"]), tuple(LISTS["incompetence"])),
            Concept(ETHICAL, tuple(LISTS["one_aligned"]), tuple(LISTS["one_misaligned"])),
        ]
        assert source.left_out == 0

    def test_those_about_ethics_are_one_concept_without_repeats(self, tmp_path):
        root = clone(tmp_path, one=[record(0)], two=[record(1)])
        lists = {"two_aligned": ["An ethical AI waits.", "Another."], "two_misaligned": ["Yet another."]}
        (ethical,) = PoserConcepts(with_lists(root, tmp_path, **lists), [ETHICAL]).load()
        assert ethical.examples == ("An ethical AI waits.", "An ethical AI asks.", "Another.")
        assert ethical.opposites == (*LISTS["one_misaligned"], "Yet another.")

    def test_texts_that_quote_a_scored_scenario_are_left_out_and_counted(self, make):
        aligned = [quoting(number) for number in range(5)]
        misaligned = [quoting(number, "B") for number in range(5)]
        # By its facts alone, too: here the actions are other ones.
        misaligned.append(quoting(3).replace("crack", "leak"))
        source = make(one_aligned=aligned, one_misaligned=misaligned)
        left_out = frozenset(group_of(f"Report crack {number}.", f"Hide crack {number}.") for number in (1, 3))
        ethical = source.load(left_out)[-1]
        assert ethical.examples == tuple(quoting(number).strip() for number in (0, 2, 4))
        assert ethical.opposites == tuple(quoting(number, "B").strip() for number in (0, 2, 4))
        assert source.left_out == 5
        assert len(source.load()[-1].opposites) == 6
        assert source.left_out == 0

    def test_too_few_texts_left_names_the_files_and_what_was_left_out(self, make):
        source = make(one_aligned=[quoting(1), quoting(2), quoting(3)])
        left_out = frozenset(group_of(f"Report crack {number}.", f"Hide crack {number}.") for number in (1, 3))
        message = r"'ethical / unethical' has 1 of its examples.*one_aligned\.json.*2 of their texts were left out"
        with pytest.raises(ValueError, match=message):
            source.load(left_out)

    def test_a_list_of_one_item(self, make):
        with pytest.raises(ValueError, match=r"has 1 of its opposites.*vulnerability\.json"):
            make(vulnerability=["The gate is open."]).load()

    def test_a_missing_file(self, make):
        with pytest.raises(FileNotFoundError, match=r"one_misaligned\.json is missing.*git checkout"):
            make(one_misaligned=...).load()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"example": "a"}', r"security\.json must hold a list of records, but holds a dict"),
            ('[{"example": "a"}, {"text": "b"}]', r"security\.json, record 1 .* text under 'example'.*git checkout"),
            ('[{"example": "a"}, "b"]', r"security\.json, record 1 "),
            ('[{"example": "a"}, {"example": " "}]', r"security\.json, record 1 "),
            ('[{"example": "a"}, {"exam', r"security\.json is no valid JSON"),
        ],
    )
    def test_a_file_that_is_no_list_of_examples(self, make, content, message):
        with pytest.raises(ValueError, match=message):
            make(security=content).load()

    def test_no_folder(self, tmp_path, monkeypatch):
        monkeypatch.delenv("POSER_ROOT", raising=False)
        with pytest.raises(FileNotFoundError, match="POSER's data was not found"):
            PoserConcepts(str(tmp_path / "nowhere")).load()

    def test_fingerprint_follows_the_files(self, make, tmp_path):
        source = make()
        before = source.fingerprint()
        assert source.fingerprint() == before
        assert not any(str(tmp_path) in value for value in before.values())
        path = tmp_path / "src" / "detection_strategies" / "concepts" / "security.json"
        path.write_text(json.dumps([{"example": "a"}, {"example": "b"}]))
        assert source.fingerprint() != before


@pytest.mark.poser
def test_the_real_lists_without_what_is_scored(poser_root):
    source, scored = PoserConcepts(str(poser_root)), PoserBenchmark(str(poser_root)).load().scored
    whole = source.load()
    assert [(len(one.examples), len(one.opposites)) for one in whole] == [(10, 10), (10, 10), (90, 90)]
    kept = source.load(frozenset(one.group for one in scored))
    assert [(len(one.examples), len(one.opposites)) for one in kept] == [(10, 10), (10, 10), (84, 84)]
    assert source.left_out == 12
    actions = [(squeezed(one.action_a), squeezed(one.action_b)) for one in scored]

    def quotes(text):
        return any(one in squeezed(text) and other in squeezed(text) for one, other in actions)

    assert not [text for one in kept for text in (*one.examples, *one.opposites) if quotes(text)]
    assert sum(quotes(text) for one in whole for text in one.examples) == 6
    # Without what variants were fitted on or chosen by, enough is left for a mean.
    fitted = fitted_groups([PoserScenarios(str(poser_root), all_policies=True).load()])
    kept = source.load(frozenset(one.group for one in scored) | fitted)
    assert [(len(one.examples), len(one.opposites)) for one in kept] == [(10, 10), (10, 10), (8, 8)]
