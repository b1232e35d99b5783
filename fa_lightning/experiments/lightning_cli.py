"""The one LightningCLI behind every stage: any module and DataModule of the package, told from a config."""

from __future__ import annotations

import codecs
import locale
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

CONFIG_OPTIONS = ("--config", "-c", "--model", "--data", "--trainer")
"""Options of LightningCLI whose value may be a file."""
OTHERS_WARNINGS = (
    # Lightning 2.6 on torch 2.13, peft 0.21 on transformers 5.23.
    r".*isinstance.treespec, LeafSpec.*",
    r".*is_gradient_checkpointing. is deprecated.*",
    # Stages are configured in-process on purpose, and their record is in their checkpoint folder before they start.
    r"LightningCLI's args parameter is intended.*",
    r"Checkpoint directory .* exists and is not empty.*",
    # Figures and other loggers' files are in the folder of CSVLogger; it deletes its own metrics.csv alone.
    r"Experiment logs directory .* exists and is not empty.*",
    # The ranks have put together what is logged at the end of an epoch already.
    r"It is recommended to use .self.log.*sync_dist=True.*",
    # The embedded models are so small that worker processes would cost more than they save.
    r".*does not have many workers.*",
)
OTHERS_HINTS = (
    "\U0001f4a1 Tip",
    "Seed set to",
    "TPU available",
    "Loading `train_dataloader` to estimate",
    "`Trainer.fit` st",
)


def lightning_cli(
    arguments: Sequence[str], run: bool = True, until: Literal["config", "classes", "trainer"] = "trainer"
) -> Any:
    """The LightningCLI over any module and DataModule of the package.

    Args:
        arguments: of the command line.
        run: the command in them; False only instantiates.
        until: `config` only reads it, `classes` also makes all that it names, without a Trainer around them.

    Raises:
        UserError: the config is refused, by the parser or by a class that it names; the message is one line.
    """
    quiet()
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from fa_lightning.common.ranges import refuse_numbers
    from fa_lightning.common.refusals import refusals_told, refuse_checkpoint, refuse_empty_groups
    from fa_lightning.experiments.config_record import ConfigBesideLogs
    from fa_lightning.experiments.device import DeviceReport
    from fa_lightning.experiments.locks import FitLock
    from fa_lightning.experiments.loggers import give_runs_of_their_own
    from fa_lightning.experiments.precision import fast_precision
    from fa_lightning.experiments.ranks import StopTogether
    from fa_lightning.experiments.resume import Resumable
    from fa_lightning.experiments.trial import delete_all, send_away

    _record_configs_plainly()
    away: list[Path] = []
    report = DeviceReport()
    words = list(_readable(arguments))

    class StageCLI(LightningCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            with refusals_told():
                super().parse_arguments(parser, args)
            config = self.config.as_dict()
            of_command = config.get(config.get("subcommand"), config)
            refuse_empty_groups(of_command)
            refuse_numbers(of_command)
            refuse_checkpoint(of_command.get("ckpt_path"))
            give_runs_of_their_own(self.config.get(self.config.get("subcommand"), self.config))

        def _parse_ckpt_path(self) -> None:
            """Leave the config as it is: Lightning lays a checkpoint's hyper-parameters over it, in silence."""

        def instantiate_trainer(self, **options: Any) -> Any:
            """The Trainer; a precision that the config leaves open is chosen here, and stays open in the config."""
            trainer = self._get(self.config_init, "trainer")
            if trainer["precision"] is None and not trainer["plugins"]:
                report.chosen = options["precision"] = fast_precision(str(trainer["accelerator"]))
            return super().instantiate_trainer(**options)

        def instantiate_classes(self) -> None:
            if until == "config":
                return
            with refusals_told():
                if until == "classes":
                    self.parser.instantiate_classes(self.config)
                else:
                    super().instantiate_classes()
                    trainer: Any = self.trainer
                    if run and trainer.fast_dev_run:
                        away.extend(send_away(self.model, self.datamodule, *trainer.callbacks))

    try:
        return StageCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=ConfigBesideLogs,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [FitLock(), report, Resumable(), StopTogether()]},
            seed_everything_default=0,
            parser_kwargs={"prog": "python -m fa_lightning", "exit_on_error": False},
            auto_configure_optimizers=False,
            args=words,
            run=run,
        )
    finally:
        delete_all(away)


def _record_configs_plainly() -> None:
    """Let the parser write configs with escapes where its files, opened by the locale, can't hold all letters."""
    import jsonargparse
    import yaml

    if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
        jsonargparse.set_dumper("yaml", partial(yaml.safe_dump, sort_keys=False, default_flow_style=False))


def _readable(words: Sequence[str]) -> Iterator[str]:
    """The words, with the text of every config file that the parser, which opens it by the locale, may read wrongly.

    Raises:
        UserError: a config is no text in UTF-8.
    """
    from fa_lightning.common.user_files import decoded

    option = ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("-") else (option, "", word)
        option = "" if equals else name
        if value and name in CONFIG_OPTIONS and Path(value).suffix in (".yaml", ".yml", ".json"):
            path = Path(value)
            content = path.read_bytes() if path.is_file() else b""
            value = value if content.isascii() else decoded(content, path)
        yield f"{name}={value}" if equals else value if not word.startswith("-") else word


def quiet() -> None:
    """Silence messages that are not about the user's run: other libraries' hints to their own developers."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for message in OTHERS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        # The same function each time, as stages call this in turn: a logger keeps it once.
        logging.getLogger(name).addFilter(_is_no_hint)
    # It asks for an optional package of fast kernels at every import.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _is_no_hint(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(OTHERS_HINTS)
