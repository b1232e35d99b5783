"""What is in logs: the scalars of TensorBoard, of CSVLogger and of a run that W&B has kept on the disk."""

import csv
import json
import time
from collections import defaultdict
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BLOCK = 32768
"""Bytes of a block of W&B's file, a LevelDB log."""


def in_tensorboard(folder):
    """Name -> [(step, value)], of charts; and the texts, name -> their Markdown in the order of their steps."""
    log = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0})
    log.Reload()
    tags = log.Tags()
    charts = {name: [(point.step, point.value) for point in log.Scalars(name)] for name in tags["scalars"]}
    texts = {
        name.removesuffix("/text_summary"): [event.tensor_proto.string_val[0].decode() for event in log.Tensors(name)]
        for name in tags["tensors"]
    }
    return charts, texts


def values_in(texts):
    """Name -> value, of the tables of what has one value."""
    values = {}
    for title, tables in texts.items():
        group = title.removesuffix("values")
        if title.endswith("values"):
            for row in tables[-1].splitlines()[2:]:
                name, value = (part.strip() for part in row.strip("|").split("|"))
                values[group + name] = float(value)
    return values


def in_csv(folder):
    """Name -> [(step, value)]."""
    points = defaultdict(list)
    with (Path(folder) / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step":
                    points[name].append((int(row["step"]), float(value)))
    return dict(points)


def in_wandb(folder):
    """Name -> [(step, value)], of the one run below a folder."""
    from wandb.proto import wandb_internal_pb2

    (path,) = Path(folder).rglob("run-*.wandb")
    # W&B's own process may write the end of the file a moment after the run has ended.
    patience = time.monotonic() + 60
    records: list = []
    while time.monotonic() < patience and not any(record.HasField("exit") for record in records):
        records = [wandb_internal_pb2.Record.FromString(content) for content in _records(path.read_bytes())]
        time.sleep(0.1)
    points = defaultdict(list)
    for record in records:
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        step = row.pop("trainer/global_step", None)
        for name, value in row.items():
            if not name.startswith("_") and isinstance(value, (int, float)):
                points[name].append((step, value))
    return dict(points)


def _records(content):
    """The records of a LevelDB log behind W&B's seven bytes: checksum, length, part (1 whole, 2 first, 4 last)."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, part = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):
            yield parts
            parts = b""
