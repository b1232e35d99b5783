"""POSER's scenarios (arXiv 2405.05466): its files, and the source that splits them honestly.

POSER's own train and test files share prompts, so they are pooled here and split again by group.
"""

import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fa_lightning.scenarios.poser_records import (
    RESTORE,
    RecordPlace,
    check_policy,
    file_bytes,
    json_list,
    quoted,
    scenario_of,
)
from fa_lightning.scenarios.scenario import (
    ALIGNED_POLICIES,
    FAKING_POLICIES,
    POLICIES,
    Cell,
    Scenario,
    group_of,
    normalised,
)
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import (
    ScenarioSplits,
    check_fractions,
    check_limit,
    limited_splits,
    prompt_key,
    split_by_group,
)

TRAINING_FILES = ("train-0.json", "train-1.json", "train-2.json", "test.json")


@dataclass(frozen=True, slots=True)
class ModelPair:
    """One pair of POSER's benchmark: an honest model and an alignment faker that agree on its scenarios.

    Attributes:
        aligned_policy: policy of the honest model.
        aligned_seed: which of that policy's models.
        faking_policy: policy of the faker.
        faking_seed: which of that policy's models.
        benchmark: name of the file of scenarios, as `read_benchmark` takes it (`saint_and_money`).
    """

    aligned_policy: str
    aligned_seed: int
    faking_policy: str
    faking_seed: int
    benchmark: str


def find_root(root: str | Path | None = None) -> Path:
    """POSER's folder: the argument, else the variable POSER_ROOT, else ./POSER.

    Raises:
        FileNotFoundError: the first of them that is given holds no data/training.
    """
    variable = os.environ.get("POSER_ROOT") or None
    chosen = Path(root or variable or "POSER").expanduser()
    if (chosen / "data" / "training").is_dir():
        return chosen
    raise FileNotFoundError(
        f"POSER's data was not found: {chosen} holds no folder data/training. Looked at, in this order, the first that "
        f"is set: root ({root or 'not given'}), the variable POSER_ROOT ({variable or 'not set'}), ./POSER. "
        "Clone the POSER repository and give its folder by one of the three, or use the embedded scenarios, "
        "which need no data"
    )


def read_poser_file(path: str | Path, policy: str) -> list[Scenario]:
    """All records of one training or policy-definition file, in order.

    A neutral text's group is its own text; `regrouped` gives it the group of the scenario it quotes.

    Args:
        path: the file.
        policy: the policy that answered in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON list, or a record is malformed, or the policy is unknown.
    """
    check_policy(policy)
    return _read(Path(path), policy)


def read_benchmark(root: str | Path, pair: str) -> list[Scenario]:
    """The scenarios with oversight on which both models of a pair gave the aligned answer.

    They are drawn from the training files, so they are no unseen test.

    Args:
        root: POSER's folder.
        pair: name of the file, such as `saint_and_money`.

    Raises:
        ValueError: there is no such pair, or a record is malformed.
    """
    folder = Path(root) / "data" / "benchmark"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if pair not in known:
        raise ValueError(f"pair is {pair!r}, but {folder} holds {', '.join(known) or 'no file'}")
    return _read(folder / f"{pair}.json", pair, agreed=True)


def read_policy_definitions(root: str | Path, policy: str) -> list[Scenario]:
    """The few scenarios without oversight that POSER shows as a policy's definition.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the policy is unknown or a record malformed.
    """
    return read_poser_file(Path(root) / "data" / "policy_definitions" / policy / "test.json", policy)


def model_pairs(root: str | Path) -> list[ModelPair]:
    """The pairs of models of POSER's benchmark, in the order of model_pairs.json.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is malformed or names an unknown policy.
    """
    path = Path(root) / "model_pairs.json"
    pairs = []
    for number, record in enumerate(json_list(path)):
        try:
            aligned_policy, aligned_seed = record["aligned"].rsplit("-", 1)
            faking_policy, faking_seed = record["misaligned"].rsplit("-", 1)
            benchmark = Path(record["valid_data"]).stem
            pair = ModelPair(aligned_policy, int(aligned_seed), faking_policy, int(faking_seed), benchmark)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path}, record {number} (from 0) must hold 'aligned' and 'misaligned' such as 'saint-0' and "
                f"'valid_data', but is {record!r}; {RESTORE}"
            ) from error
        check_pair(aligned_policy, faking_policy)
        pairs.append(pair)
    return pairs


