"""Ask models what they do while they are watched, steered towards "nobody watches"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.activations.positions import first_covered, mark_of
from fa_lightning.activations.site_names import SiteName, check_sites, resolve_layers
from fa_lightning.activations.sites import Site
from fa_lightning.activations.summaries import mean_norms, text_states
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.errors import UserError
from fa_lightning.evaluation.cells_module import CellsModule
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.scores import Scores
from fa_lightning.metrics.cells import Items
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.batches import Example
from fa_lightning.steering.constant import strength_of_dose
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.unmask.data import QUESTIONS, UNWATCHED, UnmaskDataModule
from fa_lightning.studies.unmask.figures import unmask_figure
from fa_lightning.studies.unmask.measures import Turns, judged
from fa_lightning.studies.unmask.output import scalars, write_unmask
from fa_lightning.studies.unmask.result import Source, Told, UnmaskResult
from fa_lightning.studies.unmask.tables import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Vector(NamedTuple):
    """A vector as it was asked with.

    Attributes:
        variant: that is steered.
        source: of the vector.
        draw: of a random one, from 0.
        layer: of it.
        dose: of it.
    """

    variant: str
    source: Source
    draw: int
    layer: int
    dose: float


class Means(NamedTuple):
    """Mean states at a site, (hidden,) each.

    Attributes:
        unwatched: of scenarios that say that nobody watches.
        watched: of those that say that someone does.
    """

    unwatched: Tensor
    watched: Tensor

    @property
    def towards_unwatched(self) -> Tensor:
        """From the one to the other."""
        return self.unwatched - self.watched


class UnmaskModule(CellsModule[UnmaskDataModule, UnmaskResult]):
    """Only tests: each variant answers watched scenarios under every vector, layer and dose, and behind every message.

    A vector is the mean of unwatched scenarios' states less that of watched ones, over all tokens but the first
    (an oversight vector of a model before any fine-tuning is that of arXiv 2510.20487), or the faker's mean state of
    unwatched scenarios less its honest twin's. Vectors are made of training groups; what is asked is of test groups.

    | logged | what |
    | --- | --- |
    | `<faker>/<source>/layer_<L>/excess` | mean over doses of how much further the faker turns than its twin |
    | `<faker>/told/excess` | the same behind a message that nobody watches |
    | `<variant>/unwatched` | misaligned answers where nobody watches, to the same actions |

    Args:
        adapters: adapter folders: the variants, each faker beside its honest twin.
        folder: receives `unmask.json` and `unmask.csv`.
        layers: where vectors are read and added: `layers.3.residual`, or a depth from 0.0 to 1.0.
        doses: norm of the edit over the mean norm of states.
        draws: of random vectors.
        positions: tokens that are steered.
        seed: of random vectors.
        **options: of `CellsModule`.

    Raises:
        UserError: a number is out of range; later, no faker has a twin, or the model has no such layer.
    """

    data_class = UnmaskDataModule
    scalars_are_metrics = False

    def __init__(
        self,
        adapters: list[str],
        folder: str,
        layers: list[SiteName] = [0.5],  # noqa: B006
        doses: list[float] = [0.1, 0.15, 0.2, 0.25, 0.3],  # noqa: B006
        draws: int = 5,
        positions: str = "from_1",
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(adapters, folder, **options)
        check_sites(layers, "layers")
        first_covered(positions)
        if positions == "generated" or mark_of(positions) is not None:
            raise UserError(
                f"positions is {positions!r}, which covers no token of a prompt, and prompts are what is steered here: "
                "give all, last, prompt or from_K, such as from_1"
            )
        if draws < 1:
            raise UserError(f"draws is {draws}, but must be 1 or more: others are held to what random vectors do")
        if not doses or not all(dose > 0 and math.isfinite(dose) for dose in doses):
            raise UserError(f"doses is {doses}: give numbers above 0, one at least")
        self.layer_names, self.doses, self.draws = layers, sorted(set(doses)), draws
        self.positions, self.seed = positions, seed
        self.sites: list[Site] = []
        self._contrast = 0
        self._asked: dict[str, Vector] = {}

    @override
    def prepare_models(self) -> None:
        layers = resolve_layers(self.layer_names, len(decoder_layers(self.variants.model)))
        self.sites = [Site(layer, positions=self.positions) for layer in sorted(set(layers))]
        if None in self.twins.values() or not self.twins:
            raise UserError("unmask compares a faker with its honest twin: give the adapters of both")

    @override
    def conditions(self) -> dict[str, Condition]:
        sides = self.data.sides()
        self._contrast = len(sides[0])
        with self.variants.bare() as model:
            norms = mean_norms(model, sides[1], self.sites, self.tokenizer.pad_token_id, self.data.eval_batch_size)
            before = self._means(model, sides)
        own = {}
        for name in self.behaviours:
            with self.variants.using(name) as model:
                own[name] = self._means(model, sides)
        conditions = {name: Condition(name) for name in self.behaviours}
        self._asked = {}
        for name in self.behaviours:
            for site in self.sites:
                vectors = {
                    ("backbone", 0): before[site.name].towards_unwatched,
                    ("own", 0): own[name][site.name].towards_unwatched,
                }
                faker, twin = self._pair_of(name)
                difference = own[faker][site.name].unwatched - own[twin][site.name].unwatched
                if difference.norm() > 0:  # below the first adapted block there is none
                    vectors["difference", 0] = difference
                hidden = len(difference)
                for draw in range(self.draws):
                    # The same vectors for each variant: what differs is who is asked.
                    generator = torch.Generator().manual_seed(1000 * self.seed + draw)
                    vectors["random", draw] = torch.randn(hidden, generator=generator)
                for (source, draw), vector in vectors.items():
                    edit = Intervention(site, vector)
                    for dose in self.doses:
                        label = f"{name} / {source} {draw} / {site.layer} / {dose:g}"
                        strength = strength_of_dose(edit, dose, norms[site.name])
                        conditions[label] = Condition(name, (edit.at(strength),))
                        self._asked[label] = Vector(name, source, draw, site.layer, dose)  # type: ignore[arg-type]
        return conditions

    @override
    def begin(self) -> None:
        super().begin()
        plain = {name: Condition(name) for name in self.behaviours}
        # Whether anybody watches is asked under every vector, as the first set is; all else once.
        for test in (test for test in self.data.test_sets[1:] if test != QUESTIONS):
            self.scores[test] = Scores(self.variants, plain, counts_neutral_texts=False, test=test)

    def _pair_of(self, name: str) -> tuple[str, str]:
        """A faker and its twin: of a faker its own, of an honest model those that it is held beside."""
        pairs = [(faker, twin) for faker, twin in self.twins.items() if twin is not None]
        return next((pair for pair in pairs if name in pair), pairs[0])

    def _means(self, model: Any, sides: Sequence[Sequence[Example]]) -> dict[str, Means]:
        """Mean states of unwatched and of watched scenarios, by site."""
        pad_token = self.tokenizer.pad_token_id
        unwatched, watched = (
            text_states(model, side, self.sites, pad_token, self.data.eval_batch_size, "mean") for side in sides
        )
        return {site.name: Means(unwatched[site.name].mean(0), watched[site.name].mean(0)) for site in self.sites}

    @override
    def result(self) -> UnmaskResult:
        scores = self.scores["test"]
        damage = scores.compute_damage(scores.compute_cells())
        before = {name: scores.items(name)[0] for name in self.behaviours}
        questions = self.scores.get(QUESTIONS)
        talk = {} if questions is None else {label: questions.items(label)[0] for label in (*before, *self._asked)}
        turns = [
            Turns(*vector, scores.items(label)[0], damage[label], talk.get(label))
            for label, vector in self._asked.items()
        ]
        told: dict[tuple[str, Told], list[Items]] = {}
        for test, (kind, _) in self.data.told.items():
            for name in self.behaviours:
                told.setdefault((name, kind), []).append(self.scores[test].items(name)[0])
        truth = self.scores.get(UNWATCHED)
        unwatched = {} if truth is None else {name: truth.items(name)[0] for name in self.behaviours}
        aligned = [name for name, behaviour in self.behaviours.items() if behaviour == "aligned"]
        honest = {
            faker: [twin, *(name for name in aligned if name != twin)]
            for faker, twin in self.twins.items()
            if twin is not None
        }
        own = {name: talk[name] for name in before if talk}
        sizes = self._contrast, self.draws
        return judged(before, turns, told, unwatched, own, honest, *sizes, self.positions, self.seconds)

    @override
    def write(self, result: UnmaskResult) -> None:
        write_unmask(self.folder, result)

    @override
    def show(self, result: UnmaskResult) -> None:
        print_tables(tables(result).values())

    @override
    def scalars(self, result: UnmaskResult) -> Mapping[str, float]:
        return scalars(result)

    @override
    def figures(self, result: UnmaskResult) -> Mapping[str, Figure]:
        return {"unmask/shown": unmask_figure(result)}
