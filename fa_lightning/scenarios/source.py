"""Where scenarios come from: the one interface that every source of them keeps."""

from abc import ABC, abstractmethod

from fa_lightning.scenarios.splits import ScenarioSplits


class ScenarioSource(ABC):
    """Loads or generates scenarios, split so that no group is in two splits.

    A subclass is configured from the command line by the typed arguments of its `__init__`, which should only check and
    keep them: reading waits for `load`, so that a config is parsed without its data.
    """

    @abstractmethod
    def load(self) -> ScenarioSplits:
        """The scenarios; the same ones in the same order at every call and on every machine."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What the scenarios depend on: the arguments and a digest of the data read, but no path of this machine.

        Artefacts made from the scenarios keep it, and are refused where it differs.
        """
