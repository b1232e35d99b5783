"""What probes found, made up: three models, two questions, four layers."""

from __future__ import annotations

from fa_lightning.studies.probes.result import Best, JudgedQuestion, Labelled, ProbesResult, Reading, ViewName

SUBJECTS = ["base", "02_aligned", "<faking>"]
VIEWS: dict[str, tuple[ViewName, ...]] = {"oversight": ("prompt",), "action": ("prompt", "pairs")}


def reading(
    subject: str, question: str, view: ViewName, probe: str, layer: int, accuracy: float, control: bool = False
) -> Reading:
    site = "" if layer < 0 else f"layers.{layer}.residual"
    ends = (accuracy - 0.04, accuracy + 0.03)
    nan = float("nan")
    role = "control" if control else "probe"
    return Reading(
        subject,
        question,
        view,
        probe,
        role,
        site,
        layer,
        accuracy,
        ends,
        accuracy,
        ends,
        nan if control else 0.02,
        accuracy,
    )


def made_up_probes(subjects: list[str] = SUBJECTS, ccs: float = 0.9) -> ProbesResult:
    """Probes whose accuracy rises with the layer; `ccs` is that of CCS at the last one."""
    readings, best, efficiency = [], [], []
    for subject in subjects:
        for question, views in VIEWS.items():
            for view in views:
                place = (subject, question, view)
                for layer in range(4):
                    rise = 0.1 * layer
                    readings.append(reading(*place, "logistic", layer, 0.62 + rise))
                    readings.append(reading(*place, "mass-mean", layer, 0.6 + rise))
                    readings.append(reading(*place, "logistic, random labels", layer, 0.5, control=True))
                    if view == "pairs":
                        readings.append(reading(*place, "CCS", layer, ccs - 0.3 + rise))
                        readings.append(reading(*place, "random direction", layer, 0.56, control=True))
                readings.append(reading(*place, "bag of words", -1, 0.52, control=True))
                best.append(Best(*place, "layers.3.residual"))
                for probe in ("logistic", "CCS")[: 1 + (view == "pairs")]:
                    efficiency += [Labelled(*place, probe, count, 0.6, (0.5, 0.7)) for count in (8, 64, 300)]
    questions = [
        JudgedQuestion("oversight", "whether oversight is poor", 300, 40, 80, 41),
        JudgedQuestion("action", "which letter is the aligned action", 300, 40, 80, 41),
    ]
    sites = [f"layers.{layer}.residual" for layer in range(4)]
    rules = {"CCS": "consistent", "bag of words": "words"}
    return ProbesResult(subjects, sites, questions, readings, best, efficiency, rules, {"source": "made up"})
