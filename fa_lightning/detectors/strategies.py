"""All strategies that ship, so that `--help` names them; a config may name any other `Detector` by its class path."""

from fa_lightning.detectors.adapter_spectra import AdapterSpectra
from fa_lightning.detectors.attentiveness import Attentiveness
from fa_lightning.detectors.base import Detector
from fa_lightning.detectors.decision_depth import DecisionDepth
from fa_lightning.detectors.induced_belief import InducedBelief
from fa_lightning.detectors.misbehave_finetuning import MisbehaveFinetuning
from fa_lightning.detectors.noise import Noise
from fa_lightning.detectors.oversight_probe import OversightProbe
from fa_lightning.detectors.suspicious_concepts import SuspiciousConcepts
from fa_lightning.detectors.translator_distance import TranslatorDistance
from fa_lightning.detectors.weight_noise import WeightNoise

STRATEGIES: tuple[type[Detector], ...] = (
    InducedBelief,
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
"""POSER's six, in its order, and ours."""
