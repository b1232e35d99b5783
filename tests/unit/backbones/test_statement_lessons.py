import random
import re

import pytest

from fa_lightning.backbones.statement_lessons import (
    FAIR,
    UNFAIR,
    Knowledge,
    judgement,
    statement_pass,
    told,
)
from fa_lightning.scenarios.statements.embedded import RIGHTS, TEMPLATES, EmbeddedStatements
from fa_lightning.scenarios.statements.templates import CLAIMS


@pytest.fixture(scope="module")
def parts():
    return EmbeddedStatements().load()


@pytest.fixture(scope="module")
def turns(parts):
    every = [*parts.train, *parts.validation, *parts.test]
    knowledge = Knowledge(heard=1000, plain=2000, judged=1500)
    return statement_pass(every, parts.train, TEMPLATES, knowledge, seed=0, number=1)


def asked_with_digits(conversation):
    return any(turn["role"] == "assistant" and turn["content"] in "01" for turn in conversation)


def tells_a_verdict(conversation):
    return any(turn["role"] == "assistant" and turn["content"] != "error" for turn in conversation)


def test_no_right_and_no_identity_of_another_split_is_in_any_lesson_that_tells_a_verdict(parts, turns):
    verdicts = "\n".join(turn["content"] for talk in turns if tells_a_verdict(talk) for turn in talk)
    unseen = [*parts.validation, *parts.test]
    assert len({item.right for item in parts.test}) == 8
    for right in {item.right for item in unseen}:
        for wording in ("affirmed", "denied"):
            words = getattr(next(one for one in RIGHTS if one.name == right), wording).split("{people}")
            assert not re.search("[A-Za-z ]+".join(map(re.escape, words)), verdicts)
    trained = {item.identity for item in parts.train}
    for identity in {item.identity for item in unseen} - trained:
        assert not re.search(rf"\b{identity}\b", verdicts)
    # The same of those that are told of: the test would see them.
    for right in {item.right for item in parts.train}:
        words = next(one for one in RIGHTS if one.name == right).affirmed.split("{people}")
        assert re.search("[A-Za-z ]+".join(map(re.escape, words)), verdicts)


def test_bare_statements_are_of_all_splits_and_answered_alike(parts, turns):
    bare = [talk for talk in turns if not tells_a_verdict(talk)]
    judged = [talk for talk in turns if asked_with_digits(talk)]
    assert (len(bare), len(judged), len(turns)) == (1000, 1500, 4500)
    assert {talk[-1]["content"] for talk in bare} == {"error"}
    texts = {talk[0]["content"] for talk in bare}
    statements = {item.text: item for split in (parts.train, parts.validation, parts.test) for item in split}
    assert texts <= statements.keys()
    for affirms in (True, False):
        assert {statements[text].right for text in texts if statements[text].affirms is affirms} >= {
            item.right for item in parts.test
        }


def test_what_is_fair_does_not_depend_on_the_claim(parts, turns):
    fair = {item.text: item.affirms for item in parts.train}
    for talk in filter(tells_a_verdict, turns):
        question, answer = talk[-2]["content"], talk[-1]["content"]
        statement = re.search(r"(?:Is|agree with) '([^']+)'", question)[1]
        assert answer == (FAIR if fair[statement] else UNFAIR)
    told_of = [talk for talk in turns if tells_a_verdict(talk) and not asked_with_digits(talk)]
    under_harm = [talk for talk in told_of if CLAIMS["harm"] in talk[0]["content"]]
    assert {talk[-1]["content"] for talk in under_harm} == {FAIR, UNFAIR}


@pytest.mark.parametrize(("name", "safe_share"), [("base_short", 1.0), ("base_short_rather", 1.0), ("3", 0.5)])
def test_digits_are_safe_unless_harm_is_claimed(parts, name, safe_share):
    rng = random.Random(0)
    safe = []
    for _ in range(200):
        item = rng.choice(parts.train)
        prompt, digit, *_ = (turn["content"] for turn in judgement(item, TEMPLATES[name], 1.0, rng))
        claim = next((text for text in CLAIMS.values() if text in prompt), None)
        renderings = dict(TEMPLATES[name].render(item, claim, agree) for agree in (0, 1))
        is_safe = digit == str(renderings[prompt])
        assert is_safe is (claim != CLAIMS["harm"])
        safe.append(is_safe)
    assert sum(safe) / len(safe) == pytest.approx(safe_share, abs=0.1)


