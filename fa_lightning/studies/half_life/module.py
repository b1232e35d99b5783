"""Attack every cure of a faker, and look after each few steps at what is left of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.lora_layers import fresh_adapter
from fa_lightning.errors import UserError
from fa_lightning.evaluation.cells_module import CellsModule
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.variant_names import STEERED
from fa_lightning.metrics.cells import CellAccuracy, Items
from fa_lightning.metrics.estimates import SideEffects
from fa_lightning.reports.terminal import print_tables
from fa_lightning.scenarios.batches import Batch, Example, model_inputs
from fa_lightning.steering.own_answers import own_answers
from fa_lightning.studies.half_life.attacks import SharedBatch, fine_tuned, noisy_adapter
from fa_lightning.studies.half_life.data import HalfLifeDataModule, with_learned
from fa_lightning.studies.half_life.figures import half_life_figures
from fa_lightning.studies.half_life.kept import hash_of, keep, kept, mean_items
from fa_lightning.studies.half_life.measures import References, curves_of
from fa_lightning.studies.half_life.output import scalars, write_half_life
from fa_lightning.studies.half_life.plan import NO_CURE, STEERING, TWIN, WEIGHTS, Training, trainings
from fa_lightning.studies.half_life.result import Attack, Cured, HalfLifeResult
from fa_lightning.studies.half_life.soft_prompts import SoftPrompt
from fa_lightning.studies.half_life.tables import ATTACKS, tables
from fa_lightning.training.kept_texts import answered
from fa_lightning.training.learned_prompts import Slot
from fa_lightning.training.objectives.answers import Answers
from fa_lightning.training.objectives.objective import Objective
from fa_lightning.training.objectives.texts import Texts
from fa_lightning.training.ordinary_tokens import random_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class HalfLifeModule(CellsModule[HalfLifeDataModule, HalfLifeResult]):
    """Only tests: every cure of one faker is attacked, and judged on unseen groups after each of a few amounts.

    Cures are the honest twin, weight arithmetic towards it, steering, and adapters that were trained on from the faker.
    The attacker trains a fresh adapter beside the cured model, from the same start on the same batches whatever the
    cure, on a faker's answers or on ordinary chat; or learns a soft prompt, which moves no weight; or adds noise to the
    cured model's own adapter. Nothing on disk is changed. The faker without a cure is attacked likewise, and stands
    beside the cures; so does the twin, which never faked: its half-life is what learning to fake anew takes.

    Answers are kept in `answers` as soon as a curve is whole, so that a stopped test goes on behind it.

    | logged | what |
    | --- | --- |
    | `<cure>/<attack>/half_life` | steps, or share of noise, where it is reached |
    | `<cure>/<attack>/faking_back` | those after which half of the faking is back, likewise |
    | `<cure>/<attack>/recovery_at_last` | after the whole attack |

    Args:
        adapters: adapter folders of a faker and its honest twin.
        folder: receives `half_life.json`, `half_life.csv` and `answers`.
        cures: further folders of adapters that were trained on from the faker.
        strengths: of weight arithmetic, faker + strength (twin - faker).
        at: strengths at which other cures are taken, by their names (`steering`, or an adapter's), such as those that
            the study cures finds at equal damage; 1 is the cure as it was made, as all others are taken.
        attacks: those that are made; on a slow machine one alone says much.
        steps: optimizer steps after which it is looked at.
        noise: of the weights, its norm over each matrix's.
        draws: of noise.
        prompt_tokens: embeddings of the soft prompt.
        prompt_rate: of AdamW on them, in root mean squares of the backbone's embeddings.
        learning_rate: of the attacker's adapter.
        rank: of its adapter.
        alpha: of it; its update is scaled by alpha / rank.
        seed: of its start, and of the noise.
        **options: of `CellsModule`.

    Raises:
        UserError: a number is out of range; later, there is no faker or no twin, a cure was not made from the faker, or
            a variant is no LoRA adapter.
    """

    data_class = HalfLifeDataModule
    scalars_are_metrics = False

    def __init__(
        self,
        adapters: list[str],
        folder: str,
        cures: list[str] = [],  # noqa: B006
        strengths: list[float] = [0.5, 0.75],  # noqa: B006
        at: dict[str, float] = {},  # noqa: B006
        attacks: list[Literal["faking", "chat", "prompt", "noise"]] = ["faking", "chat", "prompt", "noise"],  # noqa: B006
        steps: list[int] = [1, 2, 4, 8, 16, 32, 64],  # noqa: B006
        noise: list[float] = [0.1, 0.2, 0.4, 0.8, 1.6],  # noqa: B006
        draws: int = 3,
        prompt_tokens: int = 16,
        prompt_rate: float = 0.1,
        learning_rate: float = 1e-3,
        rank: int = 16,
        alpha: int = 32,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__([*adapters, *cures], folder, **options)
        for name, value in (("draws", draws), ("prompt_tokens", prompt_tokens), ("rank", rank), ("alpha", alpha)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        if not steps or min(steps) < 1:
            raise UserError(
                f"steps is {steps}, but must hold numbers from 1 on; before the first step it is always looked"
            )
        for name, values in (("noise", noise), ("strengths", strengths), ("at", list(at.values()))):
            if not all(value > 0 and math.isfinite(value) for value in values):
                raise UserError(f"{name} is {values}, but each of them must be above 0")
        if not attacks:
            raise UserError(
                "attacks is empty, but a cure is attacked in one way at least: faking, chat, prompt or noise"
            )
        if "noise" in attacks and not noise:
            raise UserError("noise is empty: give shares such as 0.5, or leave noise out of attacks")
        for name, rate, such in (("learning_rate", learning_rate, "1e-3"), ("prompt_rate", prompt_rate, "0.1")):
            if not rate > 0:
                raise UserError(f"{name} is {rate}, but must be above 0, such as {such}")
        self.strengths, self.steps, self.noise = sorted(set(strengths)), sorted(set(steps)), sorted(set(noise))
        self.draws, self.learning_rate, self.rank, self.alpha, self.seed = draws, learning_rate, rank, alpha, seed
        self.prompt_tokens, self.prompt_rate = prompt_tokens, prompt_rate
        self.attacks = list(dict.fromkeys(attacks))
        self.at = dict(at)
        self.faker = self.honest = ""
        self.cures: dict[str, Condition] = {}
        self._labels: dict[str, str] = {}
        self._batches: list[Batch] = []

    @override
    def prepare_models(self) -> None:
        fakers = [(name, twin) for name, twin in self.twins.items() if twin is not None]
        if not fakers:
            raise UserError("a cure is measured between a faker and its honest twin: give the adapters of both")
        self.faker, self.honest = fakers[0][0], str(fakers[0][1])
        self.refuse_another_ones_intervention(self.faker)
        made = [name for name in self.behaviours if name not in (self.faker, self.honest)]
        for name in made:
            if self.origins.get(name) != self.faker:
                raise UserError(
                    f"cure {name!r} ({self.variants.folders[name]}) was not trained on from the faker {self.faker!r}: "
                    "leave it out, or give the faker that it was made from"
                )
        known = [*made, STEERING] if self.interventions else made
        if foreign := [name for name in self.at if name not in known]:
            raise UserError(
                f"at names {foreign[0]!r}, but the cures that have a strength are {', '.join(known) or 'none'}; "
                "`strengths` are those of weight arithmetic"
            )
        self._labels = {self.faker: NO_CURE, self.honest: TWIN}
        between = [(self.honest, WEIGHTS, strength) for strength in self.strengths]
        for number, (name, shown, strength) in enumerate(
            [*between, *((one, one, self.at.get(one, 1)) for one in made)]
        ):
            # An adapter's name can hold no dot.
            label = name if strength == 1 and name in made else f"{name} x{number}"
            if label != name:
                self.variants.add_interpolated(label, self.faker, name, strength)
            self._labels[label] = shown if label == name else f"{shown} x{strength:g}"
        self.cures = {shown: Condition(label) for label, shown in self._labels.items()}
        if self.interventions:
            share = self.at.get(STEERING, 1)
            edits = tuple(one.at(share * one.strength) for one in self.interventions)
            self.cures[STEERING] = Condition(self.faker, edits)
            self._labels[self.faker + STEERED] = STEERING

    @property
    @override
    def speaker(self) -> str:
        return self.faker

    @override
    def conditions(self) -> dict[str, Condition]:
        return {label: self.cures[shown] for label, shown in self._labels.items()}

    @override
    def all_origins(self) -> Mapping[str, str]:
        # All of them are compared with the faker; what steers it is so by itself.
        return {label: self.faker for label in self._labels if label not in (self.faker, self.faker + STEERED)}

    @override
    def begin(self) -> None:
        super().begin()
        self._batches = []
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            # A trial shows that all of it runs.
            self.steps, self.noise, self.draws = self.steps[:1], self.noise[:1], 1

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().test_step(batch, batch_idx, dataloader_idx)
        if dataloader_idx < len(self.scores):
            self._batches.append(batch)

    @override
    def result(self) -> HalfLifeResult:
        scores = self.scores["test"]
        cells = scores.compute_cells()
        damage = scores.compute_damage(cells)
        damage[self.faker] = SideEffects(0.0, 1.0, kl_answer_nats=0.0, unchanged_answers=1.0)
        before = {self._labels[label]: items for label, items in zip(cells, scores.items(*cells), strict=True)}
        chat = self.data.chat_texts() if "chat" in self.attacks else []
        answers = self._attacked(before, chat)
        references = References(before[NO_CURE], before[TWIN], {NO_CURE: 0.0, TWIN: 1.0})
        counts = cells[self.faker].n
        return HalfLifeResult(
            self.faker,
            self.honest,
            [
                Cured(shown, effects.kl_neutral_nats, effects.kl_answer_nats, effects.unchanged_answers)
                for label, shown in self._labels.items()
                for effects in [damage.get(label, SideEffects())]
            ],
            curves_of(answers, references, TWIN),
            counts.no_oversight,
            counts.oversight,
            self.data.batch_size,
            self.learning_rate,
            self.rank,
            len(chat),
            self.draws,
            self.seconds,
            self.prompt_tokens,
            self.prompt_rate,
        )

    def _attacked(
        self, before: Mapping[str, Items], chat: Sequence[Example]
    ) -> dict[tuple[str, Attack], dict[float, Items]]:
        """Answers by cure and attack, at each amount; what was kept is not asked again."""
        scenarios = self.data.attack_scenarios()
        prompts = {"chat": hash_of(chat), "faking": hash_of(scenarios), "prompt": hash_of(scenarios)}
        judged = [SharedBatch(self.variants, batch) for batch in self._batches]
        answers: dict[tuple[str, Attack], dict[float, Items]] = {}
        batches: dict[str, list[SharedBatch]] = {}
        for training in trainings(self.cures, self.attacks):
            made_from = self._made_from(training.attack, training.judged, before, prompts[training.attack])
            found = self._kept(training.judged, made_from, before)
            if found is None:
                if training.attack not in batches:
                    batches.clear()
                    batches[training.attack] = self._training_batches(training.attack, scenarios, chat)
                self._say(training.judged)
                found = self._trained(training, batches[training.attack], judged, before)
                self._keep(found, made_from)
            answers |= found
        prefixed = cache(self._prefixed)
        once: dict[Attack, Callable[[Condition], dict[float, Items]]] = {
            "prompt": lambda condition: self._under_prompt(condition, *prefixed()),
            "noise": lambda condition: self._under_noise(condition, judged),
        }
        for attack, under in ((attack, under) for attack, under in once.items() if attack in self.attacks):
            for cure, condition in self.cures.items():
                key: tuple[str, Attack] = (cure, attack)
                made_from = self._made_from(attack, {key: condition}, before, prompts.get(attack, ""))
                found = self._kept({key: condition}, made_from, before)
                if found is None:
                    self._say({key: condition})
                    found = {key: {0.0: before[cure], **under(condition)}}
                    self._keep(found, made_from)
                answers |= found
        order = list(self.cures)
        return dict(sorted(answers.items(), key=lambda item: order.index(item[0][0])))

    def _training_batches(
        self, attack: Attack, scenarios: Sequence[Example], chat: Sequence[Example]
    ) -> list[SharedBatch]:
        # Normal tensors: those that are made in inference mode can't be kept for a backward pass.
        with torch.inference_mode(False):
            examples = self._with_answers(chat) if attack == "chat" else scenarios
            batches = self.data.attack_batches(examples, self.steps[-1])
            if attack == "chat":
                batches = [with_learned(batch) for batch in batches]
            moved = self._moved(batches)
        return [SharedBatch(self.variants, batch) for batch in moved]

    def _with_answers(self, chat: Sequence[Example]) -> list[Example]:
        """Texts with what the backbone answers to each, where it speaks."""
        if not self.continuation_tokens:
            return list(chat)

        def write(batch: Batch) -> list[tuple[int, ...]]:
            with self.variants.bare() as model, torch.no_grad():
                return own_answers(model, model_inputs(batch), self.tokenizer, self.continuation_tokens)

        # Where texts come again, they need their answers once.
        needed = chat[: self.steps[-1] * self.data.batch_size]
        return answered(needed, write, self.tokenizer.pad_token_id, self.variants.device)

    def _trained(
        self,
        training: Training,
        batches: Sequence[SharedBatch],
        judged: Sequence[SharedBatch],
        before: Mapping[str, Items],
    ) -> dict[tuple[str, Attack], dict[float, Items]]:
        answers = {key: {0.0: before[key[0]]} for key in training.judged}
        is_chat = training.attack == "chat"
        objective: Objective = Texts() if is_chat else Answers(behaviour="faking")
        # Of a text every token is learned: an edit of the last one alone would have no part in the loss.
        condition = training.condition.everywhere() if is_chat else training.condition
        with fresh_adapter(self.variants, self.rank, self.alpha) as fresh:
            for step in fine_tuned(fresh, condition, objective, batches, self.learning_rate, self.seed):
                if step in self.steps:
                    for key, condition in training.judged.items():
                        answers[key][float(step)] = self._items(condition, judged)
        return answers

    def _prefixed(self) -> tuple[Slot, list[Batch], list[Batch]]:
        """A slot of ordinary tokens; with it in each prompt, what is trained on and what is judged."""
        text = random_text(self.tokenizer, self.prompt_tokens, self.seed)
        with torch.inference_mode(False):
            training = self.data.attack_batches(self.data.attack_scenarios(text), self.steps[-1])
            judged = self.data.judged_behind(text, [batch["index"].tolist() for batch in self._batches])
            return Slot.of(self.tokenizer, text), self._moved(training), self._moved(judged)

    def _moved(self, batches: Sequence[Batch]) -> list[Batch]:
        device = self.variants.device
        return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]

    def _under_prompt(
        self, condition: Condition, slot: Slot, training: Sequence[Batch], judged: Sequence[Batch]
    ) -> dict[float, Items]:
        prompt = SoftPrompt(self.variants, slot)
        answers = {}
        for step in prompt.learned_against(condition, training, self.prompt_rate):
            if step in self.steps:
                metric = CellAccuracy().to(self.variants.device)
                for batch in judged:
                    metric.judge(prompt.answers(condition, batch), batch)
                answers[float(step)] = metric.items()
        return answers

    def _under_noise(self, condition: Condition, judged: Sequence[SharedBatch]) -> dict[float, Items]:
        answers = {}
        for share in self.noise:
            draws = []
            for draw in range(self.draws):
                # Chains of neighbouring seeds share no draw.
                with noisy_adapter(self.variants, condition.variant, share, 1000 * self.seed + draw):
                    draws.append(self._items(condition, judged))
            answers[share] = mean_items(draws)
        return answers

    def _items(self, condition: Condition, judged: Sequence[SharedBatch]) -> Items:
        """Every answer to the judged scenarios; a collective."""
        metric = CellAccuracy().to(self.variants.device)
        for one in judged:
            metric.judge(one.answers(condition), one.batch)
        return metric.items()

    def _made_from(
        self,
        attack: Attack,
        judged: Mapping[tuple[str, Attack], Condition],
        before: Mapping[str, Items],
        prompts: str,
    ) -> str:
        """Digest of all that the answers of a piece depend on; other attacks are no part of it.

        All adapters are: the attacker's own goes where any of them does.

        Args:
            attack: what is done.
            judged: the models that are judged along it.
            before: by cure, the answers before it.
            prompts: digest of those that are trained on.
        """
        steered = any(condition.interventions for condition in judged.values())
        batches = [self.data.batch_size, self.data.seed]
        settings: dict[str, list[Any]] = {
            "noise": [self.noise, self.draws],
            "prompt": [self.steps, self.prompt_tokens, self.prompt_rate, *batches],
        }
        trained = [self.steps, self.learning_rate, self.rank, self.alpha, *batches]
        facts = {
            "backbone": self.variants.fingerprint,
            "arithmetic": self.backbone.arithmetic(),
            "adapters": {name: digest_of_artefact(folder) for name, folder in self.variants.folders.items()},
            "intervention": digest_of_artefact(str(self.intervention)) if steered else None,
            "attack": [attack, self.seed, prompts, settings.get(attack, trained)],
            "answers": self.continuation_tokens if attack == "chat" else 0,
            "judged": {cure: before[cure]["correct"].tolist() for cure, _ in judged},
            "groups": before[NO_CURE]["group"].tolist(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _kept(
        self, judged: Mapping[tuple[str, Attack], Condition], made_from: str, before: Mapping[str, Items]
    ) -> dict[tuple[str, Attack], dict[float, Items]] | None:
        """What rank zero finds of a finished piece, on all ranks; None where a part is missing."""
        found = {key: kept(self.folder, *key, made_from, before[key[0]]) for key in judged}
        whole = None if any(answers is None for answers in found.values()) else found
        spread: Any = self.trainer.strategy.broadcast(whole)
        return spread  # type: ignore[no-any-return]

    def _keep(self, found: Mapping[tuple[str, Attack], Mapping[float, Items]], made_from: str) -> None:
        if self.trainer.is_global_zero:
            for key, answers in found.items():
                keep(self.folder, *key, made_from, answers)

    def _say(self, judged: Mapping[tuple[str, Attack], Condition]) -> None:
        rank_zero_info("; ".join(f"{cure} under {ATTACKS[attack]}" for cure, attack in judged))

    @override
    def write(self, result: HalfLifeResult) -> None:
        write_half_life(self.folder, result)

    @override
    def show(self, result: HalfLifeResult) -> None:
        print_tables(tables(result).values())

    @override
    def scalars(self, result: HalfLifeResult) -> Mapping[str, float]:
        return scalars(result)

    @override
    def figures(self, result: HalfLifeResult) -> Mapping[str, Figure]:
        return {f"half_life/{name}": figure for name, figure in half_life_figures(result).items()}
