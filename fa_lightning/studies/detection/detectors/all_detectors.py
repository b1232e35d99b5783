"""All strategies that ship, so that `--help` names them; a config may name any other `Detector` by its class path."""

from fa_lightning.studies.detection.detectors.adapter_spectra import AdapterSpectra
from fa_lightning.studies.detection.detectors.attentiveness import Attentiveness
from fa_lightning.studies.detection.detectors.base import Detector
from fa_lightning.studies.detection.detectors.decision_depth import DecisionDepth
from fa_lightning.studies.detection.detectors.induced_belief import InducedBelief
from fa_lightning.studies.detection.detectors.misbehave_finetuning import MisbehaveFinetuning
from fa_lightning.studies.detection.detectors.noise import Noise
from fa_lightning.studies.detection.detectors.oversight_probe import OversightProbe
from fa_lightning.studies.detection.detectors.poser_noise import PoserNoise
from fa_lightning.studies.detection.detectors.suspicious_concepts import SuspiciousConcepts
from fa_lightning.studies.detection.detectors.translator_distance import TranslatorDistance
from fa_lightning.studies.detection.detectors.weight_noise import WeightNoise

STRATEGIES: tuple[type[Detector], ...] = (
    InducedBelief,
    PoserNoise,
    Noise,
    MisbehaveFinetuning,
    SuspiciousConcepts,
    DecisionDepth,
    Attentiveness,
    WeightNoise,
    OversightProbe,
    TranslatorDistance,
    AdapterSpectra,
)
"""POSER's six, in its order, with noise of equal norms behind POSER's own, and ours."""