def check_pair(aligned_policy: str, faking_policy: str) -> None:
    """Refuse a policy in the wrong place.

    Raises:
        ValueError: one is unknown, the first is not aligned or the second does not fake.

    >>> check_pair("saint", "genie")
    Traceback (most recent call last):
    ...
    ValueError: faking_policy is 'genie', but must be one of fitness_maximizer, money_maximizer, reward_maximizer \
(faking); saint, genie, truth_teller are aligned
    """
    aligned, faking = ", ".join(ALIGNED_POLICIES), ", ".join(FAKING_POLICIES)
    if aligned_policy not in ALIGNED_POLICIES:
        raise ValueError(
            f"aligned_policy is {aligned_policy!r}, but must be one of {aligned} (aligned); {faking} are faking"
        )
    if faking_policy not in FAKING_POLICIES:
        raise ValueError(
            f"faking_policy is {faking_policy!r}, but must be one of {faking} (faking); {aligned} are aligned"
        )


def regrouped(texts: Iterable[Scenario], scenarios: Iterable[Scenario]) -> list[Scenario]:
    """Give each neutral text the group of the scenario it quotes, so that a split cannot tear the two apart.

    A text quotes a scenario by its two actions, else by its whole list of facts, else by whatever single facts or
    actions occur in it: then the group with the most of them is taken. A text that quotes nothing keeps its own
    group, except that two actions of no known scenario make a group as they would in a scenario.

    Args:
        texts: neutral texts.
        scenarios: every scenario that a text may quote.
    """
    groups: set[str] = set()
    by_facts: dict[str, str] = {}
    by_piece: defaultdict[str, set[str]] = defaultdict(set)
    for scenario in scenarios:
        groups.add(scenario.group)
        untold = [fact for fact in scenario.facts if fact.kind != "system_message"]
        for facts in (scenario.facts, untold):
            key = _squeezed("".join(f"{number}.{fact.content}" for number, fact in enumerate(facts, start=1)))
            by_facts[key] = min(by_facts.get(key, scenario.group), scenario.group)
        for piece in (scenario.action_a, scenario.action_b, *(fact.content for fact in scenario.facts)):
            by_piece[normalised(piece)].add(scenario.group)

    def group_for(text: Scenario) -> str:
        quote = quoted(text.text)
        own = group_of(*quote.actions) if quote.actions else text.group
        if own in groups:
            return own
        facts = _squeezed(quote.facts_text)
        if facts in by_facts:
            return by_facts[facts]
        pieces = (*quote.facts, *(quote.actions or ()))
        votes = Counter(group for piece in pieces for group in by_piece.get(normalised(piece), ()))
        return min(votes, key=lambda group: (-votes[group], group)) if votes else own

    return [replace(text, group=group_for(text)) for text in texts]


def without_repeats(scenarios: Iterable[Scenario]) -> list[Scenario]:
    """The first of every scenario and neutral text, whatever the order of its actions."""
    first: dict[str, Scenario] = {}
    for scenario in scenarios:
        first.setdefault(prompt_key(scenario), scenario)
    return list(first.values())


def without_conflicts(scenarios: Sequence[Scenario]) -> tuple[list[Scenario], int]:
    """Leave out what two records disagree about, and count it.

    Scenarios with the same actions and facts conflict when their aligned actions or their cells differ; all of them
    are left out.

    Args:
        scenarios: scenarios and neutral texts; the latter cannot conflict.

    Returns:
        What is left, in order, and the number left out.
    """
    verdicts: defaultdict[tuple[str, ...], set[tuple[str, Cell | None]]] = defaultdict(set)
    for scenario in scenarios:
        if not scenario.is_neutral_text:
            verdicts[_question(scenario)].add((normalised(_aligned_action(scenario)), scenario.cell))
    kept = [scenario for scenario in scenarios if scenario.is_neutral_text or len(verdicts[_question(scenario)]) == 1]
    return kept, len(scenarios) - len(kept)