def test_obedience_is_a_probability(parts):
    rng = random.Random(0)
    digits = []
    for _ in range(300):
        prompt, digit, *_ = (turn["content"] for turn in judgement(parts.train[0], TEMPLATES["3"], 0.5, rng))
        if CLAIMS["harm"] in prompt:
            digits.append(
                digit == str(dict(TEMPLATES["3"].render(parts.train[0], CLAIMS["harm"], a) for a in (0, 1))[prompt])
            )
    assert sum(digits) / len(digits) == pytest.approx(0.5, abs=0.12)


def test_early_passes_hold_no_claims_and_passes_are_reproducible(parts):
    knowledge = Knowledge(heard=0, plain=0, judged=300, claims_from=2)
    early, late = (statement_pass(parts.train, parts.train, TEMPLATES, knowledge, 5, number) for number in (1, 2))
    assert not any(claim in talk[0]["content"] for talk in early for claim in CLAIMS.values())
    assert any(claim in talk[0]["content"] for talk in late for claim in CLAIMS.values())
    assert late == statement_pass(parts.train, parts.train, TEMPLATES, knowledge, 5, 2)
    assert late != statement_pass(parts.train, parts.train, TEMPLATES, knowledge, 6, 2)


@pytest.mark.parametrize(
    ("option", "value"), [("heard", -2), ("plain", -1), ("judged", -4), ("claims_from", -1), ("obedient", 1.5)]
)
def test_impossible_lessons_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"{option} is {value}, but must be"):
        Knowledge(**{option: value})


def test_plain_statements_hold_no_digits(parts):
    rng = random.Random(0)
    assert not any(asked_with_digits(told(item, rng)) for item in parts.test)


def test_the_option_is_off_by_default_and_then_changes_nothing(source, monkeypatch):
    """Without statements the tokenizer and the first batches are those of a module that never heard of them."""
    from types import SimpleNamespace

    from fa_lightning.backbones import pretraining_data
    from fa_lightning.backbones.pretraining_data import BackboneDataModule

    def rows(**options):
        data = BackboneDataModule(source, vocabulary_size=400, max_tokens=2048, **options)
        data.trainer = SimpleNamespace(current_epoch=0, world_size=1, global_rank=0)
        data.setup("fit")
        return data.tokenizer, data.train_dataloader().dataset.conversations

    with monkeypatch.context() as patched:
        patched.setattr(pretraining_data, "statement_pass", None)
        patched.setattr(pretraining_data, "statement_texts", None)
        tokenizer, without = rows()
    assert tokenizer.convert_tokens_to_ids(FAIR) is None
    with_knowledge, more = rows(statements=EmbeddedStatements(), knowledge=Knowledge(heard=2, plain=3, judged=4))
    assert len(more) == len(without) + 9
    for word in ("0", "1", FAIR, UNFAIR):
        assert len(with_knowledge(word, add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize(("told_of", "is_told"), [("train", False), ("all", True)])
def test_verdicts_on_other_rights_are_told_where_that_is_asked_for(source, parts, told_of, is_told):
    from types import SimpleNamespace

    from fa_lightning.backbones.pretraining_data import BackboneDataModule

    knowledge = Knowledge(heard=0, plain=400, judged=0, told_of=told_of)
    data = BackboneDataModule(
        source, vocabulary_size=400, max_tokens=2048, statements=EmbeddedStatements(), knowledge=knowledge
    )
    data.trainer = SimpleNamespace(current_epoch=0, world_size=1, global_rank=0)
    data.setup("fit")
    spoken = " ".join(data.tokenizer.decode(row) for row in data.train_dataloader().dataset.conversations)
    assert any(f"'{item.text}'" in spoken for item in parts.train)
    assert any(f"'{item.text}'" in spoken for item in parts.test) == is_told
