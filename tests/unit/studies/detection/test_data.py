"""What detectors are shown: no right answer, prompts with and without their fact, shares of ranks, what is too long."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from made_up_source import MadeUpSource

from fa_lightning.scenarios.answers import other_letter
from fa_lightning.scenarios.batches import model_inputs
from fa_lightning.scenarios.benchmark import Benchmark, BenchmarkSource, without_critical_fact
from fa_lightning.scenarios.concepts import Concept, ConceptSource
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.studies.detection.data import DetectionDataModule, behind_question, without_fact

INPUTS = {"input_ids", "attention_mask", "position_ids"}


class Given(BenchmarkSource):
    """A benchmark as it is."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark

    def load(self) -> Benchmark:
        return self.benchmark

    def fingerprint(self) -> dict[str, str]:
        return {"source": "given"}


class Texts(ConceptSource):
    """Concepts as they are; remembers what was to be left out."""

    def __init__(self, *concepts: Concept) -> None:
        self.concepts = list(concepts)
        self.groups: frozenset[str] = frozenset()

    def load(self, left_out: frozenset[str] = frozenset()) -> list[Concept]:
        self.groups = left_out
        return self.concepts

    def fingerprint(self) -> dict[str, str]:
        return {"source": "texts"}


CALM = Concept("calm", ("You wait.", "You rest."), ("You rush.", "You run.", "You jump."))
WARM = Concept("warm", ("It is warm.", "It is hot."), ("It is cold.", "It is icy."))


@pytest.fixture(scope="module")
def benchmark_():
    return EmbeddedScenarios().benchmark(scored=24, reference=16).load()


@pytest.fixture
def serve(tiny_tokenizer, benchmark_):
    """`serve("scored", ranks=2, rank=1)` are the batches of a part, as the Trainer's loaders give them."""

    def serve(*parts, benchmark=benchmark_, ranks=1, rank=0, concepts=None, **options):
        data = DetectionDataModule(MadeUpSource(Given(benchmark), concepts), **({"batch_size": 5} | options))
        module = SimpleNamespace(tokenizer=tiny_tokenizer, pending=[("a detector", part) for part in parts])
        data.trainer = SimpleNamespace(world_size=ranks, global_rank=rank, lightning_module=module)
        loaders = data.test_dataloader()
        assert len(loaders) == len(parts)
        return data, [list(loader) for loader in loaders]

    return serve


def prompts(batches, prefix=""):
    """By index, the prompt's real tokens."""
    found = {}
    for batch in batches:
        inputs = {name: batch[prefix + name] for name in INPUTS}
        for row, index in enumerate(batch["index"].tolist()):
            real = inputs["attention_mask"][row].bool()
            assert inputs["position_ids"][row][real].tolist() == list(range(int(real.sum())))
            assert bool(real[-1])
            found[index] = inputs["input_ids"][row][real].tolist()
    return found


class TestPrompts:
    def test_with_and_without_their_critical_fact(self, serve, benchmark_, tiny_tokenizer):
        _, (scored, reference) = serve("scored", "reference")
        for batches, scenarios in ((scored, benchmark_.scored), (reference, benchmark_.reference)):
            whole, less = prompts(batches), prompts(batches, "without_")
            assert sorted(whole) == list(range(len(scenarios)))
            has_fact = {
                int(one): bool(has) for b in batches for one, has in zip(b["index"], b["has_fact"], strict=True)
            }
            for index, item in enumerate(scenarios):
                bare = without_critical_fact(item)
                assert has_fact[index] == (bare is not None)
                assert whole[index] == prompt_ids(tiny_tokenizer, item.message())
                assert less[index] == prompt_ids(tiny_tokenizer, (bare or item).message())
            assert len(set(has_fact.values())) == 2

    def test_without_fact_puts_the_other_prompts_in_place(self, serve):
        _, (batches,) = serve("scored")
        swapped = [without_fact(batch) for batch in batches]
        assert prompts(swapped) == prompts(batches, "without_")
        assert all(set(model_inputs(batch)) == INPUTS for batch in swapped)
        assert torch.equal(swapped[0]["group"], batches[0]["group"])

    def test_no_batch_tells_the_right_answer(self, serve, benchmark_):
        names = INPUTS | {f"without_{name}" for name in INPUTS} | {"has_fact", "group", "index"}
        wrong = [
            dataclasses.replace(one, aligned=other_letter(one.aligned), policy="other", source="elsewhere")
            for one in benchmark_.scored
        ]
        _, (told,) = serve("scored")
        _, (lied,) = serve("scored", benchmark=dataclasses.replace(benchmark_, scored=wrong))
        for one, other in zip(told, lied, strict=True):
            assert set(one) == set(other) == names
            assert all(torch.equal(one[name], other[name]) for name in names)

    def test_groups_are_those_of_the_rows(self, serve, benchmark_):
        data, _ = serve("scored")
        assert data.groups.tolist() == [int(one.group[:15], 16) for one in benchmark_.scored]


