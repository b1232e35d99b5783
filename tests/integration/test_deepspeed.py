"""DeepSpeed ZeRO 2 (where it is installed) fits the twin that DDP fits; on the CPU, which Lightning would refuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy import CONFIGS, command, write_stage
from twins import EXPORT, of_both, write_twins

SECONDS = 300
ROOT = Path("checkpoints/embedded/seed0/steering/03_faking")
ON_THE_CPU = '''
"""Lightning's strategy without its check for CUDA: the rest of it knows no device."""

import deepspeed
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy


class CpuDeepSpeed(DeepSpeedStrategy):
    @property
    def root_device(self):
        return torch.device("cpu", 0)

    def setup_environment(self):
        DDPStrategy.setup_environment(self)

    def setup_distributed(self):
        reset_seed()
        self.set_world_ranks()
        self._set_node_environment_variables()
        deepspeed.init_distributed("gloo", distributed_port=self.cluster_environment.main_port)
'''

pytestmark = pytest.mark.slow


# Hand on the last epoch; stop nowhere before.
EVERY_EPOCH = {
    "batch_size": 4,
    "twins.faking.scenarios": 16,
    **of_both("data.init_args.neutral_share", 0.0),
    **of_both("trainer.callbacks", [EXPORT]),
    **of_both("checkpoint.monitor", None),
}


def fit(place: Path, trainer: str, *words: str) -> tuple[dict[str, torch.Tensor], str]:
    """Fit stage 3 by the plain command; its adapter, and what was said."""
    trainers = ("--config", trainer, "--trainer.precision", "32-true")
    process = command(
        place, "fit", "--config", write_stage(place, "steering/03_faking"), *trainers, *words, DS_ACCELERATOR="cpu"
    )
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    return load_file(place / ROOT / "adapter/adapter_model.safetensors"), said


def test_zero_2_as_shipped_fits_the_twin_that_ddp_fits_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    write_twins(tmp_path, EVERY_EPOCH)
    expected, _ = fit(tmp_path, str(CONFIGS / "trainer/ddp_cpu.yaml"))
    os.rename(tmp_path / "checkpoints", tmp_path / "ddp")
    shipped = yaml.safe_load((CONFIGS / "trainer" / "deepspeed.yaml").read_text())["trainer"]
    assert shipped["strategy"]["class_path"] == "DeepSpeedStrategy"
    shipped |= {"accelerator": "cpu", "devices": 2}
    shipped["strategy"]["class_path"] = "on_the_cpu.CpuDeepSpeed"
    (tmp_path / "deepspeed_cpu.yaml").write_text(yaml.safe_dump({"trainer": shipped}))
    (tmp_path / "on_the_cpu.py").write_text(ON_THE_CPU)
    found, _ = fit(tmp_path, "deepspeed_cpu.yaml")
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    assert max(tensor.abs().max() for name, tensor in expected.items() if "lora_B" in name) > 0.01
    checkpoint = str(ROOT / "best.ckpt")
    longer, said = fit(tmp_path, "deepspeed_cpu.yaml", "--ckpt_path", checkpoint, "--trainer.max_epochs", "4")
    assert "Restored all states from the checkpoint" in said
    assert any(not torch.equal(longer[name], found[name]) for name in found)
