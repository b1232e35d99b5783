"""Make steering vectors from one draw of pairs after another, and try each at every layer and dose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.activations.positions import first_covered
from fa_lightning.activations.site_names import SiteName, check_sites, resolve_layers
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.errors import UserError
from fa_lightning.evaluation.module import EvaluationModule
from fa_lightning.evaluation.variant_names import BASE
from fa_lightning.evaluation.vector_sweep import VectorSweep, pair_norms, pair_vectors
from fa_lightning.metrics.distinct_items import DistinctTensors
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.prompts import has_template
from fa_lightning.scenarios.text_form import TextForm
from fa_lightning.steering.constant import strength_of_dose
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.vectors.data import Draw, VectorsDataModule
from fa_lightning.studies.vectors.figures import vector_figures
from fa_lightning.studies.vectors.measures import judged
from fa_lightning.studies.vectors.output import scalars, write_vectors
from fa_lightning.studies.vectors.result import RANDOM, VectorsResult
from fa_lightning.studies.vectors.tables import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class VectorsModule(EvaluationModule[VectorsDataModule, VectorsResult]):
    """Only tests: each draw gives a vector at each layer, which is tried at each dose on the backbone alone.

    | logged | what |
    | --- | --- |
    | `<concept>/<kind>/effect` | nats at the sweet spot |
    | `<concept>/<kind>/layer`, `/dose` | where it is |

    Args:
        folder: receives `vectors.json` and `vectors.csv`.
        layers: where vectors are read and added: `layers.3.residual`, or a depth from 0.0 to 1.0.
        doses: norm of the edit over the mean norm of states; those below 0 steer the other way, and are never chosen.
        positions: tokens that are steered.
        max_new_tokens: of a text that is written.
        batch_size: texts in a forward pass.
        seed: of random vectors.
        **options: of `EvaluationModule`.

    Raises:
        UserError: a number is out of range, or there is no dose above 0; later, a layer that the model does not have.
    """

    data_class = VectorsDataModule
    bare_name = BASE

    def __init__(
        self,
        folder: str,
        layers: list[SiteName] = [0.1, 0.3, 0.5, 0.7, 0.9],  # noqa: B006
        doses: list[float] = [0.05, 0.1, 0.2, 0.35],  # noqa: B006
        positions: str = "from_1",
        max_new_tokens: int = 20,
        batch_size: int = 16,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__([], folder, **options)
        check_sites(layers, "layers")
        first_covered(positions)
        if max_new_tokens < 3 or batch_size < 1:
            raise UserError(
                f"max_new_tokens is {max_new_tokens} and batch_size {batch_size}, but must be 3 or more, since "
                "repeated 3-grams are counted, and 1 or more"
            )
        if not all(dose and math.isfinite(dose) for dose in doses) or max(doses, default=0.0) <= 0:
            raise UserError(f"doses is {doses}: give numbers other than 0, one above 0 at least")
        self.layer_names, self.doses, self.positions, self.seed = layers, sorted(set(doses)), positions, seed
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.sites: list[Site] = []
        self._norms: list[float] = []
        self._tried: VectorSweep | None = None
        self._measured: DistinctTensors | None = None

    @override
    def prepare_models(self) -> None:
        layers = resolve_layers(self.layer_names, len(decoder_layers(self.variants.model)))
        self.sites = [Site(layer, positions=self.positions) for layer in sorted(set(layers))]

    @override
    def begin(self) -> None:
        self._norms, self._tried, self._measured = [], None, None

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        draws = [self.data.draws[index] for index in batch["index"].tolist()]
        with self.using(BASE) as model:
            tried = self._sweep(model)
            measured = [self._measure(model, tried, draw) for draw in draws]
        tensors = {name: torch.stack([one[name] for one in measured]) for name in measured[0]}
        if self._measured is None:
            shapes = {name: tuple(values.shape[1:]) for name, values in tensors.items()}
            self._measured = DistinctTensors(shapes).to(self.device)
        self._measured.update(batch["index"], {name: values.to(self.device) for name, values in tensors.items()})

    @override
    def result(self) -> VectorsResult:
        # No rank is without a draw: the sampler repeats some where there are too few.
        assert self._measured is not None
        assert self._tried is not None
        tensors, draws = self._measured.compute(), self.data.draws
        if len(tensors["added"]) < len(draws):
            raise UserError(
                f"{len(tensors['added'])} of {len(draws)} draws were tried, but means are over all of them: leave out "
                "limit_test_batches and fast_dev_run, and lower data.draws instead"
            )
        return judged(
            tensors,
            draws,
            self.data.read(),
            [site.layer for site in self.sites],
            self.doses,
            self._tried.unsteered.repeated,
            self.positions,
            self.data.pairs,
            {**self.data.source_fingerprint(), **{f"backbone_{k}": v for k, v in self.variants.fingerprint.items()}},
            self.seconds,
        )

    @override
    def write(self, result: VectorsResult) -> None:
        write_vectors(self.folder, result)

    @override
    def show(self, result: VectorsResult) -> None:
        print_tables(tables(result).values())

    @override
    def scalars(self, result: VectorsResult) -> Mapping[str, float]:
        return scalars(result)

    @override
    def figures(self, result: VectorsResult) -> Mapping[str, Figure]:
        return {f"vectors/{name}": figure for name, figure in vector_figures(result).items()}

    def _sweep(self, model: Any) -> VectorSweep:
        """What tries vectors, with what the model says without any, which is asked once."""
        if self._tried is None:
            concepts = self.data.read()
            held_out = [pair for concept in concepts for pair in concept.held_out]
            prompts = [pair.prompt for concept in concepts for pair in concept.held_out[: self.data.prompts]]
            layers = [site.layer for site in self.sites]
            self._tried = VectorSweep(
                model, self._form, held_out, prompts, self.max_new_tokens, self.batch_size, layers
            )
        return self._tried

    @property
    def _form(self) -> TextForm:
        return TextForm(self.tokenizer, has_template(self.tokenizer))

    def _measure(self, model: Any, tried: VectorSweep, draw: Draw) -> dict[str, Tensor]:
        """Of one draw, by layer and dose: what is added to all held-out odds, fluency; and directions.

        The latter are those of the vectors, and of vectors made of the pairs that the draw leaves out.
        """
        vectors, norms, rest = self._vectors(model, draw)
        added, fluency = [], []
        for vector, norm in zip(vectors, norms, strict=True):
            for dose in self.doses:
                attached = vector.at(strength_of_dose(vector, dose, norm))
                added.append(tried.added(attached))
                ratio, repeated, _ = tried.fluency(attached)
                fluency.append(torch.tensor([math.log(ratio), repeated]))
        shape = (len(vectors), len(self.doses), -1)
        return {
            "added": torch.stack(added).view(shape),
            "fluency": torch.stack(fluency).nan_to_num(0.0).view(shape),
            "direction": _directions(vectors),
            "rest": _directions(rest),
        }

    def _vectors(self, model: Any, draw: Draw) -> tuple[list[Intervention], list[float], list[Intervention]]:
        """A vector at each layer, the mean norm of states there, and the vector of the pairs that are left out."""
        if draw.kind != RANDOM:
            drawn = self.data.drawn(draw)
            vectors, rest = (
                pair_vectors(model, self._form, pairs, self.sites, batch_size=self.batch_size) for pairs in drawn
            )
            return vectors, pair_norms(model, self._form, drawn.pairs, self.sites, self.batch_size), rest
        if not self._norms:
            # Those of all long texts; a draw's own differ from them by some percent.
            pairs = [pair for concept in self.data.read() for pair in concept.pairs["long"]]
            self._norms = pair_norms(model, self._form, pairs, self.sites, self.batch_size)
        hidden = int(self.variants.model.config.hidden_size)
        generator = torch.Generator().manual_seed(1000 * self.seed + draw.number)
        vectors = [Intervention(site, torch.randn(hidden, generator=generator)) for site in self.sites]
        return vectors, self._norms, vectors


def _directions(vectors: Sequence[Intervention]) -> Tensor:
    """Unit vectors, (layers, hidden)."""
    edits = [vector.regressor.constant_edit() for vector in vectors]
    return torch.stack([edit / edit.norm() for edit in edits if edit is not None]).cpu()
