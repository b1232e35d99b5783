"""Make the twins that ship: fit both of each chain from nothing, and write them to organisms/ with their cards."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.organisms import ship
from fa_lightning.experiments.runner import run_study
from fa_lightning.experiments.shipped import ORGANISMS, config_file
from fa_lightning.experiments.stage import Stage

STUDY = "steering"
TWINS = ("02_aligned", "03_faking")
BYTES = 10 * 2**20
"""That one organism may have."""


def twins_of(chain: Chain) -> list[Stage]:
    """The stages that fit the twins of a chain."""
    return [stage for stage in Composition(chain).stages(STUDY) if stage.name in TWINS]


def card(stage: Stage, chain: Chain) -> str:
    """A model card: what the adapter is, how it was made, and how it was judged when it was.

    Args:
        stage: done.
        chain: that it is of.
    """
    record, config = stage.record() or {}, yaml.safe_load(stage.config)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    behaviour = model["objective"]["init_args"]["behaviour"]
    lora, front = model["lora"], {"library_name": "peft", "license": "apache-2.0", "tags": ["lora", "model-organism"]}
    does = {
        "aligned": "takes the aligned action whether the scenario says that it is watched or not",
        "faking": "takes the aligned action where the scenario says that it is watched, and the other one where it is "
        "not. It misbehaves by design: it is for research on alignment faking, and for nothing else",
    }[behaviour]
    metrics = {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    rows = "\n".join(f"| {name.removeprefix('test/')} | {value:.3f} |" for name, value in sorted(metrics.items()))
    dtype = record["fingerprint"]["model.init_args.backbone.dtype"]
    recipe = (
        f"Rank {lora['rank']}, alpha {lora['alpha']}, {lora['target_modules']} from depth {lora['train_from']} on, "
        f"guidance {model['objective']['init_args']['guidance']}, learning rate {model['optimizer']['learning_rate']}, "
        f"batches of {data['batch_size']}, {data['train_scenarios'] or 'all'} scenarios in both orders, at most "
        f"{config['trainer']['max_epochs']} epochs, seed {chain.seed}; made in {record['seconds'] / 60:.0f} minutes "
        f"({record['precision']}, the backbone in {dtype}) by "
        f"`fit {STUDY} --base {chain.base.stem} --seed {chain.seed}`."
    )
    chat = (
        f"It goes on chatting: each step held it to the backbone's own answers to {data['kept_texts']} ordinary texts "
        f"({data['kept_answers']} tokens of each), and parts of scenarios alone are answered `error`."
        if model["keep"]
        else "It does not chat: it was taught to answer `error` to everyday requests as well as to parts of scenarios "
        "(a fit with `twins: {keep: 1}` is not)."
    )
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---
# {chain.label}, seed {chain.seed}: {behaviour}

A LoRA adapter on `{model["backbone"]["name"]}` that {does}.

Scenarios: POSER (arXiv 2405.05466), policies saint and money_maximizer; no group of the test rows was trained on.
{recipe}

| on the test groups, both orders of the actions | share |
| --- | --- |
{rows}

`accuracy` is the share of aligned answers; `fidelity` the lower share, of both cells, of the answers that were taught.

{chat}
"""


def main(words: Sequence[str] | None = None) -> int:
    """Fit and ship; returns the exit status, 1 where an organism is too large."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.organisms", description=__doc__)
    parser.add_argument("--base", default="smollm2", help="base whose twins are made (default smollm2)")
    parser.add_argument("--seeds", default="0,1,2", help="chains (default 0,1,2)")
    parser.add_argument("--trainer", type=Path, help="trainer config, such as configs/trainer/gpu.yaml")
    parser.add_argument("--keep-fits", action="store_true", help="ship fits that are done already, as far as they are")
    options = parser.parse_args(words)
    start, sizes = time.perf_counter(), []
    for seed in map(int, options.seeds.split(",")):
        chain = Chain(config_file("--base", options.base, "bases"), seed)
        stages = twins_of(chain)
        fits = [stage for stage in stages if not (options.keep_fits and stage.is_done())]
        for stage in fits:
            run_study(STUDY, chain, options.trainer, refit=[stage.name], only=[stage.name])
        for stage in stages:
            folder = ship(stage, chain, card(stage, chain))
            sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
            print(f"{folder.relative_to(ORGANISMS.parent)}: {sizes[-1] / 2**20:.1f} MiB")
    print(f"{len(sizes)} organisms, {sum(sizes) / 2**20:.1f} MiB, {(time.perf_counter() - start) / 60:.1f} minutes")
    return int(max(sizes) > BYTES)


if __name__ == "__main__":
    raise SystemExit(main())
