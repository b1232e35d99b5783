"""Hold steering libraries against the laws of `tests/conformance` and print a table of which laws hold.

    python benchmarks/conformance_peers.py [--environments DIR] [--libraries NAME ...]

Each peer is installed from the package index into a virtual environment of its own and tried there; fa_lightning is
tried with the Python that runs this.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import tempfile
import venv
import warnings
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent

# What pip is asked for. The peers were written for transformers 4: its last release, or, for repeng, which wraps fewer
# families with that, the one of repeng's own time. Two of the extras are for the law about 4-bit models.
EXTRAS = ["torch==2.13.0", "bitsandbytes==0.50.2", "accelerate==1.15.0"]
PEERS = {
    "steering-vectors": ["steering-vectors==0.12.2", "transformers==4.57.6"],
    "repeng": ["repeng==0.4.0", "transformers==4.47.1"],
    "pyvene": ["pyvene==0.1.8", "transformers==4.57.6"],
}


def try_laws(library: str) -> dict[str, Any]:
    """Every law on every model, in this process.

    Returns:
        `versions` and, under `laws`, by title: `[case, outcome, reason]` with outcome `holds`, `fails` or `n/a`.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from tests.conformance import laws  # noqa: F401  fills the list
    from tests.conformance.law_list import LAWS, cases
    from tests.conformance.models import FAMILIES, HIDDEN, make_model
    from tests.conformance.reference import Edit, Unsteered

    steerer = steerer_of(library)
    # Frozen, as some libraries freeze what they wrap, and frozen weights may take another path of the same arithmetic.
    models = {}
    for name in FAMILIES:
        with contextlib.suppress(AttributeError):  # transformers of that time had no such family
            models[name] = make_model(name).requires_grad_(False)
    vector = 2 * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(3))
    runs: set[tuple[str, str]] = set()
    outcomes: dict[str, list[list[str]]] = {}
    for law in LAWS:
        outcomes[law.title] = []
        for family, rule, component in cases(law, steerer):
            edit = Edit(0, vector, rule=rule, component=component)
            if family not in models:
                outcome, reason = "n/a", "unknown to this transformers"
            elif law is not LAWS[0] and (family, component) not in runs:
                outcome, reason = "n/a", "does not run"
            elif tried(law.check, Unsteered(), copy.deepcopy(models[family]), edit)[0] == "fails":
                outcome, reason = "n/a", "fails without steering too"
            else:
                outcome, reason = tried(law.check, steerer, copy.deepcopy(models[family]), edit)
            if law is LAWS[0] and outcome == "holds":
                runs.add((family, component))
            outcomes[law.title].append([f"{family}, {component}, {rule}", outcome, reason[:120]])
    versions = {name: importlib.metadata.version(name) for name in (library, "transformers", "torch")}
    return {"versions": versions, "laws": outcomes}


def tried(check: Any, *arguments: Any) -> tuple[str, str]:
    """Outcome and reason of one law in one case."""
    from tests.conformance.reference import Inapplicable

    try:
        check(*arguments)
    except Inapplicable as error:
        return "n/a", str(error)
    except AssertionError as error:
        return "fails", str(error) or "an assertion of the library"
    except Exception as error:  # whatever a library raises is a law that fails
        return "fails", f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return "holds", ""


def steerer_of(library: str) -> Any:
    """The library behind the calls of the laws."""
    if library == "fa_lightning":
        from tests.conformance.steerers import FaLightning

        return FaLightning()
    from benchmarks.steering_peers import Pyvene, Repeng, SteeringVectors

    return {one.name: one for one in (SteeringVectors, Repeng, Pyvene)}[library]()


def environment(folder: Path, library: str) -> Path:
    """The Python of a virtual environment with a peer in it, made if it is not there."""
    home = folder / library
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted, installed = "\n".join([*PEERS[library], *EXTRAS]), home / "installed.txt"
    if not installed.exists() or installed.read_text(encoding="utf-8") != wanted:
        print(f"installing {library} into {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted.split()], check=True)
        installed.write_text(wanted, encoding="utf-8")
    return python


def cell(cases: list[list[str]]) -> str:
    """One law and library in the table: `holds`, `**fails** in 3 of 9: reason (first case)` or `n/a: reason`."""
    tried = [case for case in cases if case[1] != "n/a"]
    failed = [case for case in tried if case[1] == "fails"]
    if not tried:
        return f"n/a: {cases[0][2]}" if cases else "n/a: no such rule"
    if not failed:
        return f"holds in {len(tried)}"
    name, _, reason = failed[0]
    return f"**fails** in {len(failed)} of {len(tried)}: {reason} ({name})".replace("|", "\\|")


def reach(cases: list[list[str]]) -> str:
    """What a library runs on: how many families, and the families (or parts of them) that it does not run on."""
    lacking = {", ".join(case[0].split(", ")[:2]): case[2] for case in cases if case[1] == "n/a"}
    runs = {case[0].split(",")[0] for case in cases if case[1] != "n/a"}
    whole = sorted({name.split(",")[0] for name in lacking} - runs)
    parts = [f"{family} ({lacking[f'{family}, residual'].split(':')[0]})" for family in whole]
    parts += [name for name in lacking if name.split(",")[0] not in whole]
    families = len({case[0].split(",")[0] for case in cases})
    return f"{len(runs)} of {families} families" + (f"; not {'; '.join(parts)}" if parts else "")


def table(results: dict[str, dict[str, Any]]) -> str:
    """The matrix of laws and libraries, in Markdown."""
    heads = [f"{name} {result['versions'][name]}" for name, result in results.items()]
    lines = [f"| law | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    titles = list(next(iter(results.values()))["laws"])
    lines.append(f"| runs on | {' | '.join(reach(result['laws'][titles[0]]) for result in results.values())} |")
    for title in titles[1:]:
        lines.append(f"| {title} | {' | '.join(cell(result['laws'][title]) for result in results.values())} |")
    beside = [f"transformers {result['versions']['transformers']}" for result in results.values()]
    return "\n".join([*lines, f"| beside it | {' | '.join(beside)} |"])


def main() -> None:
    """Parse the command line, try every library, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, help="folder of the virtual environments, kept and used again")
    parser.add_argument("--libraries", nargs="+", default=["fa_lightning", *PEERS], choices=["fa_lightning", *PEERS])
    parser.add_argument("--json", type=Path, help="write every single case to this file")
    parser.add_argument("--here", metavar="LIBRARY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    if arguments.here:
        print(json.dumps(try_laws(arguments.here)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.environments or Path(temporary)).resolve()
        for library in arguments.libraries:
            python = sys.executable if library == "fa_lightning" else environment(folder, library)
            command = [str(python), __file__, "--here", library]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY).stdout
            results[library] = json.loads(output.splitlines()[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
