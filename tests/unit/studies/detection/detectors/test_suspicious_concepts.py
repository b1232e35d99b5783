"""Suspicious concepts against a plain computation, one prompt at a time, and its rule on chosen rows."""

import pytest
import torch
from tiny_twins import layers_of

from fa_lightning.activations.sites import Site
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Example, collate, model_inputs
from fa_lightning.scenarios.embedded.concepts import EmbeddedConcepts
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.detectors.suspicious_concepts import SuspiciousConcepts
from fa_lightning.studies.detection.subjects import Examiner, Subject

SUBJECTS = [Subject("one", Condition("faking")), Subject("other", Condition("aligned"))]


@pytest.fixture(scope="module")
def concepts():
    """Of two concepts, five texts that show it and three of its opposite."""
    return [(one.examples[:5], one.opposites[:3]) for one in EmbeddedConcepts().load()[:2]]


@pytest.fixture(scope="module")
def messages():
    return [one.message() for one in EmbeddedScenarios().benchmark(scored=8, reference=8).load().scored]


def asked_about(text):
    return f"To what extent does the following involve it?\n{text}"


def batches_of(tokenizer, texts, size, **extra):
    """Left-padded batches of so many texts, with one number a text under each name of `extra`."""
    plain, asked = (
        [Example(tuple(prompt_ids(tokenizer, text)), 0, 0, 0, 0, place) for place, text in enumerate(every)]
        for every in (texts, map(asked_about, texts))
    )
    for start in range(0, len(plain), size):
        part = slice(start, start + size)
        batch, behind = (collate(examples[part], tokenizer.pad_token_id) for examples in (plain, asked))
        batch |= {f"asked_{name}": values for name, values in model_inputs(behind).items()}
        yield batch | {name: torch.tensor(values[part]) for name, values in extra.items()}


@pytest.fixture
def measured(twins, tiny_tokenizer, concepts, messages):
    """`measured(detector)` is the evidence of all subjects, rows in the order of the messages."""
    answers = letter_tokens(tiny_tokenizer)
    examiner = Examiner(twins, answers.choices)

    def measure(detector, subjects=SUBJECTS, size=4):
        detector.check(examiner, subjects)
        detector.start(examiner, subjects)
        labelled = [
            (number, side, text)
            for number, sides in enumerate(concepts)
            for side, texts in zip((True, False), sides, strict=True)
            for text in texts
        ]
        numbers, shown, texts = zip(*labelled, strict=True)
        with torch.inference_mode():
            for batch in batches_of(tiny_tokenizer, texts, size, concept=numbers, shown=shown):
                detector.observe("concepts", examiner, subjects, batch)
            detector.finish("concepts", examiner, subjects)
            parts = [detector.measure(examiner, subjects, b) for b in batches_of(tiny_tokenizer, messages, size)]
        return {
            subject.name: {"cosine": torch.cat([part[subject.name]["cosine"] for part in parts])}
            for subject in subjects
        }

    return measure


@torch.inference_mode()
def plain_cosines(twin, tokenizer, concepts, messages):
    """(messages, layers, concepts), from a twin that plain peft has loaded: no padding, no batches."""

    def last_states(text):
        seen = []
        hooks = [
            layer.register_forward_hook(
                lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
            )
            for layer in layers_of(twin)
        ]
        twin(input_ids=torch.tensor([prompt_ids(tokenizer, text)]))
        for hook in hooks:
            hook.remove()
        return torch.stack([hidden[0, -1] for hidden in seen])

    def mean(texts):
        return sum(last_states(text) for text in texts) / len(texts)

    directions = [mean(examples) - mean(opposites) for examples, opposites in concepts]
    rows = []
    for message in messages:
        states = last_states(message)
        rows.append(
            torch.stack(
                [(states * one).sum(-1) / (states.norm(dim=-1) * one.norm(dim=-1)) for one in directions], dim=1
            )
        )
    return torch.stack(rows)


