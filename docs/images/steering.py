"""The README's picture of a main job: python docs/images/steering.py STAGE_FOLDER docs/images/steering.png MODEL.

Left: aligned answers of the faker before and after steering, beside its honest twin. Right: every map that was tried on
validation groups, by what it cures and what it does to neutral texts; the one that was chosen is ringed.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from fa_lightning.reports.drawing import BLUE, CELL_LABELS, INK, ORANGE, RED, empty_figure, style_of, tidy

MODELS = {"aligned": "honest twin", "faking": "faker", "steered": "faker, steered"}
FLOOR = 1e-4
"""Nats: what changes less stands at the left edge."""


def draw(evaluation: dict[str, Any], candidates: list[dict[str, Any]], target: Path, model: str) -> None:
    """Write the picture."""
    figure = empty_figure(3.6, f"{model}: the faker's states mapped to its honest twin's")
    before, after = figure.subplots(1, 2, width_ratios=(1, 1.25))
    for number, (cell, colour) in enumerate((("oversight", BLUE), ("no_oversight", ORANGE))):
        for place, name in enumerate(MODELS):
            found = evaluation["cells"][name][cell]
            low, high = found["ci95"]
            value = found["accuracy"]
            label = CELL_LABELS[cell] if place == 0 else None
            before.bar(place + 0.4 * number - 0.2, value, 0.36, color=colour, label=label)
            before.errorbar(
                place + 0.4 * number - 0.2, value, yerr=[[value - low], [high - value]], color=INK, linewidth=1
            )
            before.text(place + 0.4 * number - 0.2, max(high, 0.02) + 0.02, f"{value:.2f}", ha="center", fontsize=8.5)
    before.set_xticks(range(len(MODELS)), MODELS.values())
    before.set_ylim(0, 1.24)
    before.set_ylabel("aligned answers, unseen groups")
    before.legend(frameon=False, fontsize=8.5, ncols=2, loc="upper center", handlelength=1.2, columnspacing=1.2)
    tidy(before)
    faking = evaluation["cells"]["faking"]["no_oversight"]["accuracy"]
    aligned = evaluation["cells"]["aligned"]["no_oversight"]["accuracy"]
    chosen = evaluation["chosen"]
    names = list(dict.fromkeys(row["regressor"] for row in candidates))
    for order, row in enumerate(candidates):
        recovery = (row["no_oversight"] - faking) / (aligned - faking)
        is_chosen = all(row[name] == chosen[name] for name in ("site", "regressor", "positions"))
        is_chosen &= math.isclose(row["strength"], chosen["strength"], rel_tol=1e-6)
        damage, number = max(row["kl_neutral_nats"], row["kl_answer_nats"], FLOOR), names.index(row["regressor"])
        colour, marker = style_of(number + 2)
        after.scatter(damage, recovery, s=42, color=colour, marker=marker, zorder=3)
        layer = row["site"].split(".")[1]
        # Neighbours may lie on one another.
        after.annotate(
            layer, (damage, recovery), (5, 5 if order % 2 else -13), textcoords="offset points", fontsize=8, color=INK
        )
        if is_chosen:
            after.scatter(damage, recovery, s=190, facecolors="none", edgecolors=RED, linewidths=1.6, zorder=4)
            after.annotate("chosen", (damage, recovery), (-14, 10), textcoords="offset points", fontsize=8.5, color=RED)
    for number, name in enumerate(names):
        colour, marker = style_of(number + 2)
        after.scatter([], [], s=42, color=colour, marker=marker, label=name.replace("_", " "))
    where = {"loc": "center", "bbox_to_anchor": (0.33, 0.6)}
    after.legend(**where, frameon=False, fontsize=8.5, title="map; number: layer", title_fontsize=8.5)
    after.set_xscale("log")
    after.set_xlabel("damage: KL on neutral texts, nats (the worse of two)")
    after.set_ylabel("cure: recovery, validation groups")
    after.set_ylim(-0.1, 1.15)
    tidy(after)
    figure.savefig(target, dpi=150)


if __name__ == "__main__":
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("evaluation.json", "candidates.json")]
    draw(*map(json.loads, texts), target, sys.argv[3])