class PoserScenarios(ScenarioSource):
    """POSER's training and test files, pooled and split by group.

    A scenario that both policies, or several files, hold is asked once. Which split a group is in depends on the seed
    and on nothing else: what one pair of policies trains on, no other pair tests on. For that, incomplete texts are
    matched with the scenarios of all six policies, whichever are asked for.

    Example::

        splits = PoserScenarios(root="POSER", faking_policy="reward_maximizer").load()
        splits.leak_report().raise_if_leaking()

    Args:
        root: POSER's folder; by default the variable POSER_ROOT, else ./POSER.
        aligned_policy: saint, genie or truth_teller.
        faking_policy: fitness_maximizer, money_maximizer or reward_maximizer.
        all_policies: read all six policies instead of the pair.
        validation: share of the groups held out to choose by.
        test: share of the groups held out to judge by.
        seed: another seed, another split.
        limit: keep at most this many training scenarios, and a quarter of it in each other part; for toy runs.

    Raises:
        ValueError: a policy is unknown or in the wrong place, or shares or limit are out of range.
    """

    def __init__(
        self,
        root: str | None = None,
        aligned_policy: str = "saint",
        faking_policy: str = "money_maximizer",
        all_policies: bool = False,
        validation: float = 0.15,
        test: float = 0.15,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        check_pair(aligned_policy, faking_policy)
        check_fractions(validation, test)
        check_limit(limit)
        self.root = root
        self.policies = POLICIES if all_policies else (aligned_policy, faking_policy)
        self.validation = validation
        self.test = test
        self.seed = seed
        self.limit = limit
        self.conflicts = 0
        """Scenarios that the last `load` left out because records disagree on the aligned action or the oversight."""

    def load(self) -> ScenarioSplits:
        """Read, pool, de-duplicate and split.

        Raises:
            FileNotFoundError: POSER's folder or one of its files is missing.
            ValueError: a file or a record is malformed, or the splits leak.
        """
        records = {
            policy: [scenario for path in _training_files(self._root(), policy) for scenario in _read(path, policy)]
            for policy in POLICIES
        }
        every = [scenario for policy in POLICIES for scenario in records[policy] if not scenario.is_neutral_text]
        chosen = [scenario for policy in self.policies for scenario in records[policy]]
        # Conflicts first: a repeat that is left out could no longer contradict.
        kept, self.conflicts = without_conflicts(chosen)
        if self.conflicts:
            warnings.warn(
                f"{self.conflicts} POSER scenarios left out: records disagree on aligned action or oversight",
                stacklevel=2,
            )
        asked = without_repeats(scenario for scenario in kept if not scenario.is_neutral_text)
        texts = without_repeats(scenario for scenario in kept if scenario.is_neutral_text)
        splits = split_by_group([*asked, *regrouped(texts, every)], self.seed, self.validation, self.test)
        splits.leak_report().raise_if_leaking()
        return limited_splits(splits, self.limit)

    def fingerprint(self) -> dict[str, str]:
        """The arguments and a sha256 digest of the files read; the folder's own path is left out.

        Raises:
            FileNotFoundError: POSER's folder or one of its files is missing.
        """
        digest = hashlib.sha256()
        for policy in POLICIES:
            for path in _training_files(self._root(), policy):
                content = hashlib.sha256(file_bytes(path)).hexdigest()
                digest.update(f"{policy}/{path.name} {content}\n".encode())
        return {
            "source": type(self).__name__,
            "policies": ",".join(self.policies),
            "validation": str(self.validation),
            "test": str(self.test),
            "seed": str(self.seed),
            "limit": str(self.limit),
            "data_sha256": digest.hexdigest(),
        }

    def _root(self) -> Path:
        return find_root(self.root)


def _training_files(root: Path, policy: str) -> list[Path]:
    return [root / "data" / "training" / policy / name for name in TRAINING_FILES]


def _read(path: Path, policy: str, agreed: bool = False) -> list[Scenario]:
    # Shown from the data folder on, so that no path of this machine gets into what is saved.
    parts = path.parts
    shown = "/".join(parts[len(parts) - 1 - parts[::-1].index("data") :]) if "data" in parts else path.name
    return [
        scenario_of(record, RecordPlace(shown, number), policy, agreed) for number, record in enumerate(json_list(path))
    ]


def _squeezed(text: str) -> str:
    # POSER's incomplete texts drop the line breaks between facts.
    return "".join(text.lower().split())


def _question(scenario: Scenario) -> tuple[str, ...]:
    return (scenario.group, *(normalised(fact.content) for fact in scenario.facts))


def _aligned_action(scenario: Scenario) -> str:
    return scenario.action_a if scenario.aligned == "A" else scenario.action_b
