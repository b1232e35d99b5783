"""POSER's files (arXiv 2405.05466): where they are, and what is read from each kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.poser.records import RESTORE, RecordLocation, check_policy, json_list, scenario_of
from fa_lightning.scenarios.scenario import ALIGNED_POLICIES, FAKING_POLICIES, Scenario

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

    @property
    def names(self) -> tuple[str, str]:
        """The two models as POSER calls them: `saint-0`, `money_maximizer-3`."""
        return f"{self.aligned_policy}-{self.aligned_seed}", f"{self.faking_policy}-{self.faking_seed}"


def find_root(root: str | Path | None = None) -> Path:
    """POSER's folder: the argument, else the variable POSER_ROOT, else ./POSER.

    Raises:
        MissingFileError: the first of them that is given holds no data/training.
    """
    variable = os.environ.get("POSER_ROOT") or None
    chosen = Path(root or variable or "POSER").expanduser()
    if (chosen / "data" / "training").is_dir():
        return chosen
    raise MissingFileError(
        f"POSER's data was not found: {chosen} holds no folder data/training. Looked at, in this order, the first that "
        f"is set: root ({root or 'not given'}), the variable POSER_ROOT ({variable or 'not set'}), ./POSER. "
        "Clone it (https://github.com/sevdeawesome/POSER) and give its folder by one of the three, or use the embedded "
        "scenarios, which need no data"
    )


def training_files(root: Path, policy: str) -> list[Path]:
    """The files of a policy's training and test scenarios, in the order they are pooled."""
    return [root / "data" / "training" / policy / name for name in TRAINING_FILES]


def benchmark_names(root: Path) -> list[str]:
    """The policy pairs that POSER's folder holds scenarios of, sorted.

    Raises:
        MissingFileError: there are none.
    """
    folder = root / "data" / "benchmark"
    names = sorted(path.stem for path in folder.glob("*.json"))
    if not names:
        raise MissingFileError(
            f"{folder} holds no policy pair's scenarios (saint_and_money.json and others); {RESTORE}"
        )
    return names


def read_poser_file(path: str | Path, policy: str) -> list[Scenario]:
    """All records of one training or policy-definition file, in order.

    A neutral text's group is its own text; `regrouped` gives it the group of the scenario it quotes.

    Args:
        path: the file.
        policy: the policy that answered in it.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is no JSON list, or a record is malformed, or the policy is unknown.
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
        UserError: there is no such pair, or a record is malformed.
    """
    folder = Path(root) / "data" / "benchmark"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if pair not in known:
        raise UserError(f"pair is {pair!r}, but {folder} holds {', '.join(known) or 'no file'}")
    return _read(folder / f"{pair}.json", pair, agreed=True)


def policy_definition_file(root: str | Path, policy: str) -> Path:
    """Where the scenarios stand that POSER shows as a policy's definition."""
    return Path(root) / "data" / "policy_definitions" / policy / "test.json"


def read_policy_definitions(root: str | Path, policy: str) -> list[Scenario]:
    """The few scenarios without oversight that POSER shows as a policy's definition.

    Raises:
        MissingFileError: the file is missing.
        UserError: the policy is unknown or a record malformed.
    """
    return read_poser_file(policy_definition_file(root, policy), policy)


def model_pairs_file(root: str | Path) -> Path:
    """Where the pairs of models of POSER's benchmark stand."""
    return Path(root) / "model_pairs.json"


def model_pairs(root: str | Path) -> list[ModelPair]:
    """The pairs of models of POSER's benchmark, in the order of model_pairs.json.

    Raises:
        MissingFileError: the file is missing.
        UserError: it is malformed or names an unknown policy.
    """
    path = model_pairs_file(root)
    pairs = []
    for number, record in enumerate(json_list(path)):
        try:
            aligned_policy, aligned_seed = record["aligned"].rsplit("-", 1)
            faking_policy, faking_seed = record["misaligned"].rsplit("-", 1)
            benchmark = Path(record["valid_data"]).stem
            pair = ModelPair(aligned_policy, int(aligned_seed), faking_policy, int(faking_seed), benchmark)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{path}, record {number} (from 0) must hold 'aligned' and 'misaligned' such as 'saint-0' and "
                f"'valid_data', but is {record!r}; {RESTORE}"
            ) from error
        check_pair(aligned_policy, faking_policy)
        pairs.append(pair)
    return pairs


def check_pair(aligned_policy: str, faking_policy: str) -> None:
    """Refuse a policy in the wrong place.

    Raises:
        UserError: one is unknown, the first is not aligned or the second does not fake.

    >>> check_pair("saint", "genie")
    Traceback (most recent call last):
    ...
    fa_lightning.errors.UserError: faking_policy is 'genie', but must be one of fitness_maximizer, money_maximizer, \
reward_maximizer (faking); saint, genie, truth_teller are aligned
    """
    aligned, faking = ", ".join(ALIGNED_POLICIES), ", ".join(FAKING_POLICIES)
    if aligned_policy not in ALIGNED_POLICIES:
        raise UserError(
            f"aligned_policy is {aligned_policy!r}, but must be one of {aligned} (aligned); {faking} are faking"
        )
    if faking_policy not in FAKING_POLICIES:
        raise UserError(
            f"faking_policy is {faking_policy!r}, but must be one of {faking} (faking); {aligned} are aligned"
        )


def _read(path: Path, policy: str, agreed: bool = False) -> list[Scenario]:
    # Shown from the data folder on, so that no path of this machine gets into what is saved.
    folders = path.parts
    name = "/".join(folders[len(folders) - 1 - folders[::-1].index("data") :]) if "data" in folders else path.name
    return [
        scenario_of(record, RecordLocation(name, number), policy, agreed)
        for number, record in enumerate(json_list(path))
    ]