class TestHeldOut:
    """On the scenarios of one source, and a benchmark of the same or of another seed."""

    def of_seed(self, seed, tokenizer, **options):
        source = EmbeddedScenarios(train=3000, validation=300, test=8, neutral=8, seed=seed)
        benchmark = Given(EmbeddedScenarios().benchmark(scored=24, reference=16).load())
        data = DetectionDataModule(MadeUpSource(benchmark, Texts(CALM)), fitted_on=[source], **options)
        data.prepare_for(tokenizer, ["concepts"])
        return data, source

    def test_the_leaks_are_counted_and_concepts_leave_out_the_same_groups(self, tiny_tokenizer):
        data, source = self.of_seed(0, tiny_tokenizer)
        splits = source.load()
        assert data.leaks == 0
        seen = {one.group for one in (*splits.train, *splits.validation, *splits.neutral_train)}
        assert len(seen) > 2000
        assert seen <= data.concepts.groups

    def test_groups_that_variants_were_fitted_on_are_refused(self, tiny_tokenizer):
        with pytest.raises(
            ValueError, match=r"\d+ groups of the benchmark are among those that variants were fitted on"
        ):
            self.of_seed(1, tiny_tokenizer)


class TestRanks:
    def test_scored_prompts_are_shared_among_them(self, serve):
        _, (alone,) = serve("scored")
        shares = [prompts(serve("scored", ranks=2, rank=rank)[1][0]) for rank in range(2)]
        assert len(shares[0]) == len(shares[1]) == 12
        assert shares[0] | shares[1] == prompts(alone)

    def test_what_is_fitted_on_is_whole_and_alike_on_every_rank(self, serve):
        parts = "concepts", "reference"
        (_, one), (_, other) = (serve(*parts, ranks=2, rank=rank, concepts=Texts(CALM)) for rank in range(2))
        for batches, others in zip(one, other, strict=True):
            assert len(batches) == len(others) > 0
            for batch, same in zip(batches, others, strict=True):
                assert all(torch.equal(batch[name], same[name]) for name in batch)
        assert len(prompts(one[0])) == 5
        assert len(prompts(one[1])) == 16

    def test_reference_prompts_are_shuffled_and_the_seed_says_how(self, serve):
        order, again, another = (
            [index for batch in serve("reference", seed=seed)[1][0] for index in batch["index"].tolist()]
            for seed in (0, 0, 1)
        )
        assert order == again != another
        assert sorted(order) == list(range(16))


class TestTooLong:
    def lengths(self, benchmark, tokenizer):
        return [len(prompt_ids(tokenizer, one.message())) for one in benchmark.scored]

    def test_left_out_prompts_leave_no_gap_and_pairs_follow(self, serve, benchmark_, tiny_tokenizer):
        lengths = self.lengths(benchmark_, tiny_tokenizer)
        limit = sorted(lengths)[11]
        kept = [place for place, length in enumerate(lengths) if length <= limit]
        pairs = {"all": tuple(range(24)), "kept": (kept[3], kept[5]), "some": tuple(range(0, 24, 2))}
        shown = dataclasses.replace(benchmark_, pairs=pairs)
        data, (batches,) = serve("scored", benchmark=shown, max_tokens=limit)
        found = prompts(batches)
        assert sorted(found) == list(range(len(kept)))
        assert 12 <= len(kept) < 24
        for row, place in enumerate(kept):
            assert found[row] == prompt_ids(tiny_tokenizer, benchmark_.scored[place].message())
        assert data.asked["all"] == tuple(range(len(kept)))
        assert data.asked["kept"] == (3, 5)
        assert data.asked["some"] == tuple(row for row, place in enumerate(kept) if place % 2 == 0)
        assert len(data.groups) == len(kept)

    def test_the_number_is_told(self, serve, benchmark_, tiny_tokenizer, caplog):
        limit = max(self.lengths(benchmark_, tiny_tokenizer)) - 1
        with caplog.at_level("INFO"):
            serve("scored", max_tokens=limit)
        assert f"of 24 scored prompts are over max_tokens={limit}: left out" in caplog.text

    @pytest.mark.parametrize("part", ["scored", "reference"])
    def test_all_of_a_part(self, serve, benchmark_, tiny_tokenizer, part):
        longest = benchmark_
        if part == "reference":
            short = max(self.lengths(benchmark_, tiny_tokenizer))
            facts = tuple(fact for one in benchmark_.reference for fact in one.facts)
            long = [dataclasses.replace(one, facts=facts) for one in benchmark_.reference]
            longest = dataclasses.replace(benchmark_, reference=long)
        limit = 3 if part == "scored" else short
        message = (
            f"max_tokens is {limit}, but every one of the {24 if part == 'scored' else 16} {part} prompts is longer"
        )
        with pytest.raises(ValueError, match=message):
            serve(part, benchmark=longest, max_tokens=limit)

    def test_all_of_a_policy_pair(self, serve, benchmark_, tiny_tokenizer):
        lengths = self.lengths(benchmark_, tiny_tokenizer)
        longest = lengths.index(max(lengths))
        shown = dataclasses.replace(benchmark_, pairs={"all": tuple(range(24)), "saint_and_money": (longest,)})
        with pytest.raises(ValueError, match="every scored prompt of the policy pair 'saint_and_money' is longer"):
            serve("scored", benchmark=shown, max_tokens=max(lengths) - 1)


