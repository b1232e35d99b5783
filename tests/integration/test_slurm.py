"""The job file, and Lightning under SLURM's variables: two tasks that take this machine for two nodes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy import CONFIGS, REPOSITORY, command, record_of, run, write_trainer
from twins import AFFINE, of_both, write_twins

JOB = REPOSITORY / "configs" / "slurm" / "fit.sbatch"
FIT = ("fit", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/steering")
NODES = 2
SECONDS = 420


def variables(task: int) -> dict[str, str]:
    """What srun sets for a task, where each of two nodes runs one."""
    return {
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 50_000),
        "SLURM_JOB_NAME": "fit",
        "SLURM_NTASKS": str(NODES),
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": str(NODES),
        "SLURM_PROCID": str(task),
        "SLURM_NODEID": str(task),
        "SLURM_LOCALID": "0",
        "SLURM_NODELIST": "localhost",
    }


def test_lightning_reads_its_place_from_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning.pytorch as pl
    from lightning.pytorch.plugins.environments import SLURMEnvironment
    from lightning.pytorch.utilities import rank_zero_only

    # The Trainer makes this whole process rank one; the tests after this one are rank zero again.
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    for name, value in variables(1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NODELIST", "gpu[07-08]")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        # Set first, so that what Lightning writes is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    trainer = pl.Trainer(accelerator="cpu", devices=1, num_nodes=NODES, strategy="ddp", logger=False)
    environment = trainer.strategy.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert (trainer.world_size, trainer.global_rank, trainer.node_rank, trainer.local_rank) == (2, 1, 1, 0)
    assert environment.main_address == "gpu07"
    assert environment.main_port == 15_000 + int(os.environ["SLURM_JOB_ID"][-4:])
    assert environment.creates_processes_externally


def test_the_job_asks_for_a_task_a_gpu_and_tells_lightning_as_many() -> None:
    text = JOB.read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", text, flags=re.MULTILINE))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"].startswith("B:USR1@"), "to the script: Lightning would save in the middle of an epoch"
    assert "requeue" in asked
    (started,) = re.findall(r"^srun .*?(?<!\\)$", text, flags=re.MULTILINE | re.DOTALL)
    words = started.replace("\\\n", " ").split()
    assert "--kill-on-bad-exit=1" in words
    assert words[words.index("--trainer.num_nodes") + 1] == '"$SLURM_NNODES"'
    assert words[words.index("--trainer.devices") + 1] == '"$SLURM_NTASKS_PER_NODE"'
    trainer = words[words.index("--trainer") + 1]
    assert (CONFIGS / "trainer" / f"{trainer}.yaml").is_file()
    subprocess.run(["bash", "-n", str(JOB)], check=True)


@pytest.mark.parametrize(("ends", "restarts"), [("by itself", "1"), ("out of time", "0")])
def test_the_script_requeues_once_its_time_is_up(tmp_path: Path, ends: str, restarts: str) -> None:
    """The job file in a shell, with stand-ins for SLURM's programs; a requeued one takes its own old locks away."""
    locks = [tmp_path / "checkpoints" / name / ".01_aligned.lock" for name in ("llama2_7b", "another")]
    for lock in locks:
        lock.parent.mkdir(parents=True)
        lock.touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in {
        "srun": f"echo started $* >> {tmp_path}/log; exec sleep {0 if ends == 'by itself' else 30}",
        "scontrol": f"echo scontrol $* >> {tmp_path}/log; kill $(cat {tmp_path}/srun.pid) 2>/dev/null",
    }.items():
        path = programs / name
        path.write_text(f"#!/bin/bash\n[ {name} = srun ] && echo $$ > {tmp_path}/srun.pid\n{body}\n")
        path.chmod(0o755)
    environment = {**os.environ, **variables(0), "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "123"}
    environment["SLURM_RESTART_COUNT"] = restarts
    process = subprocess.Popen(["bash", str(JOB)], cwd=tmp_path, env=environment)
    if ends == "out of time":
        deadline = time.monotonic() + 20
        while not (tmp_path / "log").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline, "the script never started its tasks"
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
    process.wait(timeout=20)
    log = (tmp_path / "log").read_text().splitlines()
    assert log[0].startswith("started --kill-on-bad-exit=1 python -m fa_lightning fit steering --base llama2_7b ")
    assert log[0].endswith("--trainer.num_nodes 2 --trainer.devices 1")
    assert ("scontrol requeue 123" in log) is (ends == "out of time")
    assert (process.returncode == 0) is (ends == "by itself")
    assert [lock.is_file() for lock in locks] == [restarts == "0", True]


def sizes(per_device: int) -> dict[str, Any]:
    return {
        "batch_size": per_device,
        "twins.aligned.scenarios": 16,
        "twins.faking.scenarios": 16,
        **of_both("data.init_args.neutral_share", 0.0),
        "validation_items": 11,
        "capture.batch_size": per_device,
        "studies.steering.regressors": AFFINE,
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("alone")
    write_twins(place, sizes(8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*FIT) == 0
    return place


def assert_same(place: Path, alone: Path) -> None:
    for stage in ("02_aligned", "03_faking"):
        one, two = (
            load_file(folder / ROOT / f"{stage}/adapter/adapter_model.safetensors") for folder in (alone, place)
        )
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-4)
    one, two = (json.loads((folder / ROOT / "results.json").read_text()) for folder in (alone, place))
    for field in ("n", "cells", "format_validity"):
        assert two[field] == one[field]


@pytest.mark.slow
def test_two_tasks_of_two_nodes_run_the_experiment_together(alone: Path, tmp_path: Path) -> None:
    shutil.copytree(alone / "backbone", tmp_path / "backbone")
    write_twins(tmp_path, sizes(4))
    trainer = write_trainer(tmp_path, "cluster", 1, "ddp")
    words = (*FIT, "--trainer", trainer, "--trainer.num_nodes", str(NODES))
    tasks = [command(tmp_path, *words, **variables(task)) for task in range(NODES)]
    said = [task.communicate(timeout=SECONDS)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert "3/3 steering/04_steering: started" in said[0]
    assert "started" not in said[1], "rank zero speaks for all"
    assert record_of(tmp_path, "steering/04_steering")["state"] == "done"
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_torchrun_starts_the_same(alone: Path, tmp_path: Path) -> None:
    shutil.copytree(alone / "backbone", tmp_path / "backbone")
    write_twins(tmp_path, sizes(4))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fa_lightning"]
    words += [*FIT, "--trainer", "ddp_cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path, alone)
