"""Rows of the table of cures: what is known of each before it is judged, as points of a figure, and flat for a CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fa_lightning.metrics.cure_figures import Point
from fa_lightning.scenarios.scenario import CELLS


@dataclass(frozen=True)
class Line:
    """What is known of a row before anything is counted.

    Attributes:
        method: its name.
        kind: `reference`, `steering`, `adapter`, `input` or `baseline`.
        needs: what it takes to make the cure (see `Need`).
        training_seconds: what making it took; None where nothing is trained or it is not known.
        training_prompts: prompts that it was made from, if known.
        run: writes some tokens under it, for the clock; None where there is nothing to run.
        extra_tokens: put around a prompt, on average.
        transfer: by other faker, the label of the same cure there.
    """

    method: str
    kind: str
    needs: Sequence[str] = ()
    training_seconds: float | None = None
    training_prompts: int | None = None
    run: Callable[[], Any] | None = None
    extra_tokens: float = 0.0
    transfer: Mapping[str, str] | None = None


def method_of(stage: str) -> str:
    """What an adapter is called that does not say: its stage's name.

    >>> method_of("08_self_training"), method_of("noisy-0")
    ('self training', 'noisy-0')
    """
    return stage.lstrip("0123456789").replace("_", " ").strip() or stage


def stage_seconds(folder: Path) -> float | None:
    """What the stage took that an artefact lies in, by its record; None where there is none."""
    record = folder.parent / "stage.json"
    if not record.is_file():
        return None
    seconds = json.loads(record.read_text()).get("seconds")
    return None if seconds is None else float(seconds)


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `cures.json` as CSV; not every cure was tried on the other fakers, but all rows have the columns."""
    records = [flat_record(row) for row in rows]
    columns = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def points_of(rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Method, kind, KL, recovery and its interval of each row: what the figure shows."""
    nan = float("nan")
    return [
        (
            row["method"],
            row["kind"],
            row.get("kl_neutral_nats", nan),
            row["recovery"]["value"],
            (row["recovery"]["ci95"][0], row["recovery"]["ci95"][1]),
        )
        for row in rows
    ]


def flat_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `cures.json` with plain values alone: intervals and transfers as columns of their own."""
    record: dict[str, Any] = {name: row[name] for name in ("method", "kind")}
    record["needs"] = " ".join(row["needs"])
    record |= _columns("recovery", row["recovery"])
    for cell in CELLS:
        score = row["cells"][cell]
        record |= _columns(cell, {"value": score["accuracy"], "ci95": score["ci95"]})
        record[f"{cell}_n"] = row["n"][cell]
    for name in ("kl_neutral_nats", "perplexity_ratio", "format_validity", "training_seconds", "training_prompts"):
        record[name] = row.get(name)
    record |= {name: row.get(name) for name in ("extra_tokens", "relative_time")}
    for faker, estimate in row["transfer"].items():
        record |= _columns(f"transfer_{faker}", estimate)
    return record


def _columns(name: str, estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {name: estimate["value"], f"{name}_low": estimate["ci95"][0], f"{name}_high": estimate["ci95"][1]}