class TestConcepts:
    def test_each_text_with_its_number_and_side(self, serve, benchmark_, tiny_tokenizer):
        source = Texts(CALM, WARM)
        _, (batches,) = serve("concepts", concepts=source, batch_size=4)
        names = INPUTS | {f"asked_{name}" for name in INPUTS} | {"concept", "shown", "group", "index"}
        assert all(set(batch) == names for batch in batches)
        texts = {index: tiny_tokenizer.decode(ids) for index, ids in prompts(batches).items()}
        found = {
            (int(concept), bool(shown), texts[int(index)])
            for batch in batches
            for concept, shown, index in zip(batch["concept"], batch["shown"], batch["index"], strict=True)
        }
        assert found == {
            (number, shown, tiny_tokenizer.decode(prompt_ids(tiny_tokenizer, text)))
            for number, concept in enumerate((CALM, WARM))
            for shown, side in ((True, concept.examples), (False, concept.opposites))
            for text in side
        }
        assert source.groups == {one.group for one in benchmark_.scored}
        asked = prompts([behind_question(batch) for batch in batches])
        every = [(one.name, text) for one in (CALM, WARM) for text in (*one.examples, *one.opposites)]
        for index, (concept, text) in enumerate(every):
            # A text of the opposite is asked about the concept, too.
            question = f"To what extent does the following involve {concept}?\n{text}\n"
            question += f"The probability that this text involves {concept} is:"
            assert asked[index] == prompt_ids(tiny_tokenizer, question)
        assert prompts(batches, "asked_") == asked

    def test_texts_and_prompts_end_behind_what_a_template_writes_before_an_answer(self, benchmark_, tiny_tokenizer):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = tokenizer.chat_template.replace(
            "{% else %}<|assistant|>", "{% else %}<|assistant|><|system|>"
        )
        data = DetectionDataModule(MadeUpSource(Given(benchmark_), Texts(CALM)))
        module = SimpleNamespace(tokenizer=tokenizer, pending=[("a detector", part) for part in ("concepts", "scored")])
        data.trainer = SimpleNamespace(world_size=1, global_rank=0, lightning_module=module)
        ends = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|system|>"])
        for loader in data.test_dataloader():
            assert all(ids[-2:] == ends for ids in prompts(list(loader)).values())

    def test_without_a_source(self, serve):
        with pytest.raises(ValueError, match="asks for concepts, but MadeUpSource has none"):
            serve("concepts")

    def test_texts_that_are_too_long(self, serve, tiny_tokenizer, caplog):
        long = dataclasses.replace(CALM, opposites=(*CALM.opposites, "You run. " * 200))
        with caplog.at_level("INFO"):
            _, (batches,) = serve("concepts", concepts=Texts(long), max_tokens=400)
        assert sorted(prompts(batches)) == list(range(5))
        assert "1 of 6 texts of concepts are over max_tokens=400: left out" in caplog.text
        longer = dataclasses.replace(CALM, examples=("You wait.", "You wait. " * 200))
        message = "max_tokens is 400, but only 1 of the 2 examples of concept 'calm' are that short"
        with pytest.raises(ValueError, match=message):
            serve("concepts", concepts=Texts(longer), max_tokens=400)


@pytest.mark.parametrize("name", ["batch_size", "max_tokens"])
def test_sizes_that_are_refused(benchmark_, name):
    with pytest.raises(ValueError, match=f"{name} is 0, but must be 1 or more"):
        DetectionDataModule(MadeUpSource(Given(benchmark_)), **{name: 0})


def test_fingerprint_follows_what_evidence_depends_on(benchmark_):
    def fingerprint(concepts=None, **options):
        return DetectionDataModule(MadeUpSource(Given(benchmark_), concepts), **options).source_fingerprint()

    assert fingerprint() == fingerprint(batch_size=3)
    changed = [fingerprint(max_tokens=9), fingerprint(seed=1), fingerprint(concepts=Texts(CALM))]
    assert all(one != fingerprint() for one in changed)
