"""Read the states of subjects once, and fit every probe at every site on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from typing_extensions import override

from fa_lightning.activations.sites import Site, check_sites, spread, validate
from fa_lightning.backbones.adapters import adapter_folders, backbone_of
from fa_lightning.backbones.arguments import DType
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.load import load_tokenizer
from fa_lightning.errors import UserError
from fa_lightning.metrics.distinct_items import DistinctTensors
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.probes.data import ProbeDataModule
from fa_lightning.studies.probes.fitting import Search
from fa_lightning.studies.probes.judgement import Judge, States, opposites_of
from fa_lightning.studies.probes.output import profiles, scalars, write_probes
from fa_lightning.studies.probes.pictures import draw
from fa_lightning.studies.probes.questions import Answers
from fa_lightning.studies.probes.result import ProbesFound
from fa_lightning.studies.probes.subjects import Subjects
from fa_lightning.studies.probes.summary import show


class ProbeModule(pl.LightningModule):
    """Only tests: one pass over the prompts for each subject, then all probes at all sites from the states in memory.

    The states of a prompt's last token and of both endings behind it are kept in float32: 12 bytes x units for each
    row, site and subject (1.5 GiB for 4000 rows at 8 sites of 4096 units).

    | logged | what |
    | --- | --- |
    | `<question>/<view>/<subject>/<probe>/accuracy` | on held-out rows, at the site that validation rows chose |
    | `<question>/<view>/<subject>/<probe>/auroc` | the same |
    | `layers/<question>/<view>/<subject>/<probe>` | accuracy by layer, the layer in the place of the step |

    Args:
        folder: receives `probes.json`, `probes.csv` and `label_efficiency.csv`.
        adapters: adapter folders, or folders of them (see `adapter_folders`): the variants that are read.
        base: read the backbone without any adapter, too.
        backbone: name or folder; None takes the one that the adapters name.
        sites: where to read, as `layers.3.residual`; a number is the output of so many decoder blocks, evenly spread,
            the last among them; None is that of every block.
        restarts: first weights of CCS, of which the one with the lowest loss is kept.
        steps: of CCS's optimizer.
        label_counts: numbers of labelled rows in the curves of label efficiency.
        seed: of first weights, shuffles and draws of labels.
        dtype: of the backbone's weights.
        load_in_4bit: hold the backbone in nf4.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: there is nothing to read, or a number is below 1; later, a site that the model does not have.
    """

    def __init__(
        self,
        folder: str,
        adapters: list[str] = [],  # noqa: B006
        base: bool = True,
        backbone: str | None = None,
        sites: list[str] | int | None = None,
        restarts: int = 10,
        steps: int = 300,
        label_counts: list[int] = [4, 8, 16, 32, 64, 128, 256, 512],  # noqa: B006
        seed: int = 0,
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        if not adapters and not (base and backbone):
            raise UserError(
                f"adapters is empty, base is {base} and backbone is {backbone!r}, so there is nothing to read: give "
                "adapter folders, or base: true and a backbone"
            )
        check_sites(sites)
        for name, value in (("restarts", restarts), ("steps", steps), *(("label_counts", one) for one in label_counts)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        self.folder = Path(folder)
        self.places = list(adapters)
        self.base = base
        self.backbone = backbone
        self.site_names = sites
        self.search = Search(restarts, steps, seed)
        self.label_counts = list(label_counts)
        self.loading: dict[str, Any] = {
            "dtype": dtype,
            "load_in_4bit": load_in_4bit,
            "trust_remote_code": trust_remote_code,
        }
        self.sites: list[Site] = []
        self._subjects: Subjects | None = None
        self._measured: dict[str, DistinctTensors] = {}

    @property
    def subjects(self) -> Subjects:
        """Whose states are read; there once the model is configured."""
        assert self._subjects is not None
        return self._subjects

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        if self._subjects is not None:
            return self._subjects.tokenizer
        name = self.backbone or backbone_of(next(iter(adapter_folders(self.places).values())))
        return load_tokenizer(name, self.loading["trust_remote_code"])

    @override
    def configure_model(self) -> None:
        if self._subjects is not None:
            return
        device = self.trainer.strategy.root_device
        self._subjects = Subjects.load(self.places, self.base, self.backbone, device=device, **self.loading)
        self.sites = self._chosen_sites(self._subjects.model)

    @override
    def on_test_start(self) -> None:
        self._measured = {}

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        for name in self.subjects.names:
            states = self.subjects.states(name, batch, self.sites, self._answers)
            if name not in self._measured:
                shapes = {site: tuple(found.shape[1:]) for site, found in states.items()}
                self._measured[name] = DistinctTensors(shapes).to(self.device)
            self._measured[name].update(batch["index"], states)

    @override
    def on_test_epoch_end(self) -> None:
        gathered = {name: measured.compute() for name, measured in self._measured.items()}
        self._measured = {}
        # On every rank alike, so that all of them fail where one does.
        found = self._judged(gathered)
        for logger in self.loggers:
            logger.log_metrics(scalars(found), 0)
            for layer, accuracies in profiles(found).items():
                logger.log_metrics(accuracies, layer)
        if self.trainer.is_global_zero:
            write_probes(self.folder, found)
            show(found)
            draw(self.trainer, found)
        self.trainer.strategy.barrier("probes written")

    def _judged(self, gathered: dict[str, dict[str, torch.Tensor]]) -> ProbesFound:
        data = self._data
        # A test runs in inference mode, whose tensors no probe can be trained on.
        with torch.inference_mode(False), torch.enable_grad():
            kept = {name: {site: one.clone() for site, one in found.items()} for name, found in gathered.items()}
            states = States(kept, opposites_of(data.rows))
            judge = Judge(
                data.rows,
                data.questions.questions,
                self.sites,
                self.search,
                self.label_counts,
                self.device,
                self.print,
            )
            backbone = {f"backbone_{name}": text for name, text in self.subjects.fingerprint.items()}
            return judge.judge(states, {**data.questions.fingerprint(), **backbone})

    def _chosen_sites(self, model: Any) -> list[Site]:
        layers = len(decoder_layers(model))
        if isinstance(self.site_names, list):
            sites = [Site.parse(name) for name in self.site_names]
        else:
            number = self.site_names if isinstance(self.site_names, int) else layers
            sites = [Site(layer) for layer in spread(layers, number)]
        for site in sites:
            validate(site, layers)
        return sites

    @property
    def _answers(self) -> Answers | None:
        """What prompts are ended with, where a question has contrast pairs."""
        data = self._data
        return data.answers if any("pairs" in one.views for one in data.questions.questions) else None

    @property
    def _data(self) -> ProbeDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ProbeDataModule):
            raise UserError(f"ProbeModule needs ProbeDataModule as data, but it is a {type(data).__name__}")
        return data