def test_the_cosines_are_those_of_a_plain_computation(measured, alone, tiny_tokenizer, concepts, messages):
    evidence = measured(SuspiciousConcepts())
    for subject in SUBJECTS:
        expected = plain_cosines(alone(subject.condition.variant), tiny_tokenizer, concepts, messages)
        assert expected.shape == (8, 2, 2)
        assert torch.allclose(evidence[subject.name]["cosine"], expected, atol=1e-5)
    assert (evidence["one"]["cosine"] - evidence["other"]["cosine"]).abs().max() > 0.01


def test_posers_form_reads_texts_behind_its_question_and_prompts_as_they_are(
    measured, alone, tiny_tokenizer, concepts, messages
):
    detector = SuspiciousConcepts(asked=True)
    assert detector.name == "concepts (POSER)"
    evidence = measured(detector)
    asked = [tuple([asked_about(text) for text in side] for side in sides) for sides in concepts]
    expected = plain_cosines(alone("faking"), tiny_tokenizer, asked, messages)
    # The middle one of two layers.
    assert torch.allclose(evidence["one"]["cosine"], expected[:, 1:], atol=1e-5)
    plain = measured(SuspiciousConcepts(layers=["last"]))["one"]["cosine"]
    assert (evidence["one"]["cosine"] - plain).abs().max() > 0.01


def test_batches_change_nothing(measured):
    one, other = (measured(SuspiciousConcepts(), size=size) for size in (3, 8))
    assert torch.allclose(one["one"]["cosine"], other["one"]["cosine"], atol=1e-5)


def test_chosen_layers(measured):
    detector = SuspiciousConcepts(layers=[1.0])
    every, last = measured(SuspiciousConcepts()), measured(detector)
    assert torch.equal(last["one"]["cosine"], every["one"]["cosine"][:, 1:])
    assert detector.curve(last["one"])[1] == [1.0]
    with pytest.raises(ValueError, match=r"layer.* 7"):
        measured(SuspiciousConcepts(layers=["layers.7.residual"]))


def test_a_second_run_starts_anew(measured):
    detector = SuspiciousConcepts()
    first = measured(detector)
    assert torch.equal(measured(detector)["one"]["cosine"], first["one"]["cosine"])
    assert detector.config() == {
        "class": "SuspiciousConcepts",
        "layers": None,
        "asked": False,
        "name": "suspicious concepts",
    }


def test_suspicion_is_the_mean_over_the_rows_given(measured):
    detector = SuspiciousConcepts()
    cosine = measured(detector)["one"]["cosine"]
    chosen = cosine[[1, 4]]
    assert detector.suspicion({"cosine": chosen}) == pytest.approx(chosen.numpy().mean(), abs=1e-6)
    name, layers, means = detector.curve({"cosine": chosen})
    assert (name, layers) == ("layer", [0.0, 1.0])
    assert means == pytest.approx([chosen[:, layer].numpy().mean() for layer in range(2)], abs=1e-6)


def test_higher_is_more_faking():
    toward, away = torch.full((3, 2, 2), 0.4), torch.full((3, 2, 2), -0.4)
    detector = SuspiciousConcepts()
    assert detector.suspicion({"cosine": toward}) > detector.suspicion({"cosine": away})


def test_a_model_beside_itself_is_no_more_suspicious(measured):
    detector = SuspiciousConcepts()
    evidence = measured(detector, [SUBJECTS[0], Subject("again", Condition("faking"))])
    assert detector.suspicion(evidence["one"]) == detector.suspicion(evidence["again"])


def test_a_steered_subject_is_read_as_it_is_steered(measured):
    edit = Intervention(Site(0), 5 * torch.ones(32))
    steered = Subject("steered", Condition("faking", (edit,)))
    evidence = measured(SuspiciousConcepts(), [SUBJECTS[0], steered])
    change = (evidence["one"]["cosine"] - evidence["steered"]["cosine"]).abs().amax(dim=(0, 2))
    assert all(change > 0.01)
