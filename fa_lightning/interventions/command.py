"""`python -m fa_lightning generate`: steered beside unsteered text, from the artefacts of a finished experiment."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """Generate and print; returns the exit status."""
    options = _parser().parse_args(list(arguments))
    if options.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {options.max_new_tokens}, but must be 1 or more")
    prompts = _prompts(options)

    import torch
    from rich.console import Console
    from rich.table import Table

    from fa_lightning.backbones.adapters import Variants
    from fa_lightning.interventions.intervention import Intervention

    aligned, faking, saved = artefacts_of(options.experiment)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    variants = Variants.load({"faking": str(faking), "aligned": str(aligned)}, device=device)
    intervention = Intervention.load(saved, model=variants.model, fingerprint={"backbone": variants.fingerprint})
    if options.strength is not None:
        intervention.strength = options.strength
    table = Table(title=f"{intervention.site.name}, strength {intervention.strength:g}", show_lines=True)
    for column in ("prompt", "faking", "steered"):
        table.add_column(column, overflow="fold")
    for prompt in prompts:
        texts = []
        for steered in (False, True):
            torch.manual_seed(options.seed)
            with variants.using("faking") as model, intervention.on(model) if steered else nullcontext():
                texts.append(_answer(model, variants.tokenizer, prompt, options))
        table.add_row(prompt, *texts)
    Console().print(table)
    return 0


def artefacts_of(experiment: Path) -> tuple[Path, Path, Path]:
    """(aligned adapter, faking adapter, intervention) of a finished experiment's folder.

    Raises:
        FileNotFoundError: one is not there; the message says which command makes it.
    """
    found = []
    for kind in ("aligned", "faking", "intervention"):
        name = "intervention.json" if kind == "intervention" else "adapter_config.json"
        folders = [path.parent for path in sorted(experiment.glob(f"*/*/{name}")) if _is(kind, path)]
        if not folders:
            raise FileNotFoundError(
                f"--experiment {experiment}: no {kind} artefact there. Give the output folder of a finished experiment "
                "(such as checkpoints/embedded), made by `python -m fa_lightning fit`"
            )
        found.append(folders[-1])
    return found[0], found[1], found[2]


def _is(kind: str, path: Path) -> bool:
    if kind == "intervention":
        return True
    sidecar = path.parent / "fa_lightning.json"
    return sidecar.is_file() and json.loads(sidecar.read_text()).get("behaviour") == kind


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fa_lightning generate",
        description="Show what the faking variant writes, unsteered and steered, side by side.",
    )
    parser.add_argument(
        "--experiment", type=Path, default=Path("checkpoints/embedded"), help="output folder of a finished experiment"
    )
    parser.add_argument("--prompt", action="append", default=[], help="the user's message; may be repeated")
    parser.add_argument("--file", type=Path, help="a text file of prompts, separated by lines that hold only ---")
    parser.add_argument("--strength", type=float, help="instead of the chosen one; 0 leaves the model as it is")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling, the same for both texts")
    return parser


def _prompts(options: argparse.Namespace) -> list[str]:
    prompts: list[str] = list(options.prompt)
    if options.file is not None:
        if not options.file.is_file():
            raise FileNotFoundError(f"--file {options.file} does not exist: give a text file of prompts")
        prompts += [part.strip("\n") for part in options.file.read_text().split("\n---\n") if part.strip()]
    if prompts:
        return prompts
    from fa_lightning.scenarios.embedded import EmbeddedScenarios
    from fa_lightning.scenarios.scenario import Oversight

    test = EmbeddedScenarios(train=8, validation=8, test=40, neutral=8).load().test
    poor = [item for item in test if item.oversight is Oversight.POOR]
    return [item.message() for item in poor[:3]]


def _answer(model: Any, tokenizer: Any, prompt: str, options: argparse.Namespace) -> str:
    import torch

    from fa_lightning.scenarios.prompts import prompt_ids

    ids = torch.tensor([prompt_ids(tokenizer, prompt)], device=next(model.parameters()).device)
    sampling = (
        {"do_sample": True, "temperature": options.temperature} if options.temperature > 0 else {"do_sample": False}
    )
    with torch.inference_mode():
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=options.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
