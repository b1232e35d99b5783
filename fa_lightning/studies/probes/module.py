"""Read the states of all models once, and fit every probe at every site on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from fa_lightning.activations.site_names import SiteName, check_sites, resolve_sites
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.errors import UserError
from fa_lightning.evaluation.module import EvaluationModule
from fa_lightning.evaluation.variant_names import BASE
from fa_lightning.metrics.distinct_items import DistinctTensors
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.answers import AnswerTokens
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.probes.data import ProbeDataModule
from fa_lightning.studies.probes.figures import probe_figures
from fa_lightning.studies.probes.fitting import Search
from fa_lightning.studies.probes.judgement import Judge, States, opposites_of
from fa_lightning.studies.probes.output import profiles, scalars, write_probes
from fa_lightning.studies.probes.result import ProbesResult
from fa_lightning.studies.probes.states import states_of
from fa_lightning.studies.probes.tables import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ProbeModule(EvaluationModule[ProbeDataModule, ProbesResult]):
    """Only tests: one pass over the prompts for each model, then all probes at all sites from the states in memory.

    The states of a prompt's last token and of both endings behind it are kept in float32: 12 bytes x units for each
    row, site and model (1.5 GiB for 4000 rows at 8 sites of 4096 units).

    | logged | what |
    | --- | --- |
    | `<question>/<view>/<subject>/<probe>/accuracy` | on held-out rows, at the site that validation rows chose |
    | `<question>/<view>/<subject>/<probe>/auroc` | the same |
    | `layers/<question>/<view>/<subject>/<probe>` | accuracy by layer, the layer in the place of the step |

    Args:
        folder: receives `probes.json`, `probes.csv` and `label_efficiency.csv`.
        adapters: adapter folders, or folders of them (see `adapter_folders`): the variants that are read.
        base: read the backbone without any adapter, too.
        sites: where to read, as `layers.3.residual`; a number is the output of so many decoder blocks, evenly spread,
            the last among them; None is that of every block.
        restarts: first weights of CCS, of which the one with the lowest loss is kept.
        steps: of CCS's optimizer.
        label_counts: numbers of labelled rows in the curves of label efficiency.
        seed: of first weights, shuffles and draws of labels.
        **options: of `EvaluationModule`.

    Raises:
        UserError: there is nothing to read, or a number is below 1; later, a site that the model does not have.
    """

    data_class = ProbeDataModule
    bare_name = BASE

    def __init__(
        self,
        folder: str,
        adapters: list[str] = [],  # noqa: B006
        base: bool = True,
        sites: list[SiteName] | int | None = None,
        restarts: int = 10,
        steps: int = 300,
        label_counts: list[int] = [4, 8, 16, 32, 64, 128, 256, 512],  # noqa: B006
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(adapters, folder, **options)
        if not adapters and not (base and self.backbone.name):
            raise UserError(
                f"adapters is empty, base is {base} and backbone.name is {self.backbone.name!r}, so there is "
                "nothing to read: give adapter folders, or base: true and a backbone"
            )
        check_sites(sites)
        for name, value in (
            ("restarts", restarts),
            ("steps", steps),
            *(("label_counts", count) for count in label_counts),
        ):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        self.base = base
        self.site_names = sites
        self.search = Search(restarts, steps, seed)
        self.label_counts = list(label_counts)
        self.sites: list[Site] = []
        self.models: list[str] = []
        self._measured: dict[str, DistinctTensors] = {}

    @override
    def prepare_models(self) -> None:
        self.models = [BASE] * self.base + self.variants.names
        self.sites = resolve_sites(self.site_names, len(decoder_layers(self.variants.model)))

    @override
    def begin(self) -> None:
        self._measured = {}

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        for name in self.models:
            with self.using(name) as model:
                states = states_of(model, batch, self.sites, self._answers)
            if name not in self._measured:
                shapes = {site: tuple(hidden.shape[1:]) for site, hidden in states.items()}
                self._measured[name] = DistinctTensors(shapes).to(self.device)
            self._measured[name].update(batch["index"], states)

    @override
    def result(self) -> ProbesResult:
        gathered = {name: measured.compute() for name, measured in self._measured.items()}
        self._measured = {}
        data = self.data
        # A test runs in inference mode, whose tensors no probe can be trained on.
        with torch.inference_mode(False), torch.enable_grad():
            copies = {
                name: {site: hidden.clone() for site, hidden in by_site.items()} for name, by_site in gathered.items()
            }
            states = States(copies, opposites_of(data.rows))
            judge = Judge(
                data.rows,
                data.questions.questions,
                self.sites,
                self.search,
                self.label_counts,
                self.device,
                self.print,
            )
            backbone = {f"backbone_{name}": text for name, text in self.variants.fingerprint.items()}
            return judge.judge(states, {**data.questions.fingerprint(), **backbone})

    @override
    def write(self, result: ProbesResult) -> None:
        write_probes(self.folder, result)

    @override
    def show(self, result: ProbesResult) -> None:
        print_tables(tables(result).values())

    @override
    def scalars(self, result: ProbesResult) -> Mapping[str, float]:
        return scalars(result)

    @override
    def log_result(self, result: ProbesResult) -> None:
        super().log_result(result)
        for logger in self.loggers:
            for layer, accuracies in profiles(result).items():
                logger.log_metrics(accuracies, layer)

    @override
    def figures(self, result: ProbesResult) -> Mapping[str, Figure]:
        return {f"probes/{name}": figure for name, figure in probe_figures(result).items()}

    @property
    def _answers(self) -> AnswerTokens | None:
        """What prompts are ended with, where a question has contrast pairs."""
        data = self.data
        has_pairs = any("pairs" in question.views for question in data.questions.questions)
        return data.answers if has_pairs else None
