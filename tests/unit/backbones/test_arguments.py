"""Groups of arguments, as the command line and the configs give them."""

import pytest
from lightning.pytorch import LightningDataModule, LightningModule

from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments, OptimizerArguments
from fa_lightning.errors import UserError
from fa_lightning.experiments.lightning_cli import lightning_cli

MODULE = f"{__name__}.Grouped"
CONFIG = """
model:
  class_path: {module}
  init_args:
    backbone: {{name: some/model, dtype: bfloat16}}
    optimizer: {{learning_rate: 0.2}}
data: {{class_path: {data}}}
"""


class Grouped(LightningModule):
    """Takes all groups."""

    def __init__(
        self,
        backbone: BackboneArguments,
        lora: LoraArguments = LoraArguments(rank=3),
        optimizer: OptimizerArguments = OptimizerArguments(),
    ) -> None:
        super().__init__()
        self.groups = (backbone, lora, optimizer)


class NoData(LightningDataModule):
    """Serves nothing."""


def made(*words):
    cli = lightning_cli(words, run=False, until="classes")
    return cli.parser.instantiate_classes(cli.config).model.groups


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "stage.yaml"
    path.write_text(CONFIG.format(module=MODULE, data=f"{__name__}.NoData"))
    return f"--config={path}"


def test_groups_of_a_file_and_of_the_command_line_are_laid_over_the_defaults(config):
    groups = made(config, "--model.init_args.lora.target_modules=all-linear", "--model.init_args.backbone.name=other")
    assert groups == (
        BackboneArguments("other", "bfloat16"),
        LoraArguments(rank=3, target_modules="all-linear"),
        OptimizerArguments(learning_rate=0.2),
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--model.init_args.backbone=gpt2", r"^model\.init_args\.backbone is gpt2, but must be a mapping"),
        ("--model.init_args.backbone={nam: gpt2}", r"^model\.init_args\.backbone\.nam is no argument of .*Grouped"),
        ("--model.init_args.lora.rank=x", r"^model\.init_args\.lora\.rank is x, but must be int$"),
        ("--model.init_args.backbone.dtype=int3", r"^model\.init_args\.backbone\.dtype is int3, but must be one of"),
    ],
)
def test_a_wrong_group_is_refused_in_one_line(config, word, message):
    with pytest.raises(UserError, match=message) as refused:
        made(config, word)
    assert "\n" not in str(refused.value)


def test_help_names_each_field_with_its_default(capsys):
    with pytest.raises(SystemExit):
        lightning_cli(["fit", f"--model.help={MODULE}"])
    text = capsys.readouterr().out
    assert "--model.backbone.name NAME" in text
    assert "Hub, folder, or GGUF" in text
    assert "--model.lora.rank RANK" in text
    assert "(type: int, default: 3)" in text


def test_a_backbone_that_no_adapter_names_has_to_be_named():
    assert BackboneArguments("gpt2").required_name() == "gpt2"
    with pytest.raises(UserError, match=r"^backbone.name is null, but there is no adapter"):
        BackboneArguments().required_name()
