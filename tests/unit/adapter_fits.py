"""Modules that fit an adapter, and their steps without a Trainer."""

from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments, OptimizerArguments
from fa_lightning.training.module import AdapterModule

GROUPS = {"backbone": BackboneArguments, "lora": LoraArguments, "optimizer": OptimizerArguments}


def fit_of(objective, backbone, **options):
    """An AdapterModule; fields of its groups, such as `rank`, are given beside its own arguments."""
    fields = {"backbone": {"name": backbone}, "lora": {}, "optimizer": {"learning_rate": 0.02}}
    own = {}
    for name, value in options.items():
        group = next((group for group, kind in GROUPS.items() if name in kind.__dataclass_fields__), None)
        (own if group is None else fields[group])[name] = value
    groups = {group: kind(**fields[group]) for group, kind in GROUPS.items()}
    return AdapterModule(objective, **groups, **own)


def ready(module):
    """A module whose steps need no Trainer."""
    module.configure_model()
    module.log = lambda *args, **options: None
    return module


def loss_of(module, batch):
    """What a training step on a batch lowers."""
    return module.terms(batch)["loss"]
